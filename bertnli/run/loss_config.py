"""The sections `loss` and `teacher` of a run file, and the metric that decides which evaluation is the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from bertnli.common.errors import InputError
from bertnli.data.labels import check_doubled
from bertnli.data.outputs import ProblemType
from bertnli.run.section import Fraction, Section, Text

# fmt: off
Metric = Literal[
    "accuracy", "macro_f1", "mcc", "log_loss", "spearman", "pearson", "mse", "mae", "average_precision", "roc_auc",
    "micro_f1", "micro_average_precision", "exact_match",
]
# fmt: on
METRICS: dict[ProblemType, tuple[Metric, ...]] = {
    "single_label_classification": ("accuracy", "macro_f1", "mcc", "log_loss"),
    "regression": ("spearman", "pearson", "mse", "mae", "average_precision", "roc_auc", "log_loss"),
    "multi_label_classification": (
        *("average_precision", "micro_average_precision", "micro_f1", "macro_f1", "roc_auc", "exact_match", "log_loss"),
    ),
}
"""What a model can be chosen by, by what its outputs mean."""
LOWER_IS_BETTER: frozenset[Metric] = frozenset({"log_loss", "mse", "mae"})


def _weights(given: Any) -> Any:
    """`balanced`, or a number above 0 for each label."""
    if given is None or given == "balanced":
        return given
    if not isinstance(given, Mapping) or not given:
        raise PydanticCustomError("form", "expected balanced, or a map such as {one: 1.0, another: 2.5}")
    weights = {}
    for label, value in given.items():
        try:
            weights[str(label)] = float(value)
        except (TypeError, ValueError):
            weights[str(label)] = 0.0
        if isinstance(value, bool) or not 0 < weights[str(label)] < float("inf"):
            reason = f"the weight of {label} is {value!r}; expected a number above 0"
            raise PydanticCustomError("form", "{reason}", {"reason": reason})
        if not 1e-6 <= weights[str(label)] <= 1e6:  # sums of such weights lose digits in fp32
            reason = f"the weight of {label} is {value!r}; expected a number from 1e-6 to 1e6"
            raise PydanticCustomError("form", "{reason}", {"reason": reason})
    try:
        check_doubled(weights, "weights")
    except InputError as error:
        raise PydanticCustomError("form", "{reason}", {"reason": str(error)}) from None
    return weights


def loss_in_short(given: Any) -> Any:
    """`loss: bce` is short for `loss: {kind: bce}`."""
    return {"kind": given} if isinstance(given, str) else {} if given is None else given


Weights = Annotated[dict[str, float] | Literal["balanced"] | None, BeforeValidator(_weights)]


class LossConfig(Section):
    kind: Literal["mse", "bce"] | None = None
    """Of a score: mse, the squared error, or bce, the binary cross-entropy for scores from 0 to 1. Default: bce if the
    starting model gives a score through a sigmoid, otherwise mse. A new output gets a sigmoid with bce alone."""
    class_weights: Weights = None
    """Of one label for each pair: a weight for every label, or `balanced`, the number of pairs / (labels x pairs of the
    label), over the pairs trained on. A step's loss is divided by the sum of its pairs' weights (torch's
    CrossEntropyLoss)."""
    label_smoothing: Fraction = 0.0
    """Of one label for each pair: this share of the target is spread over all labels (Szegedy et al. 2016)."""
    pos_weight: Weights = None
    """Of independent labels: the weight of the pairs that have a label, or `balanced`, the pairs without it / the pairs
    with it (torch's BCEWithLogitsLoss)."""

    soft: Annotated[float, Field(gt=0, le=1)] | None = None
    """The training file has soft labels, a probability for each label in columns `p_<label>`, as `bertnli score` writes
    them. The target of a pair is this share of them, and for the rest its gold label; 1 for them alone, as it is for a
    pair without a gold label."""

    def set_keys(self) -> list[str]:
        """The keys that differ from their defaults."""
        return [key for key, value in self if value != type(self).model_fields[key].default]


class TeacherConfig(Section):
    """`teacher: MODEL` is short for `teacher: {model: MODEL}`."""

    model: Text
    """What the model learns from: a bundle, or anything that `bertnli eval` takes as a model, with the same labels."""
    temperature: Annotated[float, Field(gt=0, le=1000)] = 2.0
    """The logits of both are divided by it before the softmax, and the loss is multiplied by its square."""
    mix: Annotated[float, Field(gt=0, le=1)] = 0.5
    """The loss is this share of the cross-entropy with the teacher's probabilities, and for the rest that with the gold
    label."""


def teacher_in_short(given: Any) -> Any:
    return {"model": given} if isinstance(given, str) else given


_PROBLEMS: dict[str, ProblemType] = {
    "kind": "regression",
    "class_weights": "single_label_classification",
    "label_smoothing": "single_label_classification",
    "soft": "single_label_classification",
    "pos_weight": "multi_label_classification",
}
"""What a key of `loss` is for."""


def unfit_keys(
    loss: LossConfig, teacher: TeacherConfig | None, metric: Metric | None, problem: ProblemType
) -> Iterator[tuple[str, ProblemType]]:
    """The keys that do not go with a model for `problem`, each as the user writes it, with the problem it is for."""
    for key in loss.set_keys():
        if _PROBLEMS[key] != problem:
            yield (f"loss: {loss.kind}" if key == "kind" else f"loss.{key}"), _PROBLEMS[key]
    if teacher is not None and problem != "single_label_classification":
        yield "teacher", "single_label_classification"
    if metric is not None and metric not in METRICS[problem]:
        yield f"metric_for_best: {metric}", next(one for one, metrics in METRICS.items() if metric in metrics)
