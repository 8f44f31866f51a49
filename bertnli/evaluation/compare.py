"""Compares two models on the same rows: which predictions differ, and whether the difference may be chance."""

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
    """A pair for which the two models predict different labels."""

    this: ExamplePrediction
    other: str  # the label that the other model predicts

    def to_json(self) -> dict[str, Any]:
        return {**self.this.to_json(), "other": self.other}


class Comparison:
    """Counts over labelled rows that both models have scored.

    metrics: of the other model. changed: number of rows with different predictions. only_this, only_other: number of
    rows on which only this model, or only the other model, is right. examples: the first changed rows of each kind.
    """

    def __init__(self, labels: Sequence[str], other_labels: Sequence[str], other_name: str):
        """labels: of this model; other_labels: of the other model; each in its model's order.

        Raises InputError if the names are not the same (case is ignored).
        """
        self.labels, self.name = tuple(labels), other_name
        table = LabelTable(other_labels)
        self._order = [table.index(label) for label in labels]
        if sorted(self._order) != list(range(len(other_labels))):
            raise InputError(
                f"--against {other_name}: its labels are different",
                found=", ".join(other_labels),
                expected=", ".join(labels),
                do="compare models with the same labels",
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
        """Add rows. `logits` of this model and `others` of the other one: `[rows, labels]`, in each model's own order.

        gold: `[rows]`, indices into this model's labels.
        """
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
        """p-value of McNemar's exact test. Its null hypothesis: both models have the same accuracy. See `mcnemar`."""
        return mcnemar(self.only_this, self.only_other)

    @property
    def examples(self) -> list[Changed]:
        """At most EXAMPLES changed predictions, in turn from each kind while it has some; in the order of the file."""
        turns = sorted(
            ((turn, one.this.row, one) for kept in self._kept.values() for turn, one in enumerate(kept)),
            key=lambda turn: turn[:2],
        )
        return sorted((one for *_, one in turns[:EXAMPLES]), key=lambda one: one.this.row)

    def to_json(self) -> dict[str, Any]:
        """The metrics of the other model, and the counts and examples of changed predictions."""
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
    """The exact two-sided p-value of McNemar's test (McNemar 1947, "Note on the sampling error of the difference
    between correlated proportions or percentages").

    Under the null hypothesis, each row on which exactly one model is right is the toss of a fair coin. The p-value is
    the probability of a result at least as uneven. It is summed in logarithms, so any counts are possible.
    """
    n, k = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    largest = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    falling = np.arange(k, 0, -1.0)
    terms = np.cumprod(falling / (n - falling + 1))  # probabilities of k - 1, k - 2, … divided by that of k
    return min(1.0, 2 * math.exp(largest) * (1 + float(terms.sum())))
