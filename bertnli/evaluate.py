"""Metrics of a pair classifier, summed over exactly every labelled row.

A `Tally` holds nothing but sums, so that the tallies of several ranks are added and only then divided. `evaluate`
streams a file through any `Predictor`: a checkpoint, a Hugging Face folder or an ONNX bundle, all measured alike.
"""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bertnli.errors import InputError, RunError
from bertnli.labels import NO_GOLD
from bertnli.pairs import LabelledPair, PairFile, read_labelled

Floats = NDArray[np.float64]

BATCH = 4096  # pairs handed to the predictor at once; it cuts its own batches out of them, by length
EXAMPLES = 10  # right ones, and as many wrong ones
_SHOWN = 400  # characters of a sentence kept for an example
_Z95 = 1.959963984540054  # the normal distribution's quantile at 0.975


class Predictor(Protocol):
    """Anything that classifies pairs. It cuts its own batches."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, labels]`, in the order of the pairs."""


class Tally:
    """Sums over labelled pairs: `confusion[gold, predicted]` (counts) and `log_loss` (nats)."""

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.confusion = np.zeros((len(self.labels), len(self.labels)), np.int64)
        self.log_loss = 0.0

    def add(self, logits: NDArray[np.floating], gold: NDArray[np.integer]) -> None:
        """Count `logits` `[pairs, labels]` against `gold` `[pairs]`, indices into `labels`.

        Raises RunError if a logit is not a finite number: argmax would make a label of it all the same.
        """
        size = len(self.labels)
        assert logits.shape == (len(gold), size)
        if not np.isfinite(logits).all():
            raise RunError("the model's scores are not finite numbers", do="look at the training loss, or use fp32")
        self.confusion += np.bincount(gold * size + logits.argmax(axis=1), minlength=size**2).reshape(size, size)
        self.log_loss -= float(log_softmax(logits)[np.arange(len(gold)), gold].sum())

    def as_vector(self) -> Floats:
        """The sums as `[labels**2 + 1]` float64 (exact up to 2**53 pairs a cell), for one all-reduce over ranks."""
        return np.append(self.confusion.astype(np.float64).ravel(), self.log_loss)

    @classmethod
    def from_vector(cls, labels: Sequence[str], vector: Floats) -> Tally:
        """The tally that `as_vector` wrote, or the sum of several."""
        tally = cls(labels)
        tally.confusion += np.rint(vector[:-1]).astype(np.int64).reshape(tally.confusion.shape)
        tally.log_loss = float(vector[-1])
        return tally

    @property
    def rows(self) -> int:
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        return float(self.confusion.trace()) / self.rows if self.rows else math.nan

    @property
    def accuracy_interval(self) -> tuple[float, float]:
        """95% score interval of the accuracy (Wilson 1927; Brown, Cai and DasGupta 2001, equation 4)."""
        if not self.rows:
            return math.nan, math.nan
        n, share = self.rows, self.accuracy
        middle = (share + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(share * (1 - share) / n + _Z95**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def loss(self) -> float:
        """Mean log loss in nats (the cross-entropy that training minimises)."""
        return self.log_loss / self.rows if self.rows else math.nan

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
        """Every figure as plain numbers, strings, lists and maps; `confusion[gold][predicted]`."""
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.accuracy_interval),
            "rows": self.rows,
            "loss": self.loss,
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
        }


@dataclass(frozen=True)
class Example:
    """One pair and what the model makes of it."""

    row: int  # in the file, from 1
    premise: str
    hypothesis: str
    gold: str
    predicted: str
    probabilities: Mapping[str, float]  # of every label, in the model's order

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "probabilities": dict(self.probabilities)}


