"""The keys of a run file, which specifies a training run completely: each with its type, default and meaning.

run_file.py reads it and reports its mistakes. Keys that begin with `x-` are the file's own, to be merged elsewhere:
`x-base: &base {…}`, then `<<: *base`.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
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
from bertnli.data.outputs import ProblemType


def _without_surprises(name: str) -> str:
    """Raises for what a name or path can have and nobody means: the line break that YAML's > and | leave, for one."""
    if name != name.strip() or not name.isprintable():
        reason = "it has blanks around it, or characters such as a line break"
        raise PydanticCustomError("form", "{reason}; write it without them", {"reason": reason})
    return name


Text = Annotated[str, Field(min_length=1), AfterValidator(_without_surprises)]
Positive = Annotated[int, Field(gt=0, lt=2**31)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
STALL_TIMEOUT = 300.0  # seconds


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_as_meant(cls, given: Any, about: ValidationInfo) -> Any:
        # pydantic takes true for 1. YAML 1.1 reads 1e3 as text.
        kinds = _kinds(cls.model_fields[about.field_name or ""].annotation)
        if isinstance(given, bool) and bool not in kinds:
            expected = "a number" if kinds & {int, float} else "text" if str in kinds else "no truth value"
            raise PydanticCustomError(
                "truth_value", f"YAML reads yes, no, on, off, true and false as truth values; expected {expected}"
            )
        if isinstance(given, str) and "\0" in given:
            raise PydanticCustomError("nul", "a name or path cannot have a NUL character")
        return _read_exponent(given) if int in kinds else given


def _read_exponent(given: Any) -> Any:
    """The number for text such as 5e8, which YAML 1.1 takes for text; in maps and lists too. All else as it is."""
    if isinstance(given, Mapping):
        return {key: _read_exponent(value) for key, value in given.items()}
    if isinstance(given, list):
        return [_read_exponent(value) for value in given]
    if isinstance(given, str) and re.fullmatch(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]{1,2}", given):
        number = float(given)
        return int(number) if number.is_integer() else number
    return given


def _kinds(annotation: Any) -> set[Any]:
    """The types that a field admits, and those of a Literal's values: {int, NoneType} for `Positive | None`."""
    if typing.get_origin(annotation) is Literal:
        return {type(value) for value in typing.get_args(annotation)}
    members = typing.get_args(annotation)
    return {kind for member in members for kind in _kinds(member)} if members else {annotation}


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

    train: LabelNames = {}
    eval: LabelNames = {}


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
    """A fetched name, or a path: .jsonl .tsv .csv .parquet, .gz or .zst of the text ones, SNLI's own .txt and .zip."""
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
    ] = {}
    """What label cells mean, such as `{0: entailment, 1: neutral, 2: contradiction}`; `-` stands for no gold label. If
    the files differ: `{train: {yes: entailment, no: contradiction}, eval: {0: entailment, 1: contradiction}}`."""
    format: str | dict[File, str] | None = None
    """The files' format (tsv, csv, jsonl, parquet), if it is not the one in their names. This and the next three keys
    are for paths, not for fetched names; if the files differ: `{train: …, eval: …}`."""
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


class Checkpointing(Section):
    every_steps: Positive = 200
    keep: Positive = 2
    """How many of the newest checkpoints are kept on disk."""


