"""The encoding of text: UTF-8 with or without a byte-order mark is read, and others are named; escapes."""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

_BYTE_ORDER_MARKS = {  # UTF-32's first, because one of them begins like one of UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_ZERO_BYTES = {"-000": "UTF-32LE", "000-": "UTF-32BE", "-0-0": "UTF-16LE", "0-0-": "UTF-16BE"}  # of four


def wide_encoding(head: bytes) -> str | None:
    """The name, as iconv takes it, of the UTF-16 or UTF-32 that text begins in; None for UTF-8 and others."""
    marked = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    zeros = {"".join("-0"[byte == 0] for byte in head[at : at + 4]) for at in range(0, min(len(head) - 3, 32), 4)}
    return marked or (_ZERO_BYTES.get(zeros.pop()) if len(zeros) == 1 else None)


def with_escapes(text: str, encoding: str = "utf-8") -> str:
    """`text` with escapes (`\\udcff`) in place of what the encoding does not have; UTF-8 has no lone surrogates."""
    return text if text.isascii() else text.encode(encoding, "backslashreplace").decode(encoding)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without its byte-order mark.

    Raises OSError, or ValueError, which says what to do, if it is in another encoding.
    """
    return decoded(Path(path).read_bytes(), path)


def decoded(data: bytes, path: str | Path) -> str:
    """The text of the bytes of a file, as `read_text`."""
    if encoding := wide_encoding(data[:64]):
        quoted, new = shlex.quote(str(path)), shlex.quote(f"{path}.new")
        raise ValueError(f"{encoding} text; convert it: iconv -f {encoding} -t UTF-8 < {quoted} > {new}")
    return data.decode("utf-8-sig")