@dataclass(frozen=True)
class Evaluation:
    """What a predictor made of a file."""

    data: str  # the file
    tally: Tally
    no_gold_rows: int  # left out: the annotators did not agree on a label
    bad_rows: int  # left out because skip_bad_rows said so
    right: Sequence[Example]  # the closest calls, spread over the labels
    wrong: Sequence[Example]  # the most confident mistakes, spread over the kinds of mistake
    seconds: float  # from the first row read to the last one counted

    @property
    def pairs_per_second(self) -> float:
        return self.tally.rows / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and maps; what `bertnli eval --json` prints and report.py shows."""
        return {
            "data": self.data,
            **self.tally.to_json(),
            "no_gold_rows": self.no_gold_rows,
            "bad_rows": self.bad_rows,
            "examples": {
                "right": [example.to_json() for example in self.right],
                "wrong": [example.to_json() for example in self.wrong],
            },
            "seconds": self.seconds,
            "pairs_per_second": self.pairs_per_second,
        }


def evaluate(
    predictor: Predictor,
    file: PairFile,
    *,
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
    batch: int = BATCH,
    also: Sequence[Callable[[NDArray[np.float32], list[LabelledPair]], None]] = (),
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Measure `predictor` on every row of `file` that has a gold label; memory does not grow with the file.

    `also`: what else is to be counted, called with logits `[rows, labels]` and rows. `progress` is called with the
    pairs done and the pairs in all (None for a pipe, which cannot be looked through before it is scored).

    Raises InputError before the first pair is scored if the file has bad rows (unless they are skipped), no labelled
    row, or labels that the model does not know; RunError if a score is not a finite number.
    """
    pairs = read_labelled(file, predictor.labels, skip_bad_rows=skip_bad_rows, label_names=label_names)
    total = None
    if Path(file.path).is_file():
        if skip_bad_rows:
            _refuse_unknown_labels(file, predictor.labels, label_names or {})
        total = sum(1 for _ in pairs)  # a bad row near the end is found now, not after an hour of scoring
    tally, chosen = Tally(predictor.labels), _Examples(predictor.labels)
    start = time.perf_counter()
    stream = iter(pairs)
    while rows := list(islice(stream, batch)):
        logits = predictor.logits([pair.premise for pair in rows], [pair.hypothesis for pair in rows])
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            raise RunError(
                f"{file.name}: row {rows[finite.argmin()].number}: the model's scores are not finite numbers",
                found=", ".join(map(str, logits[finite.argmin()].tolist())),
                do="look at the training loss, or score in fp32",
            )
        tally.add(logits, np.array([pair.label for pair in rows], np.int64))
        chosen.add(logits, rows)
        for count in also:
            count(logits, rows)
        if progress is not None:
            progress(tally.rows, total)
    seconds = time.perf_counter() - start
    return Evaluation(
        data=file.name,
        tally=tally,
        no_gold_rows=pairs.no_gold,
        bad_rows=pairs.bad,
        right=chosen.right(),
        wrong=chosen.wrong(),
        seconds=seconds,
    )


def log_softmax(logits: NDArray[np.floating]) -> Floats:
    """Log probabilities `[pairs, labels]`, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Floats:
    return np.divide(part, whole, out=np.zeros(len(part)), where=whole > 0)


def _refuse_unknown_labels(file: PairFile, labels: Sequence[str], label_names: Mapping[str, str]) -> None:
    """Rows may be skipped, but not a whole class of them: what is left would be another, easier task."""
    known = {name.strip().casefold() for name in (*labels, *label_names, NO_GOLD, "-1")}
    found = Counter(row.label.strip() for row in file.rows() if row.label and not row.error)
    unknown = {label: count for label, count in found.most_common() if label.casefold() not in known}
    if unknown:
        shown = ", ".join(f"{label[:40]!r} ({count} rows)" for label, count in list(unknown.items())[:10])
        raise InputError(
            f"{file.name}: labels that the model does not know",
            found=shown + ("" if len(unknown) <= 10 else f" and {len(unknown) - 10} more"),
            expected=", ".join(labels),
            do=f"say with label names which of the model's each one is; {NO_GOLD!r} leaves its rows out",
        )


class _Examples:
    """The best candidates so far for each pair of gold and predicted label, at most EXAMPLES of each."""

    def __init__(self, labels: Sequence[str]):
        self.labels = tuple(labels)
        self.kept: dict[tuple[int, int], list[tuple[float, Example]]] = defaultdict(list)

    def add(self, logits: NDArray[np.floating], rows: Sequence[LabelledPair]) -> None:
        log_probabilities = log_softmax(logits)
        predicted = logits.argmax(axis=1)
        surety = log_probabilities.max(axis=1)
        gold = np.array([pair.label for pair in rows])
        for index in range(len(self.labels) ** 2):
            cell = divmod(index, len(self.labels))
            here = np.flatnonzero((gold == cell[0]) & (predicted == cell[1]))
            rank = surety[here] if cell[0] == cell[1] else -surety[here]
            best = np.argsort(rank, kind="stable")[:EXAMPLES]
            found = [(float(rank[i]), self._example(rows[here[i]], cell[1], log_probabilities[here[i]])) for i in best]
            self.kept[cell] = sorted(self.kept[cell] + found, key=lambda one: (one[0], one[1].row))[:EXAMPLES]

    def _example(self, pair: LabelledPair, predicted: int, log_probabilities: Floats) -> Example:
        return Example(
            row=pair.number,
            premise=_shorten(pair.premise),
            hypothesis=_shorten(pair.hypothesis),
            gold=self.labels[pair.label],
            predicted=self.labels[predicted],
            probabilities=dict(zip(self.labels, np.exp(log_probabilities).tolist(), strict=True)),
        )

    def right(self) -> list[Example]:
        """The right predictions of the lowest probability."""
        return self._spread(found for (gold, predicted), found in self.kept.items() if gold == predicted)

    def wrong(self) -> list[Example]:
        """The wrong predictions of the highest probability."""
        return self._spread(found for (gold, predicted), found in self.kept.items() if gold != predicted)

    @staticmethod
    def _spread(cells: Iterable[list[tuple[float, Example]]]) -> list[Example]:
        """The first of every cell, then the second ones, and so on, as long as there is room; the best comes first."""
        turns = [(turn, rank, one.row, one) for cell in cells for turn, (rank, one) in enumerate(cell)]
        chosen = sorted(turns, key=lambda turn: turn[:3])[:EXAMPLES]
        return [example for *_, example in sorted(chosen, key=lambda turn: turn[1:3])]


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
