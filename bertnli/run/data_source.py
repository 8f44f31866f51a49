"""One data set of a run file's `data.train` or `data.eval`: a name or path, and how the set is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator, with_config
from pydantic_core import PydanticCustomError

from bertnli.common.errors import InputError
from bertnli.common.urls import is_url
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from bertnli.data.labels import check_doubled
from bertnli.run.section import Positive, Section, Text

with_config(ConfigDict(extra="forbid"))(Columns)  # unknown keys are refused in every section

DIALECT = ("format", "delimiter", "quoting", "header")  # fields of Dialect


def _as_text(names: Any) -> Any:
    """Label cells are text. A run file's are so already (names_as_text.py); a dict from Python may have numbers. Raises
    for the same label twice."""
    if not isinstance(names, dict):
        return names
    if None in names:
        raise PydanticCustomError("label", "null is not a label; put it in quotes if you mean the text")
    try:
        check_doubled(map(str, names), "label names")
    except InputError as error:
        raise PydanticCustomError("label", "{reason}", {"reason": str(error)}) from None
    return {str(cell): label for cell, label in names.items()}


LabelNames = Annotated[dict[str, str], BeforeValidator(_as_text)]


def check_dialect(name: str, value: Any) -> None:
    """Raise for a value that the field `name` of Dialect cannot have."""
    admitted = (bool, NoneType) if name == "header" else (str, NoneType)
    if not isinstance(value, admitted):
        expected = "true or false" if name == "header" else "text"
        raise PydanticCustomError("form", "expected {expected}", {"expected": expected})
    if value is not None:
        try:
            Dialect(**{name: value})  # type: ignore[arg-type]
        except InputError as error:
            raise PydanticCustomError("dialect", "{reason}", {"reason": str(error)}) from None


class DataSet(Section):
    """A data set with keys of its own; those that it does not give are the ones of `data`."""

    path: Text | None = None
    name: Text | None = None
    """A path, or a fetched name: one of the two."""
    columns: Columns | None = None
    label_names: LabelNames | None = None
    """What this set's label cells mean, in the model's labels: a set of two classes has no place in a model of three
    before this says which of the three its labels are."""
    format: str | None = None
    delimiter: str | None = None
    quoting: str | None = None
    header: bool | None = None

    @field_validator(*DIALECT, mode="before")
    @classmethod
    def _possible(cls, given: Any, about: ValidationInfo) -> Any:
        check_dialect(about.field_name or "", given)
        return given

    @model_validator(mode="after")
    def _one_of_two(self) -> DataSet:
        if (self.path is None) == (self.name is None):
            raise PydanticCustomError("form", "expected path: or name:, one of the two")
        told = [key for key in DIALECT if getattr(self, key) is not None]
        if self.name is not None and told:  # its own format is known
            reason = f"{told[0]} is for files, and a set with name: is read as its own format says; remove it, or give"
            raise PydanticCustomError("form", "{reason} path:", {"reason": reason})
        return self


class TrainingSet(DataSet):
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """An epoch has so many times this set's pairs: 2 each pair twice, 0.5 half of them, drawn anew in each epoch."""
    max_pairs: Positive | None = None
    """Use this many of its pairs, drawn by the seed."""


@dataclass(frozen=True)
class Source:
    """A data set as it is to be read, with the keys of `data` that it does not give itself.

    key: in the run file, such as `data.train` or, in a list, `data.train.1`. name: as the user wrote it. title: a short
    name that no other set of the same list has (`titled`). of: `path` or `name` if the user said which of these it is.
    """

    key: str
    name: str
    columns: Columns
    label_names: dict[str, str]
    dialect: Dialect
    title: str = ""
    of: Literal["path", "name"] | None = None
    weight: float = 1.0
    max_pairs: int | None = None

    @property
    def section(self) -> str:
        """Of the run file, with this set's own keys such as `columns`: `data` for a text that stands alone."""
        return "data" if self.of is None and self.key in ("data.train", "data.eval") else self.key

    @property
    def reading(self) -> tuple[str, Columns, dict[str, str], Dialect]:
        """What two sources have in common that give the same pairs."""
        file = self.name if is_url(self.name) else os.path.normpath(self.name)
        return file, self.columns, self.label_names, self.dialect


def titled(sources: Sequence[Source]) -> tuple[Source, ...]:
    """The data sets of a list, each with its title: the file's name, or if another set has it the whole path. If one
    file is read in several ways, what this one says of it follows, as in `x.tsv (label gold)`, or else a number."""
    short = [PurePath(one.name).name or one.name for one in sources]
    names = [one.name if short.count(name) > 1 else name for one, name in zip(sources, short, strict=True)]
    ways = [_way(one) for one in sources]
    found = []
    for name, way in zip(names, ways, strict=True):
        same = [other for other, named in zip(ways, names, strict=True) if named == name]
        own = [part for part in way if not all(part in other for other in same)]
        found.append(f"{name} ({', '.join(own)})" if own else name)
    numbers = [found[: place + 1].count(title) if found.count(title) > 1 else 0 for place, title in enumerate(found)]
    return tuple(
        replace(one, title=f"{title} ({number})" if number else title)
        for one, title, number in zip(sources, found, numbers, strict=True)
    )


def _way(source: Source) -> list[str]:
    """How a data set is read, in words."""
    said = {**asdict(source.columns), "max_pairs": source.max_pairs}
    return [f"{what} {value}" for what, value in said.items() if value is not None]
