"""What scoring peers share: a file of pairs to a file of scores, tokenising and writing included, loading apart.

Each is measured at the batch size that was the fastest here, found before the rounds. All fp32 ones must give the same
probabilities. Those in lower precision cannot; what that changes is put beside their rate: labels, accuracy, and how
far a pair's probabilities depend on the pairs it is batched with.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness import Peer, Run, difference, stopwatch
from benchmarks.work import Work

Pairs = Sequence[tuple[str, str]]
Probabilities = NDArray[np.floating]  # [pairs, labels], in the order of the pairs and of the model's labels

BATCH_SIZES = (8, 16, 32, 64)
GPU_BATCH_SIZES = (128, 512, 1024)
_FEWEST, _BATCHES_TRIED = 64, 4  # rows and largest batches that they are tried on: at least, at most
COMPANY = 32  # pairs in the batch that each of them is compared with being alone
_BATCHES = 4  # such batches


@dataclass
class Scoring(Peer):
    """precision: what its products are computed in; with any but fp32, `tolerance` is the share of changed labels."""

    work: Work
    precision: str = "fp32"
    batch_size: int = COMPANY
    tried: dict[int, float] = field(default_factory=dict)  # batch size to pairs per second
    batch_sizes: Sequence[int] = BATCH_SIZES

    def __post_init__(self) -> None:
        # Of a probability; or, for one that is not exact, so many labels that it must be broken.
        self.tolerance = 1e-4 if self.precision == "fp32" else 0.1

    @abstractmethod
    def load(self) -> None:
        """The model, ready. Raises Unavailable."""

    @abstractmethod
    def probabilities(self, pairs: Pairs) -> Probabilities:
        """At most `batch_size` pairs at once."""

    def settings(self) -> dict[str, Any]:
        """Choices beside the batch size, for the record."""
        return {}

    def score(self, rows: Path, out: Path) -> float:
        """Score `rows` into `out`, JSON lines as bertnli writes them; returns the seconds not to be counted."""
        with rows.open(encoding="utf-8") as file:
            read = [json.loads(line) for line in file]
        found = self.probabilities([(row["sentence1"], row["sentence2"]) for row in read])
        with out.open("w", encoding="utf-8") as file:
            for row, best, each in zip(read, found.argmax(axis=1), found.tolist(), strict=True):
                scores = {f"p_{label}": round(p, 6) for label, p in zip(self.labels, each, strict=True)}
                file.write(json.dumps({**row, "prediction": self.labels[best], **scores}, ensure_ascii=False) + "\n")
        return 0.0

    @cached_property
    def labels(self) -> list[str]:
        names = json.loads((self.work.model / "config.json").read_text(encoding="utf-8"))["id2label"]
        return [names[str(index)] for index in range(len(names))]

    # --- as the harness asks -------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        batches = {"batch_size": self.batch_size, "pairs_per_second_by_batch_size": self.tried}
        return {"precision": self.precision, **(batches if self.batch_sizes else {}), **self.settings()}

    def check(self) -> list[float]:
        """The probabilities of every row, as they stand in the file."""
        self.load()
        out = self.work.folder / f"{self.name}-check.jsonl"
        self.score(self.work.rows, out)
        with out.open(encoding="utf-8") as file:
            return [row[f"p_{label}"] for row in map(json.loads, file) for label in self.labels]

    def distance(self, figures: Sequence[float], reference: Sequence[float]) -> float:
        far = difference(figures, reference)
        return far if self.precision == "fp32" or far == float("inf") else self._changed(figures, reference)

    def quality(self, reference: Sequence[float]) -> dict[str, Any]:
        """Over all rows: the share of labels that differ from the reference's, and the accuracy where rows have gold
        labels. Over some: the largest difference of a probability between a pair alone and in a batch."""
        with (self.work.folder / f"{self.name}-check.jsonl").open(encoding="utf-8") as file:
            written = list(map(json.loads, file))
        figures = [row[f"p_{label}"] for row in written for label in self.labels]
        gold = [(row["prediction"], row["gold_label"]) for row in written if row.get("gold_label") in self.labels]
        found: dict[str, Any] = {"labels_changed": self._changed(figures, reference)}
        if gold:
            found["accuracy"] = float(np.mean([prediction == label for prediction, label in gold]))
        pairs = [(row["sentence1"], row["sentence2"]) for row in written[: _BATCHES * COMPANY]]
        return found | {"depends_on_company": self._company(pairs)}

    def prepare(self) -> None:
        self.load()
        most = _BATCHES_TRIED * max(self.batch_sizes, default=_FEWEST)
        pairs = min(self.work.pairs, most, max(_FEWEST, self.work.pairs // 8))
        rows = self.work.head(pairs)
        for size in (*self.batch_sizes, *self.batch_sizes):  # twice, the faster counts: others may be about
            self.batch_size = size
            with stopwatch() as seconds:
                self.score(rows, self.work.folder / f"{self.name}-search.jsonl")
            self.tried[size] = max(pairs / seconds(), self.tried.get(size, 0.0))
        if self.tried:
            self.batch_size = max(self.tried, key=self.tried.__getitem__)

    def run(self, amount: int) -> Run:
        rows = self.work.head(min(amount, self.work.pairs))
        with stopwatch() as seconds:
            apart = self.score(rows, self.work.folder / f"{self.name}.jsonl")
        return Run(min(amount, self.work.pairs), seconds() - apart)

    def _changed(self, figures: Sequence[float], reference: Sequence[float]) -> float:
        ours, theirs = (np.reshape(values, (-1, len(self.labels))).argmax(axis=1) for values in (figures, reference))
        return float((ours != theirs).mean())

    def _company(self, pairs: Pairs) -> float:
        alone = np.concatenate([self.probabilities([pair]) for pair in pairs])
        parts = [pairs[begin : begin + COMPANY] for begin in range(0, len(pairs), COMPANY)]
        return float(np.abs(alone - np.concatenate([self.probabilities(part) for part in parts])).max())


def by_length(lengths: Sequence[int], batch_size: int) -> list[NDArray[np.int64]]:
    """Indices of batches, the longest first, as peers that leave sorting to the caller are given them."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[begin : begin + batch_size] for begin in range(0, len(order), batch_size)]


def softmax(logits: NDArray[np.floating]) -> Probabilities:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
