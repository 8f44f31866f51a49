"""How a text table is written: between its cells, around them, and in its first line."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bertnli.common.errors import InputError
from bertnli.data.formats import format_of
from bertnli.data.run_keys import in_run_file, run_key

QUOTING = ("csv", "none")
_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """From the user: None means "as the file shows it" (sniffing.py). As found, and in USUAL: nothing is None.

    format: in place of the one in the file's name. delimiter: the character between two cells, or its name (tab, comma,
    semicolon, pipe). quoting: `csv`, cells may be in double quotes, which are no part of them (RFC 4180); `none`, a
    quote is a character like any other. header: whether the first record has the names of the columns; else they are
    1, 2, ….

    Raises InputError for a format, delimiter or quoting that cannot be.
    """

    format: str | None = None
    delimiter: str | None = None
    quoting: str | None = None
    header: bool = True

    def __post_init__(self) -> None:
        if self.format is not None:
            format_of("", self.format)
        if self.delimiter is not None:
            one = _NAMES.get(self.delimiter.lower(), self.delimiter)
            if len(one) != 1 or one in '"\r\n\0':
                raise InputError(
                    f"--delimiter {in_run_file('data.delimiter')}",
                    found=repr(self.delimiter),
                    expected="one character, or tab, comma, semicolon, pipe",
                )
            object.__setattr__(self, "delimiter", one)
        if self.quoting is not None and self.quoting not in QUOTING:
            raise InputError(
                f"--quoting {in_run_file('data.quoting')}", found=repr(self.quoting), expected=" or ".join(QUOTING)
            )

    @property
    def quoted(self) -> bool:
        return self.quoting == "csv"

    def is_like(self, other: Dialect) -> bool:
        """Whether records are written in the same way. Headers and the names of formats do not matter."""
        return replace(self, format=None, header=True) == replace(other, format=None, header=True)

    def __str__(self) -> str:
        return f"{shown(self.delimiter or '')}, quoting {self.quoting}{'' if self.header else ', no header'}"


# SNLI's and GLUE's own files have bare quotes in TSV.
USUAL = {"tsv": Dialect(delimiter="\t", quoting="none"), "csv": Dialect(delimiter=",", quoting="csv")}


def usual(name: str) -> Dialect | None:
    """The dialect that a file's name says; None for a format that is not a text table."""
    return USUAL.get(format_of(name).kind)


def shown(delimiter: str) -> str:
    """A delimiter for a message, as the option takes it."""
    return "tab" if delimiter == "\t" else f"'{delimiter}'"


def option(name: str, value: str) -> str:
    """An option for a message, as the command and as a run file take it."""
    as_option = "--no-header" if name == "header" else f"--{name} {value}"
    return f"{as_option} (in a run file: {run_key(f'data.{name}')}: {value})"
