"""File formats by file name, and decompressed bytes: a `Source` yields those of a file, a zip member or standard input.

lines.py splits them into text lines, json_array.py into the elements of a JSON array.
"""

from __future__ import annotations

import os
import shlex
import stat
import sys
import zipfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from bertnli.common.errors import BertnliError, InputError, first_line
from bertnli.data.gunzip import Gunzip
from bertnli.data.run_keys import in_run_file
from bertnli.data.same_file import SameFile
from bertnli.data.saved_dataset import data_files

BLOCK = 256 << 10  # bytes of one read call

_KINDS = {
    ".tsv": "tsv",
    ".txt": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}
_BINARY = {"parquet": "Parquet", "arrow": "Arrow"}  # kinds that need random access, with their names
_PACKINGS = {".gz": "gz", ".zst": "zst"}
_UNPACKERS = {"gz": "gzip -dc", "zst": "zstd -dc"}
_SHEET, _TABLE, _PACKED = "save the sheet as CSV UTF-8", "write the table as .parquet or .jsonl", "decompress it"
_OTHERS = {  # endings of formats that are not read, and what to do
    **dict.fromkeys((".xlsx", ".xls", ".xlsm", ".ods", ".numbers"), _SHEET),
    **dict.fromkeys((".orc", ".avro", ".pkl", ".pickle", ".npy", ".xml", ".yaml"), _TABLE),
    **dict.fromkeys((".bz2", ".xz", ".7z", ".rar", ".tar", ".tgz"), _PACKED),
}
_EXPECTED = ".tsv, .txt, .csv, .jsonl, .ndjson, .json (also with .gz or .zst), .parquet, .arrow or .feather"


class UnreadableError(Exception):
    """The bytes are damaged, truncated or cannot be read. The text says why; the caller adds the file and row.

    do: what the user should do.
    """

    def __init__(self, text: str, do: str = "get the file again, or fix it"):
        super().__init__(text)
        self.do = do


class Format(NamedTuple):
    kind: str  # tsv, csv, jsonl, parquet or arrow
    packing: str  # "", gz or zst


def format_of(name: str, given: str | None = None) -> Format:
    """The format in a file's name, or in `given` (`--format`: tsv, .jsonl, csv.gz, …) if that is set.

    Raises InputError if it is not a known format.
    """
    kind, packing = _split(name if given is None else "." + given.lstrip("."))
    if kind is None:
        if given is not None:
            raise InputError(
                f"--format {in_run_file('data.format')}",
                found=repr(given),
                expected="tsv, csv, jsonl, parquet or arrow",
            )
        raise InputError(
            f"{name}: unknown format",
            expected=_EXPECTED,
            do=f"rename it, or give its format with --format {in_run_file('data.format')}",
        )
    packing = packing or _split(name)[1]
    if packing and (known := _BINARY.get(kind)):
        raise InputError(
            f"{name}: {known} inside .{packing} cannot be read: {known} has its own compression",
            do=f"decompress the .{packing}",
        )
    return Format(kind, packing)


def says_format(name: str) -> bool:
    """Whether a file's name tells the format, its own or that of the zip member it names; `-` does not. A folder has
    one format."""
    path, fragment = _split_member(name)
    if Path(path).is_dir():
        return True
    if not path.lower().endswith(".zip"):
        return _split(path)[0] is not None
    if not Path(path).exists():
        return True  # the error is raised when it is opened
    try:
        _zip_member(path, fragment, None)
    except InputError:
        return False
    return True


def _split(name: str) -> tuple[str | None, str]:
    path = PurePosixPath(name.lower())
    packing = _PACKINGS.get(path.suffix, "")
    stem = path.stem if packing else path.name
    return _KINDS.get(stem[stem.rfind(".") :]) if "." in stem else None, packing


