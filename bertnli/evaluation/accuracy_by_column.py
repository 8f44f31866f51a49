"""Accuracy for each value of a column: HANS by heuristic, MultiNLI by genre, Breaking NLI by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.labelled import LabelledPair
from bertnli.data.pairs import PairFile
from bertnli.evaluation.metrics import ClassificationMetrics

_ROWS = 4096  # rows that are read at once


class AccuracyByColumn:
    """Metrics for each value of `column`. It keeps one integer for each row; data sets with such a column are small."""

    def __init__(self, file: PairFile, column: str, labels: Sequence[str]):
        """Reads the file once. Raises InputError if it does not have the column."""
        if column not in file.fields:
            raise InputError(
                f"{file.name}: no column {column!r}",
                found=", ".join(map(repr, file.fields)),
                expected="the file that the catalogue describes",
            )
        self.column = column
        self.metrics: list[ClassificationMetrics] = []
        self._value: list[int] = []  # index into the metrics, by row number - 1
        names: dict[str, int] = {}
        for chunk in file.chunks(_ROWS):
            for record in file.values(chunk):
                value = "" if record is None else str(record.get(column) or "")
                self._value.append(names.setdefault(value, len(names)))
        self.names = list(names)
        self.metrics = [ClassificationMetrics(labels) for _ in names]

    def add(self, logits: NDArray[np.floating], rows: Sequence[LabelledPair]) -> None:
        """Add logits `[rows, labels]` to the metrics of each row's value."""
        values = np.array([self._value[row.number - 1] for row in rows])
        gold = np.array([row.label for row in rows], np.int64)
        for value in np.unique(values):
            self.metrics[value].add(logits[values == value], gold[values == value])

    def to_json(self) -> dict[str, Any]:
        """For each value: `accuracy`, `accuracy_interval` (95%), `rows`, and `recall` of each gold label."""
        return {
            name: {
                "accuracy": one.accuracy,
                "accuracy_interval": list(one.accuracy_interval),
                "rows": one.rows,
                "recall": {
                    label: float(one.recall[index])
                    for index, label in enumerate(one.labels)
                    if one.confusion[index].sum()
                },
            }
            for name, one in zip(self.names, self.metrics, strict=True)
            if one.rows
        }
