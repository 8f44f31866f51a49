"""Accuracy for each value of a column: HANS by heuristic, MultiNLI by genre, Breaking NLI by category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.labelled import LabelledPair
from bertnli.data.pairs import PairFile
from bertnli.evaluation.column_values import ColumnValues
from bertnli.evaluation.metrics import ClassificationMetrics


class AccuracyByColumn:
    """Metrics for each value of `column`."""

    def __init__(self, file: PairFile, column: str, labels: Sequence[str]):
        """Reads the file once. Raises InputError if it does not have the column."""
        if column not in file.fields:
            raise InputError(
                f"{file.name}: no column {column!r}",
                found=", ".join(map(repr, file.fields)),
                expected="the file that the catalogue describes",
            )
        self.column = column
        self._values = ColumnValues(file, column)
        self.names = self._values.names
        self.metrics = [ClassificationMetrics(labels) for _ in self.names]

    def add(self, logits: NDArray[np.floating], rows: Sequence[LabelledPair]) -> None:
        """Add logits `[rows, labels]` to the metrics of each row's value."""
        values = self._values.of(rows)
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