class Source:
    """The decompressed bytes of one input: a file, a zip member (`archive.zip#member`) or standard input (`-`).

    A folder that `save_to_disk` made (saved_dataset.py) has several `files`, which are read one after another.

    shown: the name for messages, if it is not the path.

    Raises InputError if the file does not exist, is another folder, or is empty where its format has a header, if its
    format is unknown, or if the name fits no member of the archive, or several.
    """

    def __init__(self, path: str | os.PathLike[str], format: str | None = None, shown: str | None = None):
        self.path, self.member = os.fspath(path), ""
        self.name = shown or self.path  # as messages show it
        self.files: list[str] = []  # none for a pipe
        self._same: list[SameFile] = []
        self.notes: list[str] = []  # what the user should know about the bytes read so far
        if self.path == "-":
            if format is None:
                raise InputError("standard input has no file name that tells its format", do="give it with --format")
            self.format, self.rereadable = format_of("", format), False
            with suppress(OSError):  # it may be closed
                if stat.S_ISREG((status := os.fstat(0)).st_mode):
                    self._same = [SameFile("/proc/self/fd/0", self.name, status)]
        else:
            self.path, fragment = _split_member(self.path)
            status = _check_file(self.path)
            is_folder = stat.S_ISDIR(status.st_mode)
            self.rereadable = is_folder or stat.S_ISREG(status.st_mode)
            if self.rereadable:
                self.files = data_files(self.path) if is_folder else [self.path]
                self._same = [SameFile(file, self.name, Path(file).stat()) for file in self.files]
            if self.path.lower().endswith(".zip"):
                self.member = _zip_member(self.path, fragment, format)
                self.name = f"{shown or self.path}#{self.member}"
            if format is None and (do := _OTHERS.get(PurePosixPath(self.path.lower()).suffix)):
                raise InputError(f"{self.name}: a format that is not read", expected=_EXPECTED, do=do)
            self.format = Format("arrow", "") if is_folder else format_of(self.member or self.path, format)
            if self.rereadable and status.st_size == 0 and self.format != Format("jsonl", ""):
                raise empty(self.path)  # every other format has a header
        inner = PurePosixPath((self.member or self.path).lower())
        self.is_any_json = format is None and ".json" in inner.suffixes[-2:]  # an array or lines
        if self.format.kind in _BINARY and (self.member or not self.rereadable):
            what = f"{self.name}: {_BINARY[self.format.kind]} needs random access"
            raise InputError(what, expected="a regular file")

    def blocks(self) -> Iterator[bytes]:
        """The bytes, in blocks of at least one byte. Raises UnreadableError, and RunError as `open_file` does."""
        try:
            with ExitStack() as stack:
                read = self._open(stack)
                while block := read(BLOCK):
                    yield block
        except (MemoryError, BertnliError):
            raise
        except Exception as error:  # decoders raise many types for damaged bytes
            if "too much memory" in str(error):  # zstd --long=31, as zstd itself refuses it
                do = "unpack it first, with: zstd -d --long=31" + (
                    "" if self.path == "-" else f" {shlex.quote(self.path)}"
                )
                raise UnreadableError("its zstd window is longer than 128 MiB", do) from error
            raise UnreadableError(first_line(error)) from error

    def piped(self, command: str, ending: str = "") -> str:
        """A shell command that writes the decompressed bytes through `command` into a new file beside this one, which
        is named like this one with `.new` before the ending, or with another `ending`."""
        if self.path == "-":
            return f"{command} |"
        path, stages = shlex.quote(self.path), []
        if self.member:
            stages.append(f"unzip -p {path} {shlex.quote(self.member)}")
        if self.format.packing:
            stages.append(_UNPACKERS[self.format.packing] + ("" if stages else f" {path}"))
        stages.append(command + ("" if stages else f" < {path}"))
        inner = PurePosixPath(self.member or self.path)
        if self.format.packing and inner.suffix.lower() in _PACKINGS:
            inner = inner.with_suffix("")
        new = PurePosixPath(self.path).with_name(f"{inner.stem}.new{ending or inner.suffix}")
        return f"{' | '.join(stages)} > {shlex.quote(str(new))}"

    def open_file(self) -> BinaryIO:
        """The file, the first of several, the archive for a member, or the pipe. Raises RunError if it is not the file
        that was found."""
        return self._same[0].open() if self._same else Path(self.path).open("rb")

    def open_files(self) -> Generator[BinaryIO, None, None]:
        """The files one after another, each until the next one. Raises as `open_file` does."""
        for same in self._same:
            with same.open() as file:
                yield file

    def check_unchanged(self) -> None:
        """Raise RunError if the file has changed since this object was made. A pipe is not looked at.

        A file on standard input is.
        """
        for same in self._same:
            same.check()

    def _note_rest(self) -> None:
        what = "what follows its gzip data is not gzip data and is left out, as gunzip does"
        self.notes = [f"warning: {self.name}: {what}"]

    def _open(self, stack: ExitStack) -> Callable[[int], bytes]:
        raw: Any
        if self.path == "-":
            # Unbuffered: a thread that waits for input would hold the buffer's lock, and Python aborts if it shuts
            # down at that time.
            raw = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
            os.set_blocking(0, True)  # in non-blocking mode "no data yet" looks like the end of the file
        else:
            raw = stack.enter_context(self.open_file())
            if self.member:
                raw = stack.enter_context(stack.enter_context(zipfile.ZipFile(raw)).open(self.member))
        # read1 returns what is decoded so far, before it reaches damaged bytes; read would lose it
        if self.format.packing == "gz":
            return Gunzip(raw, self._note_rest).read1
        if self.format.packing == "zst":
            import pyarrow

            return stack.enter_context(pyarrow.CompressedInputStream(raw, "zstd")).read
        return getattr(raw, "read1", raw.read)


