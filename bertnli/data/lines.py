"""The text lines of a file's decompressed bytes.

`Ahead` lets others look at the first bytes before they are read; `Lines` splits them into text lines. Both are streams:
the largest object in memory is one line.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain

from bertnli.data.formats import UnreadableError

RETURN, DOUBLED_RETURN = b"\r", b"\r\r\n"  # line ends of old Macs, and of Windows programs that made CR LF twice
MAX_LINE = 64 << 20  # bytes; a file with a longer line is not a text file, and memory is needed for the model


class Ahead:
    """The blocks of a source, once. Those at its start can be looked at before they are read.

    If the bytes are damaged, UnreadableError is raised when their place is reached by reading.
    """

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._waiting = blocks, deque[bytes]()
        self._seen, self._has_line_end = bytearray(), False
        self._error: UnreadableError | None = None
        self._ended = False

    def look(self, size: int, longest: int = MAX_LINE) -> bytes:
        """The first `size` bytes, or more, with a complete first line; fewer if the source ends or is damaged there.

        longest: a first line of more bytes need not be complete.
        """
        while not self._ended and (len(self._seen) < size or not self._has_line_end) and len(self._seen) <= longest:
            try:
                block = next(self._blocks, b"")
            except UnreadableError as error:
                self._error, block = error, b""
            self._ended = not block
            self._seen += block
            self._has_line_end = self._has_line_end or b"\n" in block or b"\r" in block
            if block:
                self._waiting.append(block)
        if self._error and not self._has_line_end:
            raise self._error
        return bytes(self._seen)

    @property
    def all_seen(self) -> bool:
        """Whether `look` saw all bytes of the source."""
        return self._ended and self._error is None

    def __iter__(self) -> Iterator[bytes]:
        self._seen = bytearray()
        while self._waiting:
            yield self._waiting.popleft()
        if self._error:
            raise self._error
        if not self._ended:
            yield from self._blocks


class Lines:
    """The text lines of UTF-8 blocks, split at line feeds only, without their line ends and the byte-order mark.

    Bytes that are not UTF-8 become surrogate escapes, and `undecodable` is True from the first of them on. A carriage
    return before a line feed belongs to the line end. With `keep_returns` it stays in the line (for quoted cells, in
    which a line may end). `end` ends a line too: RETURN alone, or DOUBLED_RETURN. Raises UnreadableError.
    """

    def __init__(self, blocks: Iterable[bytes], *, keep_returns: bool = False, end: bytes = b"\n"):
        self._blocks, self._keep_returns, self._end = blocks, keep_returns, end
        self.undecodable = False

    def __iter__(self) -> Iterator[str]:
        for data in self.pieces():
            text, undecodable = decoded(data)
            self.undecodable |= undecodable
            yield from split(text, keep_returns=self._keep_returns)

    def pieces(self) -> Iterator[bytes]:
        """The bytes of the lines, some complete ones at a time, for `decoded` and `split`. Raises as iterating does."""
        pieces = self._complete_lines()
        for data in chain([next(pieces, b"").removeprefix(codecs.BOM_UTF8)], pieces):
            if data and self._end == RETURN:
                data = data.replace(b"\r\n", b"\n")
            if data:
                yield data if self._end == b"\n" else data.replace(self._end, b"\n")

    def _complete_lines(self) -> Iterator[bytes]:
        """The blocks' bytes in pieces of complete lines."""
        pending: list[bytes] = []
        length = 0
        for block in self._blocks:
            cut = block.rfind(b"\n") + 1
            if self._end == RETURN:  # the last byte may be the first half of a CR LF
                cut = max(cut, block.rfind(b"\r", 0, -1) + 1)
            if cut:
                pending.append(block[:cut])
                yield b"".join(pending)
                pending, length, block = [], 0, block[cut:]
            pending.append(block)
            length += len(block)
            if length > MAX_LINE:
                raise UnreadableError(f"a line is longer than {MAX_LINE >> 20} MiB")
        if rest := b"".join(pending):
            yield rest


def decoded(data: bytes) -> tuple[str, bool]:
    """Text of UTF-8, and whether some bytes are not UTF-8: those become surrogate escapes."""
    try:
        return data.decode(), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape"), True


def split(text: str, *, keep_returns: bool = False) -> list[str]:
    """The lines of `text`, which are complete ones, without their line ends (see `Lines`)."""
    if not keep_returns:
        text = text.replace("\r\n", "\n")
    if text.endswith("\n"):
        text = text[:-1]
    elif not keep_returns:
        text = text.removesuffix("\r")
    return text.split("\n")


def end_of_line(data: bytes, lines: int) -> int:
    """Where line number `lines` ends, its line feed included, in `data` that has so many."""
    end = 0
    for _ in range(lines):
        end = data.find(b"\n", end) + 1 or len(data)
    return end
