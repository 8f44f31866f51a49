"""Example predictions of an evaluation: the least confident right ones and the most confident mistakes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.printable import shortened
from bertnli.data.labelled import LabelledPair
from bertnli.evaluation.metrics import Floats, log_softmax

EXAMPLES = 10  # number of right ones, and of wrong ones
SHOWN = 400  # characters of a sentence that an example keeps


@dataclass(frozen=True)
class ExamplePrediction:
    """One pair, and the model's prediction for it."""

    row: int  # in the file, 1-based
    premise: str
    hypothesis: str
    gold: str
    predicted: str
    probabilities: Mapping[str, float]  # of all labels, in the model's order

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "probabilities": dict(self.probabilities)}


class ExamplePredictions:
    """The best candidates so far: at most EXAMPLES for each combination of gold and predicted label."""

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.kept: dict[tuple[int, int], list[tuple[float, ExamplePrediction]]] = defaultdict(list)

    def add(self, logits: NDArray[np.floating], rows: Sequence[LabelledPair], temperature: float = 1.0) -> None:
        log_probabilities = log_softmax(logits, temperature)
        predicted = logits.argmax(axis=1)
        confidence = log_probabilities.max(axis=1)
        gold = np.array([pair.label for pair in rows])
        for index in range(len(self.labels) ** 2):
            cell = divmod(index, len(self.labels))
            here = np.flatnonzero((gold == cell[0]) & (predicted == cell[1]))
            rank = confidence[here] if cell[0] == cell[1] else -confidence[here]
            best = np.argsort(rank, kind="stable")[:EXAMPLES]
            found = [
                (float(rank[i]), example_prediction(self.labels, rows[here[i]], cell[1], log_probabilities[here[i]]))
                for i in best
            ]
            self.kept[cell] = sorted(self.kept[cell] + found, key=lambda one: (one[0], one[1].row))[:EXAMPLES]

    def right(self) -> list[ExamplePrediction]:
        """The right predictions with the lowest probability."""
        return self._spread(found for (gold, predicted), found in self.kept.items() if gold == predicted)

    def wrong(self) -> list[ExamplePrediction]:
        """The wrong predictions with the highest probability."""
        return self._spread(found for (gold, predicted), found in self.kept.items() if gold != predicted)

    @staticmethod
    def _spread(cells: Iterable[list[tuple[float, ExamplePrediction]]]) -> list[ExamplePrediction]:
        """At most EXAMPLES: the first one of each cell, then the second ones, and so on; sorted with the best first."""
        turns = [(turn, rank, one.row, one) for cell in cells for turn, (rank, one) in enumerate(cell)]
        chosen = sorted(turns, key=lambda turn: turn[:3])[:EXAMPLES]
        return [example for *_, example in sorted(chosen, key=lambda turn: turn[1:3])]


def example_prediction(
    labels: Sequence[str], pair: LabelledPair, predicted: int, log_probabilities: Floats
) -> ExamplePrediction:
    """predicted: index of the label. log_probabilities: `[labels]`."""
    return ExamplePrediction(
        row=pair.number,
        premise=shortened(pair.premise, SHOWN),
        hypothesis=shortened(pair.hypothesis, SHOWN),
        gold=labels[pair.label],
        predicted=labels[predicted],
        probabilities=dict(zip(labels, np.exp(log_probabilities).tolist(), strict=True)),
    )
