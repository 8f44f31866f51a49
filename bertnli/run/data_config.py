"""The section `data` of a run file: the files, their columns and labels, and how they are written."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from bertnli.run.data_source import DIALECT, DataSet, LabelNames, Source, TrainingSet, check_dialect, titled
from bertnli.run.section import Positive, Section, Text


class Holdout(Section):
    """Rows kept out of training for evaluation. No premise is in both parts."""

    holdout: Positive


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
    return "<apart>" if isinstance(given, ColumnsApart) or "train" in names or "eval" in names else "<together>"


def _label_names_form(given: Any) -> str:
    """As `_columns_form`. A label may be called `train`, but its meaning is text."""
    maps = isinstance(given, dict) and any(isinstance(given.get(key), dict) for key in ("train", "eval"))
    return "<apart>" if isinstance(given, LabelNamesApart) or maps else "<together>"


def _not_mixed(given: Any) -> Any:
    apart = isinstance(given, dict) and any(isinstance(given.get(key), dict) for key in ("train", "eval"))
    if apart and (others := given.keys() - {"train", "eval"}):
        reason = f"put {', '.join(map(repr, sorted(map(str, others))))} under train: or eval:, or both"
        raise PydanticCustomError("form", "{reason}", {"reason": reason})
    return given


def _form(given: Any) -> str:
    """Which form the value of data.train, data.eval or of one of their lists has."""
    if isinstance(given, (list, tuple)):
        return "<list>"
    if isinstance(given, Holdout) or (isinstance(given, dict) and not given.keys() & DataSet.model_fields.keys()):
        return "<holdout>"
    return "<set>" if isinstance(given, (dict, DataSet)) else "<name>"


def _form_of_set(given: Any) -> str:
    """As `_form`, where rows cannot be held out."""
    return "<set>" if _form(given) == "<holdout>" else _form(given)


def _form_in_list(given: Any) -> str:
    """As `_form_of_set`, inside a list."""
    return "<name>" if _form(given) == "<list>" else _form_of_set(given)


def _not_empty(given: Any) -> Any:
    if not len(given):
        raise PydanticCustomError("form", "expected at least one name or path")
    return given


_Name = Annotated[Text, Tag("<name>")]
_TrainingSet = Annotated[TrainingSet, Tag("<set>")]
_EvaluationSet = Annotated[DataSet, Tag("<set>")]
_TrainingSets = Annotated[
    tuple[Annotated[_Name | _TrainingSet, Discriminator(_form_in_list)], ...],
    BeforeValidator(_not_empty),
    Tag("<list>"),
]
_EvaluationSets = Annotated[
    tuple[Annotated[_Name | _EvaluationSet, Discriminator(_form_in_list)], ...],
    BeforeValidator(_not_empty),
    Tag("<list>"),
]

File = Literal["train", "eval"]


class Data(Section):
    train: Annotated[_Name | _TrainingSet | _TrainingSets, Discriminator(_form_of_set)]
    """A fetched name, or a path: .jsonl .tsv .csv .parquet .json .arrow, .gz or .zst of the text ones, a folder of
    `save_to_disk`, SNLI's own .txt and .zip. Or a list of several, whose pairs are pooled, each of them a name, a path
    or a map with its own keys: `{path: …, columns: …, label_names: …, weight: 0.5, max_pairs: 8000}` (data_source.py,
    docs/data.md)."""
    eval: (
        Annotated[_Name | _EvaluationSet | Annotated[Holdout, Tag("<holdout>")] | _EvaluationSets, Discriminator(_form)]
        | None
    ) = None
    """Rows evaluated during training: a name or path, a list of them as in train, `{holdout: N}` rows of train, or
    nothing. Of several sets the first decides for keep_best and early_stopping."""
    columns: Annotated[
        Annotated[Columns, Tag("<together>")] | Annotated[ColumnsApart, Tag("<apart>")],
        Discriminator(_columns_form),
        BeforeValidator(_not_mixed),
    ] = Columns()
    """Names of the columns: `{premise: …, hypothesis: …, label: …}`; default: they are found by their usual names. If
    the evaluation file has others than the training file: `{train: {hypothesis: claim}, eval: {label: verdict}}`."""
    label_names: Annotated[
        Annotated[LabelNames, Tag("<together>")] | Annotated[LabelNamesApart, Tag("<apart>")],
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

    def sources(self, file: File) -> tuple[Source, ...]:
        """The data sets of train or of eval; () if it is not given, or is a part of the other."""
        given = getattr(self, file)
        if given is None or isinstance(given, Holdout):
            return ()
        sets = given if isinstance(given, tuple) else (given,)
        return titled(
            [
                self._source(file, f"data.{file}.{number}" if isinstance(given, tuple) else f"data.{file}", one)
                for number, one in enumerate(sets)
            ]
        )

    def _source(self, file: File, key: str, given: str | DataSet) -> Source:
        """The source of one data set; `key` is its key in the run file."""
        columns, label_names, dialect = self.columns_of(file), self.label_names_of(file), self.dialect_of(file)
        if isinstance(given, str):
            return Source(key, given, columns, label_names, dialect)
        told = {name: value for name in DIALECT if (value := getattr(given, name)) is not None}
        weighted = given if isinstance(given, TrainingSet) else None
        return Source(
            key,
            given.path or given.name or "",
            columns if given.columns is None else given.columns,
            label_names if given.label_names is None else given.label_names,
            replace(dialect, **told),
            of="name" if given.path is None else "path",
            weight=weighted.weight if weighted else 1.0,
            max_pairs=weighted.max_pairs if weighted else None,
        )

    def columns_of(self, file: File) -> Columns:
        return getattr(self.columns, file) if isinstance(self.columns, ColumnsApart) else self.columns

    def label_names_of(self, file: File) -> dict[str, str]:
        return getattr(self.label_names, file) if isinstance(self.label_names, LabelNamesApart) else self.label_names

    def dialect_of(self, file: File) -> Dialect:
        """How a file is written, as far as these keys say it."""
        told: dict[str, Any] = {name: getattr(self, name) for name in DIALECT}
        of_file = {name: given.get(file) if isinstance(given, dict) else given for name, given in told.items()}
        return Dialect(**{name: given for name, given in of_file.items() if given is not None})

    @field_validator(*DIALECT, mode="before")
    @classmethod
    def _possible(cls, given: Any, about: ValidationInfo) -> Any:
        name = about.field_name or ""
        apart = given if isinstance(given, dict) else {"train": given}
        if not apart or apart.keys() - {"train", "eval"}:
            raise PydanticCustomError("form", "expected one value, or one under train: and another under eval:")
        for value in apart.values():
            if value is None and name == "header":
                raise PydanticCustomError("form", "expected true or false")
            check_dialect(name, value)
        return given
