"""Metrics of a pair classifier, kept as sums over labelled pairs, which several ranks can add before they divide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import RunError

Floats = NDArray[np.float64]

BINS = 15  # of the reliability diagram, with equal widths (Guo et al. 2017, section 5)
_Z95 = 1.959963984540054  # the 0.975 quantile of the normal distribution


class ClassificationMetrics:
    """Accuracy, log loss, F1, calibration error and others. The memory does not grow with the number of pairs.

    It keeps sums: `confusion[gold, predicted]` (counts), `log_loss` (nats), `squared_error` (of the probabilities of
    all labels), and `bins` `[BINS, 3]`, for each bin of confidence: number of pairs, sum of the confidences, number of
    right predictions. The confidence is the probability of the predicted label.
    """

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        self.log_loss = 0.0
        self.squared_error = 0.0
        self.bins = np.zeros((BINS, 3))

    def add(self, logits: NDArray[np.floating], gold: NDArray[np.integer], temperature: float = 1.0) -> None:
        """Add pairs. logits: `[pairs, labels]`, which are divided by `temperature`. gold: `[pairs]`, indices of labels.

        Raises RunError if a logit is not a finite number: argmax would give a label for it without an error.
        """
        size, pairs = len(self.labels), np.arange(len(gold))
        assert logits.shape == (len(gold), size)
        if not np.isfinite(logits).all():
            raise RunError("the model's scores are not finite numbers", do="check the training loss, or use fp32")
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
        """All sums as one float64 vector, for one all-reduce over ranks. Counts up to 2**53 are exact."""
        return np.concatenate([self.confusion.ravel(), [self.log_loss, self.squared_error], self.bins.ravel()])

    @classmethod
    def from_vector(cls, labels: Sequence[str], vector: Floats) -> ClassificationMetrics:
        """The metrics from the vector of `as_vector`, or from the sum of several vectors."""
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
    def main(self) -> tuple[str, float]:
        """The figure by which models are compared, and its name."""
        return "accuracy", self.accuracy

    @property
    def figures(self) -> dict[str, float]:
        """What the evaluation of a run records, beside the loss."""
        return {"accuracy": self.accuracy}

    def figure(self, name: str) -> float:
        """One of those that a model can be chosen by: accuracy, macro_f1, mcc, log_loss."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "mcc": self.mcc, "log_loss": self.loss}[name]

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% interval (see `wilson`)."""
        return wilson(int(self.confusion.trace()), self.rows)

    @property
    def loss(self) -> float:
        """Mean log loss in nats: the cross-entropy, which training minimises unless the run file says otherwise."""
        return self.log_loss / self.rows if self.rows else math.nan

    @property
    def brier(self) -> float:
        """Brier score: the squared error summed over labels, mean over pairs, from 0 to 2 (Brier 1950, equation 2)."""
        return self.squared_error / self.rows if self.rows else math.nan

    @property
    def ece(self) -> float:
        """Expected calibration error: the mean of |accuracy - mean confidence| over bins, weighted by their pairs (Guo
        et al. 2017, equation 3)."""
        return float(np.abs(self.bins[:, 2] - self.bins[:, 1]).sum()) / self.rows if self.rows else math.nan

    @property
    def precision(self) -> Floats:
        """`[labels]`; 0 for a label that was never predicted."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Floats:
        """`[labels]`; 0 for a label that is never the gold label."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(axis=1))

    @property
    def f1(self) -> Floats:
        """`[labels]`; 0 for a label without a right prediction."""
        return _ratio(2 * self.confusion.diagonal(), self.confusion.sum(axis=0) + self.confusion.sum(axis=1))

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the labels that occur as a gold label or a prediction, as in scikit-learn's `f1_score`."""
        there = self.confusion.sum(axis=0) + self.confusion.sum(axis=1) > 0
        return float(self.f1[there].mean()) if self.rows else math.nan

    @property
    def mcc(self) -> float:
        """Matthews' correlation coefficient of predictions and gold labels (Gorodkin 2004, equation 8), as in
        scikit-learn's `matthews_corrcoef`; 0 where all predictions, or all gold labels, are the same."""
        counts = self.confusion.astype(np.float64)
        gold, predicted, rows = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
        spread = (rows**2 - gold @ gold) * (rows**2 - predicted @ predicted)
        together = counts.trace() * rows - gold @ predicted
        return float(together / math.sqrt(spread)) if spread else 0.0 if self.rows else math.nan

    def to_json(self) -> dict[str, Any]:
        """All metrics as JSON values. `confusion[gold][predicted]`; `reliability` has only the bins with rows."""
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "rows": self.rows,
            "loss": self.loss,
            "brier": self.brier,
            "ece": self.ece,
            "macro_f1": self.macro_f1,
            "mcc": self.mcc,
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
    """95% score interval of the proportion `right` / `rows` (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4).

    Unlike the interval from the normal distribution, it stays within 0 and 1 and is valid for few rows.
    """
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
