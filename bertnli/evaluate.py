"""A classifier measured on every labelled row of a file.

`evaluate` streams the file through any `Predictor`: a checkpoint, a Hugging Face folder or an ONNX bundle, all measured
alike. tally.py has the metrics.
"""

from __future__ import annotations

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
from bertnli.tally import Floats, Tally, log_softmax

BATCH = 4096  # pairs handed to the predictor at once; it cuts its own batches out of them, by length
EXAMPLES = 10  # right ones, and as many wrong ones
_SHOWN = 400  # characters of a sentence kept for an example


class Predictor(Protocol):
    """Anything that classifies pairs. It cuts its own batches."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, labels]`, in the order of the pairs."""


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
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Measure `predictor` on every row of `file` that has a gold label; memory does not grow with the file.

    `progress` is called with the pairs done and the pairs in all (None for a pipe, which cannot be looked through
    before it is scored).

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
