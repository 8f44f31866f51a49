"""The keys of a run file, which specifies a training run completely: each with its type, default and meaning.

run_file.py reads it and reports its mistakes. Keys that begin with `x-` are the file's own, to be merged elsewhere:
`x-base: &base {…}`, then `<<: *base`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from bertnli.common.errors import InputError
from bertnli.common.urls import is_url
from bertnli.data.outputs import ProblemType
from bertnli.run.data_config import Data
from bertnli.run.loss_config import LossConfig, Metric, TeacherConfig, loss_in_short, teacher_in_short
from bertnli.run.section import Fraction, Positive, Section, Text, read_exponent

STALL_TIMEOUT = 300.0  # seconds
WARMUP = 0.1

_Recorder = Literal["tensorboard", "wandb", "mlflow"]
_RECORDERS = get_args(_Recorder)
Beta = Annotated[float, Field(ge=0, lt=1, strict=True)]  # strict: in a list, too, YAML's true is no number


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
    loss: Annotated[LossConfig, BeforeValidator(loss_in_short)] = LossConfig()
    """What training minimises: `mse` or `bce` of a score, or a map with `class_weights`, `label_smoothing` and others
    (loss_config.py, docs/losses.md)."""
    teacher: Annotated[TeacherConfig | None, BeforeValidator(teacher_in_short)] = None
    """A model that this one learns from, too: `MODEL`, or `{model: MODEL, temperature: 2.0, mix: 0.5}`."""
    keep_layers: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    """Start with these blocks of the starting model alone, counted from 0, such as every second: `[1, 3, 5]`."""
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
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """After the warm-up: decay to 0 at the end of the run, in a line or along half a cosine (Loshchilov & Hutter 2017,
    SGDR); or no decay."""
    warmup: Fraction | None = WARMUP
    """Fraction of the steps in which the learning rate rises from 0. Default: 0.1, if there is no warmup_steps."""
    warmup_steps: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """The same as a number of steps, which must be fewer than the run has; give one of the two."""
    warmup_type: Literal["linear", "log"] = "linear"
    """How it rises: in a line, or with the step's logarithm, fast at first, as DeepSpeed's schedulers do by default."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's: how much of the moving means of the gradients and of their squares a step keeps."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """AdamW's: added to the root of the second mean."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Layer-wise decay of the learning rate: the head has `learning_rate`, the last block has it times this factor, and
    so on down to the embeddings."""
    freeze: Literal["embeddings"] | int | None = None
    """What is not trained: the embeddings, or with a number N the embeddings and the first N blocks."""
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
    gradient_checkpointing: bool = False
    """Less memory for more time: of each block but the last only the input is kept, and the block is computed again for
    the backward pass. The gradients are the same to the last bit. On a GPU a micro-batch then has more tokens."""
    checkpoint: Checkpointing = Checkpointing()
    eval_every_steps: Positive | None = None
    """Default: after every epoch and at the end. Needs data.eval, as keep_best and early_stopping do."""
    keep_best: bool = False
    """The result is the model of the best evaluation, not that of the last step."""
    early_stopping: Positive | None = None
    """Stop after this many evaluations in a row that were not better."""
    metric_for_best: Metric | None = None
    """What `best` is for these two: accuracy, macro_f1, mcc or log_loss for one label of a pair; docs/losses.md has the
    metrics of other outputs. Default: accuracy; of scores the rank correlation (spearman); of scores of 0 and 1, and of
    independent labels, average_precision."""
    report_to: tuple[_Recorder, ...] = ("tensorboard",)
    """Where metrics go beside metrics.jsonl, one or several: tensorboard (OUTPUT/tensorboard), wandb, mlflow, each with
    its own library, whose environment variables say the server and the project (docs/report_to.md); or none."""
    stall_timeout: Annotated[float, Field(gt=0)] = STALL_TIMEOUT
    """Seconds without progress of any rank, or a sign of life from one, after which the job is ended
    (watch/watcher.py)."""
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own keys, or the path of a file with them: `ds_config.json`. What a key of the run file says as well
    fills that key if it is left out; "auto" leaves a key to bertnli. A contradiction is an error."""

    @model_validator(mode="before")
    @classmethod
    def _one_warmup(cls, given: Any) -> Any:
        # so that run.yaml, which has every key, says which of the two holds
        if not isinstance(given, dict) or given.get("warmup") is not None:
            return given
        return {**given, "warmup": WARMUP if given.get("warmup_steps") is None else None}

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_in_one_text(cls, given: Any) -> Any:
        # as the commands' --labels has them
        return [name.strip() for name in given.split(",")] if isinstance(given, str) and "," in given else given

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        names = [name.strip() for name in given.split(",")] if isinstance(given, str) else given
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return names
        if "none" in names and len(names) > 1:
            raise PydanticCustomError("form", "none goes with no other name")
        if isinstance(given, str) and names != ["none"] and not {*names} <= {*_RECORDERS}:
            reason = f"input should be one or several of {', '.join(_RECORDERS)}, or none"
            raise PydanticCustomError("form", "{reason}", {"reason": reason})
        return [] if names == ["none"] else [*dict.fromkeys(names)]

    @field_validator("freeze", mode="before")
    @classmethod
    def _embeddings_or_blocks(cls, given: Any) -> Any:
        if given not in (None, "embeddings") and (not isinstance(given, int) or given < 1):
            reason = "input should be embeddings, or a number of blocks from 1 on"
            raise PydanticCustomError("form", "{reason}", {"reason": reason})
        return given

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _numbers_of_deepspeed(cls, given: Any) -> Any:
        return read_exponent(given)

    @field_validator("output")
    @classmethod
    def _from_home(cls, given: str) -> str:
        try:
            return str(Path(given).expanduser()) if given.startswith("~") else given
        except RuntimeError:
            raise PydanticCustomError("no_home", "the home folder is not known here: write the whole path") from None

    @field_validator("output")
    @classmethod
    def _here(cls, given: str) -> str:
        if is_url(given):
            reason = "a URL: a run writes into a folder that every host sees; copy it afterwards"
            raise PydanticCustomError("form", "{reason}", {"reason": reason})
        return given

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

    def check_warmup(self, total_steps: int) -> None:
        """Raises InputError if the learning rate would still be rising at the end of a run of `total_steps`."""
        if self.warmup_steps is not None and self.warmup_steps >= total_steps:
            raise InputError(
                f"warmup_steps: {self.warmup_steps} does not go with a run of {total_steps} steps",
                expected="fewer, so that the learning rate is reached",
                do=f"set warmup_steps: {total_steps // 10}, or warmup: {WARMUP}",
            )

    def learning_rate_at(self, step: int, total_steps: int) -> float:
        """Learning rate of the optimizer step number `step` (from 0): warm-up, then `schedule`.

        As in Devlin et al. 2018, appendix A.2. It equals transformers' get_linear_schedule_with_warmup and
        get_cosine_schedule_with_warmup, except that the last step is never a warm-up step, so that a run of one step
        learns. A warm-up of the type log is that of DeepSpeed's WarmupLR.
        """
        warmup_steps = self.warmup_steps
        if warmup_steps is None:
            warmup_steps = min(math.ceil((self.warmup or 0.0) * total_steps), total_steps - 1)
        if step < warmup_steps and self.warmup_type == "log":
            return self.learning_rate * (math.log(step + 1) / math.log(max(2, warmup_steps)))
        if step < warmup_steps:
            return self.learning_rate * (step / warmup_steps)
        if self.schedule == "constant":
            return self.learning_rate
        left = (total_steps - step) / max(1, total_steps - warmup_steps)
        return self.learning_rate * (left if self.schedule == "linear" else (1 - math.cos(math.pi * left)) / 2)

    @property
    def frozen_blocks(self) -> int | None:
        """How many blocks are frozen, besides the embeddings; None: not even these."""
        return self.freeze if self.freeze != "embeddings" else 0

    def to_yaml(self) -> str:
        """The run as resolved, with every key; `run_file.load_run` reads it back to an equal RunConfig."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
