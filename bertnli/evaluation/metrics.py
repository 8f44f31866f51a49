"""Metrics of a pair classifier in sums over labelled pairs: those of several ranks are added and only then divided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import RunError

Floats = NDArray[np.float64]

BINS = 15  # of the reliability diagram, of equal width (Guo et al. 2017, section 5)
_Z95 = 1.959963984540054  # the normal distribution's quantile at 0.975


class ClassificationMetrics:
    """Sums over labelled pairs; their number and size do not grow with the pairs.

    `confusion[gold, predicted]` (counts), `log_loss` (nats), `squared_error` (of the probabilities of all labels), and
    `bins` `[BINS, 3]`: pairs, sum of confidences and right predictions by confidence, which is the predicted label's
    probability.
    """

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        self.log_loss = 0.0
        self.squared_error = 0.0
        self.bins = np.zeros((BINS, 3))

    def add(self, logits: NDArray[np.floating], gold: NDArray[np.integer], temperature: float = 1.0) -> None:
        """Count `logits` `[pairs, labels]`, divided by `temperature`, against `gold` `[pairs]`, indices into `labels`.

        Raises RunError if a logit is not a finite number: argmax would make a label of it all the same.
        """
        size, pairs = len(self.labels), np.arange(len(gold))
        assert logits.shape == (len(gold), size)
        if not np.isfinite(logits).all():
            raise RunError("the model's scores are not finite numbers", do="look at the training loss, or use fp32")
        predicted = logits.argmax(axis=1)
        self.confusion += np.bincount(gold * size + predicted, minlength=size**2).reshape(size, size)
        log_probabilities = log_softmax(logits, temperature)
        self.log_loss -= float(log_probabilities[pairs, gold].sum())
        probabilities = np.exp(log_probabilities)
        confidence = probabilities[pairs, predicted]
        self.squared_error += float(((probabilities - np.eye(size)[gold]) ** 2).sum())
        # bin m is the half-open interval (m / BINS, (m + 1) / BINS]
        places = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
        for column, values in enumerate((None, confidence, predicted == gold)):
            self.bins[:, column] += np.bincount(places, values, BINS)

    def as_vector(self) -> Floats:
        """All sums as one float64 vector (exact up to 2**53 pairs a cell), for one all-reduce over ranks."""
        return np.concatenate([self.confusion.ravel(), [self.log_loss, self.squared_error], self.bins.ravel()])

    @classmethod
    def from_vector(cls, labels: Sequence[str], vector: Floats) -> ClassificationMetrics:
        """The metrics that `as_vector` wrote, or the sum of several."""
        metrics = cls(labels)
        counts, losses, bins = np.split(vector, [metrics.confusion.size, metrics.confusion.size + 2])
        metrics.confusion += np.rint(counts).astype(np.int64).reshape(metrics.confusion.shape)
        metrics.log_loss, metrics.squared_error = map(float, losses)
        metrics.bins += bins.reshape(metrics.bins.shape)
        return metrics

    @property
    def rows(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(self.confusion.trace()) / self.rows if self.rows else math.nan

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% interval, as `wilson` gives it."""
        return wilson(int(self.confusion.trace()), self.rows)

    @property
    def loss(self) -> float:
        """Mean log loss in nats (the cross-entropy that training minimises)."""
        return self.log_loss / self.rows if self.rows else math.nan

    @property
    def brier(self) -> float:
        """Mean over pairs of the squared error summed over labels, 0 to 2 (Brier 1950, equation 2)."""
        return self.squared_error / self.rows if self.rows else math.nan

    @property
    def ece(self) -> float:
        """Expected calibration error: |accuracy - mean confidence| of each bin, weighted by its pairs (Guo et al. 2017,
        equation 3)."""
        return float(np.abs(self.bins[:, 2] - self.bins[:, 1]).sum()) / self.rows if self.rows else math.nan

    @property
    def precision(self) -> Floats:
        """`[labels]`; 0 for a label that was never predicted."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Floats:
        """`[labels]`; 0 for a label that no pair has."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def f1(self) -> Floats:
        """`[labels]`; 0 for a label that was never right."""
        return _ratio(2 * self.confusion.diagonal(), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that are some pair's gold label or prediction, as in scikit-learn's `f1_score`."""
        there = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(self.f1[there].mean()) if self.rows else math.nan

    def to_json(self) -> dict[str, Any]:
        """Every figure as plain numbers, strings, lists and maps; `confusion[gold][predicted]`; `reliability` has the
        bins that have rows."""
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "rows": self.rows,
            "loss": self.loss,
            "brier": self.brier,
            "ece": self.ece,
            "macro_f1": self.macro_f1,
            "labels": list(self.labels),
            "confusion": self.confusion.tolist(),
            "per_class": {
                label: {
                    "precision": float(self.precision[index]),
                    "recall": float(self.recall[index]),
                    "f1": float(self.f1[index]),
                    "rows": int(self.confusion[index].sum()),
                }
                for index, label in enumerate(self.labels)
            },
            "reliability": [
                {
                    "above": place / BINS,
                    "up_to": (place + 1) / BINS,
                    "rows": int(rows),
                    "confidence": confidences / rows,
                    "accuracy": right / rows,
                }
                for place, (rows, confidences, right) in enumerate(self.bins.tolist())
                if rows
            ],
        }


def wilson(right: int, rows: int) -> tuple[float, float]:
    """95% score interval of the share `right` / `rows` (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4)."""
    if not rows:
        return math.nan, math.nan
    share = right / rows
    middle = (share + _Z95**2 / (2 * rows)) / (1 + _Z95**2 / rows)
    half = _Z95 / (1 + _Z95**2 / rows) * math.sqrt(share * (1 - share) / rows + _Z95**2 / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def log_softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Log probabilities `[pairs, labels]` of the logits divided by `temperature`, in float64."""
    shifted = (logits.astype(np.float64) - logits.max(axis=1, keepdims=True)) / temperature
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> Floats:
    """Probabilities `[pairs, labels]` of the logits divided by `temperature`, in float64."""
    return np.exp(log_softmax(logits, temperature))


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)
