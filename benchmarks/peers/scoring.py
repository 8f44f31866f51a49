"""Shared by scoring peers: from a file of pairs to a file of scores, with tokenising and writing, without loading.

Each peer runs at the batch size that is fastest on this machine, which is searched before the rounds. All fp32 peers
must give the same probabilities. Peers in lower precision cannot; the record has the labels that they change, their
accuracy, and how far a pair's probabilities depend on the other pairs in its batch.
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

from benchmarks.peer import Peer, Run, difference, stopwatch
from benchmarks.work import Work

Pairs = Sequence[tuple[str, str]]
Probabilities = NDArray[np.floating]  # [pairs, labels], in the order of the pairs and of the model's labels

BATCH_SIZES = (8, 16, 32, 64)
GPU_BATCH_SIZES = (128, 512, 1024)
_FEWEST, _BATCHES_TRIED = 64, 4  # a batch size is tried on: at least so many rows, at most so many batches
BATCHED = 32  # pairs of the batch in which a pair's probabilities are compared with those of the pair alone
_BATCHES = 4  # number of such batches


@dataclass
class Scoring(Peer):
    """precision: of the matrix products. Below fp32, `tolerance` is a share of changed labels."""

    work: Work
    precision: str = "fp32"
    batch_size: int = BATCHED
    tried: dict[int, float] = field(default_factory=dict)  # batch size to pairs per second
    batch_sizes: Sequence[int] = BATCH_SIZES

    def __post_init__(self) -> None:
        # Of a probability; below fp32, a share of labels that only a broken peer changes.
        self.tolerance = 1e-4 if self.precision == "fp32" else 0.1

    @abstractmethod
    def load(self) -> None:
        """Load the model. Raises Unavailable."""

    @abstractmethod
    def probabilities(self, pairs: Pairs) -> Probabilities:
        """`[pairs, labels]`, computed in batches of `batch_size` pairs."""

    def settings(self) -> dict[str, Any]:
        """Settings other than the batch size, for the record."""
        return {}

    def score(self, rows: Path, out: Path) -> float:
        """Score `rows` into `out`, JSON lines as bertnli writes them; returns the seconds that do not count."""
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

    # --- called by the harness -------------------------------------------------------------------------------------

    def options(self) -> dict[str, Any]:
        batches = {"batch_size": self.batch_size, "pairs_per_second_by_batch_size": self.tried}
        return {"precision": self.precision, **(batches if self.batch_sizes else {}), **self.settings()}

    def check(self) -> list[float]:
        """The probabilities of every row, as the file has them."""
        self.load()
        out = self.work.folder / f"{self.name}-check.jsonl"
        self.score(self.work.rows, out)
        with out.open(encoding="utf-8") as file:
            return [row[f"p_{label}"] for row in map(json.loads, file) for label in self.labels]

    def distance(self, figures: Sequence[float], reference: Sequence[float]) -> float:
        far = difference(figures, reference)
        return far if self.precision == "fp32" or far == float("inf") else self._changed(figures, reference)

    def quality(self, reference: Sequence[float]) -> dict[str, Any]:
        """Over all rows, the share of labels that differ from the reference's, and the accuracy if there are gold
        labels; over some rows, the largest difference of a probability between a pair alone and in a batch."""
        with (self.work.folder / f"{self.name}-check.jsonl").open(encoding="utf-8") as file:
            written = list(map(json.loads, file))
        figures = [row[f"p_{label}"] for row in written for label in self.labels]
        gold = [(row["prediction"], row["gold_label"]) for row in written if row.get("gold_label") in self.labels]
        found: dict[str, Any] = {"labels_changed": self._changed(figures, reference)}
        if gold:
            found["accuracy"] = float(np.mean([prediction == label for prediction, label in gold]))
        pairs = [(row["sentence1"], row["sentence2"]) for row in written[: _BATCHES * BATCHED]]
        return found | {"depends_on_company": self._batch_dependence(pairs)}

    def prepare(self) -> None:
        self.load()
        most = _BATCHES_TRIED * max(self.batch_sizes, default=_FEWEST)
        pairs = min(self.work.pairs, most, max(_FEWEST, self.work.pairs // 8))
        rows = self.work.head(pairs)
        for size in (*self.batch_sizes, *self.batch_sizes):  # twice, as others may disturb one; the faster counts
            self.batch_size = size
            with stopwatch() as seconds:
                self.score(rows, self.work.folder / f"{self.name}-search.jsonl")
            self.tried[size] = max(pairs / seconds(), self.tried.get(size, 0.0))
        if self.tried:
            self.batch_size = max(self.tried, key=self.tried.__getitem__)

    def run(self, amount: int) -> Run:
        rows = self.work.head(min(amount, self.work.pairs))
        with stopwatch() as seconds:
            uncounted = self.score(rows, self.work.folder / f"{self.name}.jsonl")
        return Run(min(amount, self.work.pairs), seconds() - uncounted)

    def _changed(self, figures: Sequence[float], reference: Sequence[float]) -> float:
        ours, theirs = (np.reshape(values, (-1, len(self.labels))).argmax(axis=1) for values in (figures, reference))
        return float((ours != theirs).mean())

    def _batch_dependence(self, pairs: Pairs) -> float:
        alone = np.concatenate([self.probabilities([pair]) for pair in pairs])
        parts = [pairs[start : start + BATCHED] for start in range(0, len(pairs), BATCHED)]
        return float(np.abs(alone - np.concatenate([self.probabilities(part) for part in parts])).max())


def by_length(lengths: Sequence[int], batch_size: int) -> list[NDArray[np.int64]]:
    """Indices of batches, the longest pairs first, for peers that leave sorting to the caller."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def softmax(logits: NDArray[np.floating]) -> Probabilities:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
