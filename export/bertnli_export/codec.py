"""What is done with a chunk of the input before and after the model: bytes to pairs, scores to bytes.

Every process that scores does this for its own chunks, so that one Python interpreter does not hold up several devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple

import numpy as np

from bertnli.data.labels import UNKNOWN, LabelTable
from bertnli.data.pairs import Chunk, PairFile, RawChunk
from bertnli_export.encoders import Encoder, RowResult
from bertnli_export.label_counts import LabelCounts
from bertnli_export.run_record import Counts
from bertnli_export.scorer import NOT_FINITE, Scores


class Task(NamedTuple):
    """A chunk, and the indices of its rows that can be scored."""

    chunk: Chunk
    good: list[int]

    @property
    def premises(self) -> list[str]:
        return [self.chunk.rows[index].premise or "" for index in self.good]

    @property
    def hypotheses(self) -> list[str]:
        return [self.chunk.rows[index].hypothesis or "" for index in self.good]


class ScoredChunk(NamedTuple):
    """Bytes of the output, and what a run wants to know of their rows."""

    data: bytes
    counts: Counts
    first_bad: tuple[int, str] | None  # number of the first row without scores, and the reason


@dataclass(frozen=True)
class Codec:
    """Of one input and output. It can be pickled, for worker processes. labels: of the model, in its order."""

    file: PairFile
    labels: Sequence[str]
    encoder: Encoder

    def parse(self, raw: RawChunk) -> Task:
        """Raises RunError for a damaged file."""
        chunk = self.file.parse(raw)
        return Task(chunk, [index for index, row in enumerate(chunk.rows) if row.error is None])

    def encode(self, task: Task, scores: Scores) -> ScoredChunk:
        """`scores`: of the good rows. Raises RunError for values that the output cannot hold."""
        rows = task.chunk.rows
        finite = ~np.isnan(scores.probabilities).any(axis=1)
        counts = Counts(rows=len(rows), truncated=int(scores.truncated[finite].sum()))

        predictions = [self.labels[index] for index in scores.best.tolist()]
        found = map(RowResult, predictions, scores.probabilities.tolist(), scores.truncated.tolist(), repeat(None))
        results = [next(found) if row.error is None else _without_scores(row.error) for row in rows]
        for index in np.flatnonzero(~finite):
            results[task.good[index]] = _without_scores(NOT_FINITE)
        bad = [(row.number, result.error) for row, result in zip(rows, results, strict=True) if result.error]
        counts.errors = len(bad)

        table = LabelTable(self.labels)
        gold = np.array([table.index(rows[index].label) for index in task.good], np.int64)
        counts.labels = LabelCounts(int((gold[finite] >= 0).sum()), int((gold == scores.best)[finite].sum()))
        for index in np.flatnonzero(finite & (gold == UNKNOWN)):
            if (label := rows[task.good[index]].label) is not None:
                counts.labels.add_unknown(label)
        return ScoredChunk(self.encoder.encode(task.chunk, results), counts, bad[0] if bad else None)


def _without_scores(reason: str) -> RowResult:
    return RowResult(None, None, False, reason)
