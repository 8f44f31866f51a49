"""What the first bytes of a file show: data of another kind than its name, or `--format`, says is refused by name."""

from __future__ import annotations

from typing import NamedTuple

from bertnli.common.encodings import wide_encoding
from bertnli.common.errors import InputError
from bertnli.data import conversions
from bertnli.data.formats import Source

_PAGE = (b"<!doctype", b"<html", b"<?xml")
_SKIPPED_BY_ZSTD = b"\x2a\x4d\x18"  # behind a byte 0x5? before frames that are no data
_ENCRYPTED = b"PARE"
_LENGTH = 512
_NOT_PACKED = ("parquet", "arrow")  # they are not read from inside others


class _Kind(NamedTuple):
    begin: bytes
    name: str
    ending: str = ""  # of the files that bertnli reads
    do: str = ""


_KINDS = [
    _Kind(b"\x1f\x8b", "gzip data", "gz"),
    _Kind(b"\x28\xb5\x2f\xfd", "zstd data", "zst"),
    _Kind(b"PAR1", "a Parquet file", "parquet"),
    _Kind(_ENCRYPTED, "an encrypted Parquet file", do="decrypt it: write it again without encryption"),
    _Kind(b"ARROW1", "an Arrow file", "arrow"),
    _Kind(b"\xff\xff\xff\xff", "an Arrow stream", "arrow"),
    _Kind(b"FEA1", "a Feather file of version 1", do="write it as .parquet"),
    _Kind(
        b"PK\x03\x04",
        "an Excel workbook or a zip archive",
        do="save a sheet as CSV UTF-8; or give its name the ending .zip",
    ),
    _Kind(b"\xd0\xcf\x11\xe0", "an old Excel workbook", do="save the sheet as CSV UTF-8"),
    _Kind(b"BZh", "bzip2 data", do="decompress it"),
    _Kind(b"\xfd7zXZ", "xz data", do="decompress it"),
    _Kind(b"version https://git-lfs", "a pointer of git-lfs", do="get the file itself: git lfs pull"),
]


def check_text(head: bytes, source: Source) -> None:
    """Raise InputError, with what they are, if the first bytes cannot be the UTF-8 text of a table or of JSON lines."""
    if encoding := wide_encoding(head):
        do = f"convert it: {conversions.from_encoding(source, encoding)}"
        raise InputError(f"{source.name}: {encoding} text", expected="UTF-8", do=do)
    if kind := _kind(head):
        inside = f", packed in .{source.format.packing}" if source.format.packing else ""
        raise InputError(
            f"{source.name}: {kind.name}{inside}",
            expected=f"text ({source.format.kind})",
            do=kind.do or _to_unpack(kind, source),
        )


def check_binary(source: Source) -> None:
    """Raise InputError if a file with the name of a Parquet or packed file is of another kind. A pipe is not read."""
    expected = source.format.packing or source.format.kind
    if not source.rereadable or source.member or expected not in {kind.ending for kind in _KINDS}:
        return
    with source.open_file() as file:
        head = file.read(_LENGTH)
    kind = _kind(head)
    name = next(each.name for each in _KINDS if each.ending == expected)
    if kind is None and _is_text(head):
        do = "take that ending from its name" if source.format.packing else "give its name the ending of its format"
        raise InputError(f"{source.name}: text", expected=f"{name} (.{expected})", do=do)
    if kind is not None and kind.ending != expected:
        raise InputError(
            f"{source.name}: {kind.name}", expected=f"{name} (.{expected})", do=kind.do or _to_rename(kind, source)
        )


def _kind(head: bytes) -> _Kind | None:
    if head[:200].lstrip().lower().startswith(_PAGE):
        return _Kind(b"", "an HTML or XML page", do="get the file itself")
    if head[1:4] == _SKIPPED_BY_ZSTD and head[0] >> 4 == 5:
        head = b"\x28\xb5\x2f\xfd"
    return next((kind for kind in _KINDS if head.startswith(kind.begin)), None)


def _is_text(head: bytes) -> bool:
    return min(head, default=0) >= ord("\t")  # no other control characters


def _to_unpack(kind: _Kind, source: Source) -> str:
    """What to do with data of this kind that stands where text should."""
    if source.format.packing:
        return f"unpack it; what is inside needs the ending .{kind.ending}"
    if source.path != "-":
        return f"give its name the ending .{kind.ending}"
    if kind.ending == "parquet":
        return "write it to a file whose name ends in .parquet"
    return f"give --format {source.format.kind}.{kind.ending}"


def _to_rename(kind: _Kind, source: Source) -> str:
    """What to do with a file of this kind whose name says another one."""
    if source.format.packing:
        return f"give its name the ending .{kind.ending} in place of .{source.format.packing}"
    return f"give its name the ending .{kind.ending}" if kind.ending in _NOT_PACKED else "unpack it"
