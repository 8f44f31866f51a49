"""Text from elsewhere in a message: names of files and tensors, words of libraries, servers and other hosts.

It must not move a terminal's cursor, look like a line of ours, or fill the screen. All messages of bertnli go through
here: errors (errors.py), progress (progress.py), heartbeats, and what ranks on other hosts say. It shows no password
that a URL has.
"""

from __future__ import annotations

import unicodedata

from bertnli.common.urls import redacted

MOST = 2000
"""Characters of a line, or of one part of an error, that are shown."""

# Control characters, line and paragraph separators, lone surrogates, and those that change the direction of writing.
_ESCAPED = {"Cc", "Zl", "Zp", "Cs", "Cf"}
_JOINERS = "\u200c\u200d"  # of category Cf as well; Persian and emoji need them


def printable(text: str, most: int = MOST) -> str:
    """`text` on one line, with escapes as Python writes them (`\\n`, `\\x1b`), of `most` characters at most.

    Of a longer one the middle is left out: a message's reason is often at its end.
    """
    text = redacted(text)
    if len(text) <= most and text.isprintable():
        return text
    # Of a very long text only what can be shown is looked at.
    begin, end = "".join(map(_escaped, text[:most])), "".join(map(_escaped, text[-most:]))
    if len(text) <= most and len(begin) <= most:
        return begin
    last = most // 3
    return f"{begin[: most - last - 1]}…{end[-last:]}"


def shortened(text: str, most: int) -> str:
    """`text`, or its first `most` characters and `…`; for names and values in the middle of a line."""
    return text if len(text) <= most else text[:most] + "…"


def printable_lines(text: str) -> str:
    """The lines of `text`, each `printable`; for what has lines of its own, such as a traceback."""
    return "\n".join(map(printable, text.splitlines()))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode("ascii")