def empty(name: str) -> InputError:
    """For a file without a byte."""
    return InputError(f"{name}: the file is empty", do="check the program that wrote it")


def _split_member(name: str) -> tuple[str, str]:
    """The path and the member in a name such as `archive.zip#member`; no member if a file has that very name."""
    at = name.lower().find(".zip#")
    return (name, "") if at < 0 or os.path.lexists(name) else (name[: at + 4], name[at + 5 :])


def _check_file(path: str) -> os.stat_result:
    """What the system says of `path`. Only a regular file, unlike a named pipe, can be read more than once."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file", do="give the path of an existing file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise InputError(f"{path!r}: cannot be read ({first_line(error)})", do="make it readable") from None
    return status


def _zip_member(path: str, fragment: str, format: str | None) -> str:
    """The name of the one member of a zip archive that contains `fragment`, which may be "" if it has only one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except Exception as error:  # for a damaged directory zipfile raises many types, not only BadZipFile
        raise InputError(
            f"{path}: not a zip archive, or damaged ({first_line(error)})", do="get the file again"
        ) from None
    readable = []
    for name in dict.fromkeys(names):
        member = PurePosixPath(name)
        if "__MACOSX" in member.parts or member.name.startswith(".") or not name.isprintable():
            continue
        try:
            if format_of(name, format).kind not in _BINARY:
                readable.append(name)
        except InputError:
            continue
    if fragment in readable:
        return fragment
    found = [name for name in readable if fragment in name]
    # SNLI's archive has each split twice, as .txt and as .jsonl.
    stems = {name.rsplit(".", 1)[0] for name in found}
    as_json = [name for name in found if name.lower().endswith(".jsonl")]
    if len(stems) == 1 and len(as_json) == 1:
        return as_json[0]
    if len(found) > 1:  # .json is also the name of what only describes the data
        found = [name for name in found if not name.lower().endswith(".json")] or found
    if len(found) != 1:
        listed = ", ".join(found or readable) or "no file that can be read"
        raise InputError(
            f"{path}: {f'no member is called {fragment!r}' if fragment and not found else 'which member?'}",
            found=listed,
            expected=_EXPECTED if not readable else None,
            do=f"name one, as in {path}#{readable[0]}" if readable else None,
        )
    return found[0]
