"""The section `data` of a run file: the files, their columns and labels, and how they are written."""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    with_config,
)
from pydantic_core import PydanticCustomError

from bertnli.common.errors import InputError
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from bertnli.data.labels import check_doubled
from bertnli.run.section import Positive, Section, Text

with_config(ConfigDict(extra="forbid"))(Columns)  # unknown keys are refused in every section


class Holdout(Section):
    """Rows kept out of training for evaluation. No premise is in both parts."""

    holdout: Positive


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


class ColumnsApart(Section):
    """Column names of the training file and of the evaluation file."""

    train: Columns = Columns()
    eval: Columns = Columns()


class LabelNamesApart(Section):
    """Label names of the training file and of the evaluation file."""

    train: LabelNames = Field(default_factory=dict)
    eval: LabelNames = Field(default_factory=dict)


def _columns_form(given: Any) -> str:
    """Which of two forms the value has: one for both files, or apart: one under `train` and another under `eval`."""
    names = given.keys() if isinstance(given, dict) else ()
    return "apart" if isinstance(given, ColumnsApart) or "train" in names or "eval" in names else "together"


def _label_names_form(given: Any) -> str:
    """As `_columns_form`. A label may be called `train`, but its meaning is text."""
    maps = isinstance(given, dict) and any(isinstance(given.get(key), dict) for key in ("train", "eval"))
    return "apart" if isinstance(given, LabelNamesApart) or maps else "together"


def _not_mixed(given: Any) -> Any:
    apart = isinstance(given, dict) and any(isinstance(given.get(key), dict) for key in ("train", "eval"))
    if apart and (others := given.keys() - {"train", "eval"}):
        reason = f"put {', '.join(map(repr, sorted(map(str, others))))} under train: or eval:, or both"
        raise PydanticCustomError("form", "{reason}", {"reason": reason})
    return given


File = Literal["train", "eval"]
_DIALECT = ("format", "delimiter", "quoting", "header")  # fields of Dialect


class Data(Section):
    train: Text
    """A fetched name, or a path: .jsonl .tsv .csv .parquet .json .arrow, .gz or .zst of the text ones, a folder of
    `save_to_disk`, SNLI's own .txt and .zip."""
    eval: Text | Holdout | None = None
    """Rows evaluated during training: a name or path, `{holdout: N}` rows of train, or nothing."""
    columns: Annotated[
        Annotated[Columns, Tag("together")] | Annotated[ColumnsApart, Tag("apart")],
        Discriminator(_columns_form),
        BeforeValidator(_not_mixed),
    ] = Columns()
    """Names of the columns: `{premise: …, hypothesis: …, label: …}`; default: they are found by their usual names. If
    the evaluation file has others than the training file: `{train: {hypothesis: claim}, eval: {label: verdict}}`."""
    label_names: Annotated[
        Annotated[LabelNames, Tag("together")] | Annotated[LabelNamesApart, Tag("apart")],
        Discriminator(_label_names_form),
        BeforeValidator(_not_mixed),
    ] = Field(default_factory=dict)
    """What label cells mean, such as `{0: entailment, 1: neutral, 2: contradiction}`; `-` stands for no gold label. If
    the files differ: `{train: {yes: entailment, no: contradiction}, eval: {0: entailment, 1: contradiction}}`."""
    format: str | dict[File, str] | None = None
    """The files' format (tsv, csv, jsonl, parquet, arrow), if it is not the one in their names. This and the next
    three keys are for paths, not for fetched names; if the files differ: `{train: …, eval: …}`."""
    delimiter: str | dict[File, str] | None = None
    """What is between the cells of a text table: one character, or tab, comma, semicolon, pipe. Default: found."""
    quoting: str | dict[File, str] | None = None
    """csv: double quotes may enclose a cell; none: a quote is a character like any other. Default: found."""
    header: bool | dict[File, bool] = True
    """Whether a text table begins with the names of its columns. Without them, columns are named 1, 2, …."""
    skip_bad_rows: bool = False
    """Skip rows that cannot be read and print how many, instead of refusing the file. A row with a label that the model
    does not have is not one of them."""
    max_train_pairs: Positive | None = None
    """Train on this many pairs, drawn by the seed."""
    hypothesis_only: bool | None = None
    """Train a baseline that sees no premise: all it learns is annotation artefacts (Poliak et al. 2018). Default: what
    the starting model was trained with (true only if that was such a baseline)."""

    def columns_of(self, file: File) -> Columns:
        return getattr(self.columns, file) if isinstance(self.columns, ColumnsApart) else self.columns

    def label_names_of(self, file: File) -> dict[str, str]:
        return getattr(self.label_names, file) if isinstance(self.label_names, LabelNamesApart) else self.label_names

    def dialect_of(self, file: File) -> Dialect:
        """How a file is written, as far as these keys say it."""
        told: dict[str, Any] = {name: getattr(self, name) for name in _DIALECT}
        of_file = {name: given.get(file) if isinstance(given, dict) else given for name, given in told.items()}
        return Dialect(**{name: given for name, given in of_file.items() if given is not None})

    @field_validator(*_DIALECT, mode="before")
    @classmethod
    def _possible(cls, given: Any, about: ValidationInfo) -> Any:
        name = about.field_name or ""
        apart = given if isinstance(given, dict) else {"train": given}
        if not apart or apart.keys() - {"train", "eval"}:
            raise PydanticCustomError("form", "expected one value, or one under train: and another under eval:")
        for value in apart.values():
            admitted = bool if name == "header" else (str, NoneType)
            if not isinstance(value, admitted):
                expected = "true or false" if name == "header" else "text"
                raise PydanticCustomError("form", "expected {expected}", {"expected": expected})
            try:
                Dialect(**{name: value})  # type: ignore[arg-type]
            except InputError as error:
                raise PydanticCustomError("dialect", "{reason}", {"reason": str(error)}) from None
        return given
