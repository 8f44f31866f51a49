"""Two models on the same rows: which predictions differ, and whether by chance one is right more often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.labelled import LabelledPair
from bertnli.data.labels import LabelTable
from bertnli.evaluation.example_predictions import EXAMPLES, ExamplePrediction, example_prediction
from bertnli.evaluation.metrics import ClassificationMetrics, log_softmax


@dataclass(frozen=True)
class Changed:
    """A pair of which the two models say different things."""

    this: ExamplePrediction
    other: str  # the other model's label

    def to_json(self) -> dict[str, Any]:
        return {**self.this.to_json(), "other": self.other}


class Comparison:
    """Sums over labelled rows that both models have scored.

    `metrics`: the other model's. `changed`: rows with different predictions; `only_this`, `only_other`: those of them
    that one model alone is right on. `examples`: the first such rows of each kind.
    """

    def __init__(self, labels: Sequence[str], other_labels: Sequence[str], other_name: str):
        """`labels` of this model and `other_labels` of the other, each in its own order.

        Raises InputError if they are not the same names, upper and lower case apart.
        """
        self.labels, self.name = tuple(labels), other_name
        table = LabelTable(other_labels)
        self._order = [table.index(label) for label in labels]
        if sorted(self._order) != list(range(len(other_labels))):
            raise InputError(
                f"--against {other_name}: its labels are others",
                found=", ".join(other_labels),
                expected=", ".join(labels),
                do="compare models of the same labels",
            )
        self.metrics = ClassificationMetrics(labels)
        self.changed = self.only_this = self.only_other = 0
        self._kept: dict[str, list[Changed]] = {"this": [], "other": [], "neither": []}

    def add(
        self,
        rows: Sequence[LabelledPair],
        gold: NDArray[np.integer],
        logits: NDArray[np.floating],
        others: NDArray[np.floating],
        temperature: float = 1.0,
        other_temperature: float = 1.0,
    ) -> None:
        """Count `logits` of this model and `others` of the other one, each `[pairs, labels]` in its own model's order,
        on `rows` of gold labels `gold`."""
        others = others[:, self._order]
        self.metrics.add(others, gold, other_temperature)
        ours, theirs = logits.argmax(axis=1), others.argmax(axis=1)
        kinds = {
            "this": (ours == gold) & (theirs != gold),
            "other": (theirs == gold) & (ours != gold),
            "neither": (ours != gold) & (theirs != gold) & (ours != theirs),
        }
        self.changed += int((ours != theirs).sum())
        self.only_this += int(kinds["this"].sum())
        self.only_other += int(kinds["other"].sum())
        log_probabilities = log_softmax(logits, temperature)
        for kind, where in kinds.items():
            kept = self._kept[kind]
            for index in np.flatnonzero(where)[: EXAMPLES - len(kept)]:
                this = example_prediction(self.labels, rows[index], ours[index], log_probabilities[index])
                kept.append(Changed(this, self.labels[theirs[index]]))

    @property
    def p_value(self) -> float:
        """McNemar's exact test of the two accuracies being the same in truth (see `mcnemar`)."""
        return mcnemar(self.only_this, self.only_other)

    @property
    def examples(self) -> list[Changed]:
        """Changed predictions, at most EXAMPLES, of every kind as many as there is room for; in the file's order."""
        turns = sorted(
            ((turn, one.this.row, one) for kept in self._kept.values() for turn, one in enumerate(kept)),
            key=lambda turn: turn[:2],
        )
        return sorted((one for *_, one in turns[:EXAMPLES]), key=lambda one: one.this.row)

    def to_json(self) -> dict[str, Any]:
        """The other model's figures, and what differs."""
        return {
            "model": self.name,
            **self.metrics.to_json(),
            "changed": self.changed,
            "only_this_right": self.only_this,
            "only_other_right": self.only_other,
            "p_value": self.p_value,
            "changed_examples": [example.to_json() for example in self.examples],
        }


def mcnemar(only_first: int, only_second: int) -> float:
    """The exact two-sided p-value of McNemar's test (McNemar 1947), for any counts: how often a fair coin, thrown for
    each row that one model alone is right on, would be at least as uneven."""
    n, k = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    largest = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    falling = np.arange(k, 0, -1.0)
    terms = np.cumprod(falling / (n - falling + 1))  # k - 1, k - 2, … successes, over k: from the largest down
    return min(1.0, 2 * math.exp(largest) * (1 + float(terms.sum())))
