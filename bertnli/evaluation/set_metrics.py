"""Metrics of a model with independent labels: a pair has any number of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.data.outputs import THRESHOLD
from bertnli.evaluation.metrics import Floats
from bertnli.evaluation.ranking import average_precision, roc_auc
from bertnli.evaluation.score_metrics import OutputMetrics, defined


class SetMetrics(OutputMetrics):
    """Of sets of labels; gold numbers are 1 for each label that a row has, otherwise 0. Equal to scikit-learn's."""

    def __init__(self, labels: Sequence[str]):
        super().__init__(len(labels), "sigmoid")
        self.labels = tuple(labels)

    @property
    def main(self) -> tuple[str, float]:
        """The figure by which models are compared, and its name. NaN if it is not defined."""
        return "average_precision", _mean(self._of_labels(average_precision))

    @property
    def figures(self) -> dict[str, Any]:
        """By name; None where a figure is not defined. Macro figures are means over labels; average precision and ROC
        AUC over those for which they are defined."""
        gold, predicted = self.gold > 0, self.values > THRESHOLD
        found = {
            "micro_f1": float(_f1(gold.ravel(), predicted.ravel())),
            "macro_f1": float(_f1(gold, predicted).mean()),
            "average_precision": self.main[1],
            "micro_average_precision": average_precision(gold.ravel(), self.values.ravel()),
            "roc_auc": _mean(self._of_labels(roc_auc)),
            "exact_match": float((gold == predicted).all(axis=1).mean()),
        }
        return {name: defined(value) for name, value in found.items()}

    def _of_labels(self, figure: Any) -> list[float]:
        return [figure(gold, scores) for gold, scores in zip((self.gold > 0).T, self.values.T, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """exact_match: the share of rows whose labels are all right."""
        gold, predicted = self.gold > 0, self.values > THRESHOLD
        right = (gold & predicted).sum(axis=0)
        columns = (
            _ratio(right, predicted.sum(axis=0)),
            _ratio(right, gold.sum(axis=0)),
            _f1(gold, predicted),
            self._of_labels(average_precision),
            self._of_labels(roc_auc),
            gold.sum(axis=0),
        )
        names = "precision", "recall", "f1", "average_precision", "roc_auc", "rows"
        return {
            "problem_type": "multi_label_classification",
            "rows": self.rows,
            **self.figures,
            "log_loss": defined(self.log_loss),
            "threshold": THRESHOLD,
            "labels": list(self.labels),
            "per_label": {
                label: {
                    name: int(value) if name == "rows" else defined(float(value))
                    for name, value in zip(names, values, strict=True)
                }
                for label, *values in zip(self.labels, *columns, strict=True)
            },
        }


def _f1(gold: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> Floats:
    """Of each column; 0 for a label that no row has and none is predicted to have."""
    return _ratio(2 * (gold & predicted).sum(axis=0), gold.sum(axis=0) + predicted.sum(axis=0))


def _ratio(part: Any, whole: Any) -> Floats:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
