"""A JSON array as JSON lines: each element is one line, with the text that it has in the file.

So an element is read, scored and named in messages as a line of JSON lines is: element 1 is row 1. An element that is
not JSON is a bad row in its place, and the next one is read as usual, as long as its brackets and quotes are closed. It
is a stream: the largest object in memory is one element. (ijson would give values, not their text, and so 1e400 and the
digits of a number would be lost.)
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from bertnli.data.formats import UnreadableError
from bertnli.data.lines import MAX_LINE
from bertnli.data.records import parse_jsonl

_BLANK = b" \t\r\n"
_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# A string; an object or a list without others inside; any other sign that divides. A quote alone begins a string that
# is not complete yet.
_TOKEN = re.compile(rb'%s|[{[](?:[^]["{}]++|%s)*+[]}]|[][{},"]' % (_STRING, _STRING), re.DOTALL)
_STRING_OR_BREAK = re.compile(rb"%s|[ \t]*[\r\n][ \t\r\n]*" % _STRING, re.DOTALL)
_BEGIN = re.compile(r"\[\s*([\[{]|$)|\[\s*\]")


def is_array(head: bytes, complete: bool) -> bool:
    """Whether the first bytes of a file are those of an array of rows, and not of lines.

    complete: they are the whole file. A list in a line of its own, with other lines below it, is a line; without them,
    it is an array of whatever it holds.
    """
    text = head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace").lstrip()
    first, line_end, below = text.partition("\n")
    first = first.rstrip()
    if complete and not below.strip():
        return first.startswith("[")
    if _BEGIN.match(first) is None:
        return False
    if not (line_end or complete):
        return True
    return (parse_jsonl(first)[1] or "").startswith("not JSON")


def may_be_array(head: bytes) -> bool:
    """Whether only the bytes behind `head` can tell: it is a list in a line, and nothing below it yet."""
    text = head.removeprefix(codecs.BOM_UTF8).lstrip()
    return text.startswith(b"[") and b"\n" in text and text.rstrip().find(b"\n") < 0


def lines_of_array(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The elements of the array in `blocks`, each as one line of JSON; some complete lines at a time.

    White space around an element is left out; a line end inside of one becomes a blank, or in a string, where JSON does
    not allow it, a tab, which JSON does not allow either. Raises UnreadableError as `blocks` do, and if the array does
    not end, if something follows it, or for an element of more than 64 MiB.
    """
    array, waiting, size = _Array(), list[bytes](), 0
    for block in chain(blocks, [None]):
        if block is not None:
            waiting.append(block)
            size += len(block)
            if size <= len(array.rest):  # otherwise a long element would be looked at again with each block
                continue
        if lines := b"".join(map(_line, array.elements(b"".join(waiting)))):
            yield lines
        if array.fault is not None:
            raise array.fault
        waiting, size = [], 0
    if not array.ended:
        raise UnreadableError("the file ends inside the JSON array", "get the file again: it is not complete")


class _Array:
    """An array whose bytes come in pieces. rest: those of the element that is not complete yet. fault: why what comes
    behind the elements cannot be read."""

    def __init__(self) -> None:
        self.rest, self.ended = b"", False
        self.fault: UnreadableError | None = None
        self._begun = False
        self._seen = self._depth = 0  # bytes of `rest` that were divided into tokens, and the brackets they leave open

    def elements(self, data: bytes) -> list[bytes]:
        """The elements that end in `data`, which follows what was given before."""
        data, found, start, at = self.rest + data, list[bytes](), 0, self._seen
        if not self._begun:
            start = at = data.find(b"[") + 1  # `is_array` has seen it
            self._begun = start > 0
        for match in _TOKEN.finditer(data, at) if self._begun and not self.ended else ():
            token = match[0]
            if token == b'"':
                at = match.start()
                break
            at = match.end()
            if len(token) > 1:
                continue
            if token in b"{[":
                self._depth += 1
            elif self._depth:
                self._depth -= token != b","
            elif token == b"}":
                self.fault = UnreadableError("a } closes nothing in the JSON array")
                break
            else:  # the comma behind an element, or the end
                element = data[start : match.start()].strip(_BLANK)
                start, self.ended = at, token == b"]"
                if element or not self.ended:  # a comma before the end is not taken for a row
                    found.append(element)
                if self.ended:
                    break
        self.rest, self._seen = data[start:], at - start
        if self.ended and self.rest.strip(_BLANK):
            do = "write all rows into one array, or each into a line of its own"
            self.fault = UnreadableError("something follows the JSON array", do)
        if len(self.rest) > MAX_LINE:
            self.fault = UnreadableError(f"an element of the JSON array is longer than {MAX_LINE >> 20} MiB")
        return found


def _line(element: bytes) -> bytes:
    if b"\n" in element or b"\r" in element:
        element = _STRING_OR_BREAK.sub(_without_breaks, element)
    return element + b"\n"


def _without_breaks(match: re.Match[bytes]) -> bytes:
    text = match[0]
    return text.replace(b"\n", b"\t").replace(b"\r", b"\t") if text[:1] == b'"' else b" "
