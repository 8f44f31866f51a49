"""What the outputs of a model mean: one of several labels, several independent labels, or one score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""The names that transformers has for them in config.json, key `problem_type`."""

Activation = Literal["softmax", "sigmoid", "identity"]

SCORE = "score"
"""The name of the only output of a `regression` model, as a reranker or a model of similarity; and of its column."""


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
