"""What the outputs of a model mean: one of several labels, several independent labels, or one score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""The names that transformers has for them in config.json, key `problem_type`."""

Activation = Literal["softmax", "sigmoid", "identity"]

SCORE = "score"
"""The name of the only output of a `regression` model, as a reranker or a model of similarity; and of its column."""

THRESHOLD = 0.5
"""Of independent labels those with a probability above it are predicted; `bertnli score` has an option for it."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model, in their order.

    names: the label names, or (SCORE,). activation: what turns logits into the numbers that users see: softmax where a
    pair has exactly one of the labels, sigmoid where each label is independent of the others, and for a score what the
    model's files say.
    """

    names: tuple[str, ...]
    problem_type: ProblemType = "single_label_classification"
    activation: Activation = "softmax"


_ACTIVATIONS: dict[ProblemType, tuple[Activation, ...]] = {
    "single_label_classification": ("softmax",),
    "multi_label_classification": ("sigmoid",),
    "regression": ("sigmoid", "identity"),
}


def contradiction(outputs: Outputs) -> str:
    """Why they cannot be the outputs of a model; empty if they can."""
    problem, known = outputs.problem_type, _ACTIVATIONS[outputs.problem_type]
    if outputs.activation not in known:
        return f"activation {outputs.activation} does not belong to {problem}, {' or '.join(known)} does"
    if problem == "regression" and outputs.names != (SCORE,):
        return f"a model of {problem} has one output, {SCORE}, not {', '.join(outputs.names)}"
    return ""