class RunConfig(Section):
    model: Text
    """The model to start from: a fetched name, an HF-format folder, a d2l folder or zip, a hub id (`org/name`)."""
    arch: Literal["bert.small", "bert.base"] | None = None
    """For d2l weights given as a path, because their files do not contain the number of heads."""
    labels: tuple[str, ...] | None = None
    """Label names in the order of a new classifier, or of one whose config has LABEL_0, …. Default: SNLI's."""
    problem_type: ProblemType | None = None
    """What the model gives a pair: one of several labels (single_label_classification), any number of labels, each
    independent of the others (multi_label_classification, with `labels`), or a score (regression). Default: what the
    starting model gives; if it has no classifier, one of several labels."""
    loss: Literal["mse", "bce"] | None = None
    """Of a score: mse, the squared error, or bce, the binary cross-entropy for scores from 0 to 1. Default: bce if the
    starting model gives a score through a sigmoid, otherwise mse. A new output gets a sigmoid with bce alone."""
    data: Data
    output: Text
    """The run's folder: run.yaml, metrics.jsonl, checkpoints/, report.html and the result in model/. `~` is the home
    folder."""

    epochs: Positive | None = None
    max_steps: Positive | None = None
    global_batch_size: Positive = 256
    """Pairs per optimizer step over all ranks, whatever the number of ranks."""
    micro_batch_tokens: Positive | None = None
    """Tokens that a rank takes through the model at once. Default: 3072 on a CPU; on a GPU up to 65,536, as
    many as fit its free memory."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    schedule: Literal["linear", "constant"] = "linear"
    """After the warm-up: linear decay to 0 at the last step, or no decay."""
    warmup: Fraction = 0.1
    """Fraction of the steps in which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0 turns clipping off."""
    dropout: Fraction | None = None
    """Replaces every dropout probability of the model. Default: the model's own."""
    max_length: Annotated[int, Field(ge=5)] | None = None
    """Tokens of a pair, special tokens included; longer pairs are truncated. Default: the model's own."""
    truncation: Literal["longest_first", "only_first", "only_second", "d2l", "proportional"] | None = None
    """Default: the model's own rule."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    zero_stage: Literal[0, 1, 2, 3] = 0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    deterministic: bool = False
    """On a GPU, too, the same run gives the same weights to the last bit: torch's deterministic algorithms, which cost
    speed. On a CPU that is so without it."""
    compile: Literal["auto", False] = False
    """`auto`: torch.compile of the model's blocks on a GPU, which takes a minute at the start. It may pay for a small
    model; it has not been measured yet. On a CPU nothing is compiled."""
    checkpoint: Checkpointing = Checkpointing()
    eval_every_steps: Positive | None = None
    """Default: after every epoch and at the end. Needs data.eval, as keep_best and early_stopping do."""
    keep_best: bool = False
    """The result is the model with the best held-out accuracy, not that of the last step. Of scores it is the best rank
    correlation (Spearman's); of scores of 0 and 1, and of independent labels, the best average precision."""
    early_stopping: Positive | None = None
    """Stop after this many evaluations in a row without a better held-out accuracy, or what keep_best says."""
    tensorboard: bool = True
    stall_timeout: Annotated[float, Field(gt=0)] = STALL_TIMEOUT
    """Seconds without progress of any rank, or a sign of life from one, after which the job is ended
    (watch/watcher.py)."""
    deepspeed: dict[str, Any] = {}
    """DeepSpeed's own keys, merged with ours. One that contradicts ours, or cannot work here, is an error."""

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_in_one_text(cls, given: Any) -> Any:
        # as the commands' --labels has them
        return [name.strip() for name in given.split(",")] if isinstance(given, str) and "," in given else given

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _numbers_of_deepspeed(cls, given: Any) -> Any:
        return _read_exponent(given)

    @field_validator("output")
    @classmethod
    def _from_home(cls, given: str) -> str:
        try:
            return str(Path(given).expanduser()) if given.startswith("~") else given
        except RuntimeError:
            raise PydanticCustomError("no_home", "the home folder is not known here: write the whole path") from None

    @field_validator("output")
    @classmethod
    def _without_variables(cls, given: str) -> str:
        if re.search(r"\$(\{|[A-Za-z_])", given):
            reason = "a run file's variables are not replaced; write the path, or give it with --set, where the shell"
            raise PydanticCustomError("form", "{reason} replaces them", {"reason": reason})
        return given

    def steps_per_epoch(self, pairs: int) -> int:
        """Optimizer steps of an epoch over `pairs` pairs; the last one may have fewer pairs."""
        return math.ceil(pairs / self.global_batch_size)

    def total_steps(self, pairs: int) -> int:
        return self.max_steps if self.max_steps is not None else self.steps_per_epoch(pairs) * (self.epochs or 0)

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """Learning rate of the optimizer step number `step` (from 0): linear warm-up, then `schedule`.

        As in Devlin et al. 2018, appendix A.2. It equals transformers' get_linear_schedule_with_warmup, except that the
        last step is never a warm-up step, so that a run of one step learns.
        """
        warmup_steps = min(math.ceil(self.warmup * total_steps), total_steps - 1)
        if step < warmup_steps:
            return self.learning_rate * (step / warmup_steps)
        if self.schedule == "constant":
            return self.learning_rate
        return self.learning_rate * ((total_steps - step) / max(1, total_steps - warmup_steps))

    def to_yaml(self) -> str:
        """The run as resolved, with every key; `run_file.load_run` reads it back to an equal RunConfig."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
