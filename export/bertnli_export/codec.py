"""What is done with a chunk of the input before and after the model: bytes to pairs, scores to bytes.

Every process that scores does this for its own chunks, so that one Python interpreter does not hold up several devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import eq
from typing import Any, NamedTuple

import numpy as np

from bertnli.data.labels import UNKNOWN, LabelTable
from bertnli.data.outputs import Outputs
from bertnli.data.pair_rows import Chunk, RawChunk
from bertnli.data.pairs import PairFile
from bertnli_export.encoders import Encoder, RowResult
from bertnli_export.expansion import Expansion, Texts
from bertnli_export.label_counts import LabelCounts
from bertnli_export.run_record import Counts
from bertnli_export.scorer import NOT_FINITE, Prediction, Scores


class Task(NamedTuple):
    """A chunk, and the indices of its rows that can be scored. cells: of these, if an expansion reads a column."""

    chunk: Chunk
    good: list[int]
    cells: list[Any] | None = None

    @property
    def texts(self) -> Texts:
        rows = [self.chunk.rows[index] for index in self.good]
        return Texts([row.premise or "" for row in rows], [row.hypothesis or "" for row in rows], self.cells)


class ScoredChunk(NamedTuple):
    """Bytes of the output, and what a run wants to know of their rows."""

    data: bytes
    counts: Counts
    first_bad: tuple[int, str] | None  # number of the first row without scores, and the reason


@dataclass(frozen=True)
class Codec:
    """Of one input and output. It can be pickled, for worker processes. outputs: of the model. expansion: how a row
    becomes several pairs, if it does."""

    file: PairFile
    outputs: Outputs
    encoder: Encoder
    expansion: Expansion | None = None

    def parse(self, raw: RawChunk) -> Task:
        """Raises RunError for a damaged file."""
        chunk = self.file.parse(raw)
        good = [index for index, row in enumerate(chunk.rows) if row.error is None]
        if self.expansion is None or self.expansion.column is None:
            return Task(chunk, good)
        records = self.file.values(chunk)
        return Task(chunk, good, [(records[index] or {}).get(self.expansion.column) for index in good])

    def encode(self, task: Task, scores: Scores) -> ScoredChunk:
        """`scores`: of the good rows. Raises RunError for values that the output cannot hold."""
        rows = task.chunk.rows
        finite = np.isfinite(scores.values).all(axis=1)
        counts = Counts(rows=len(rows), truncated=int(scores.truncated[finite].sum()))

        columns = scores.predictions, scores.values.tolist(), scores.truncated.tolist(), repeat(None)
        found = map(RowResult, *columns, *([scores.extras] if scores.extras else []))
        results = [next(found) if row.error is None else _without_scores(row.error) for row in rows]
        for index in np.flatnonzero(~finite):
            results[task.good[index]] = _without_scores(scores.refused.get(int(index), NOT_FINITE))
        bad = [(row.number, result.error) for row, result in zip(rows, results, strict=True) if result.error]
        counts.errors = len(bad)
        if self.outputs.problem_type == "single_label_classification":
            good, predictions = task.good, scores.predictions
            if not finite.all():
                good = [task.good[index] for index in np.flatnonzero(finite).tolist()]
                predictions = [scores.predictions[index] for index in np.flatnonzero(finite).tolist()]
            counts.labels = self._against_gold([rows[index].label for index in good], predictions)
        return ScoredChunk(self.encoder.encode(task.chunk, results), counts, bad[0] if bad else None)

    def _against_gold(self, cells: Sequence[str | None], predictions: Sequence[Prediction]) -> LabelCounts:
        """Label cells, and what the model says of the same rows."""
        names = self.outputs.names
        table, named = LabelTable(names), dict(enumerate(names)).get
        gold = [table.index(cell) for cell in cells]
        indices = np.array(gold, np.int64)
        counts = LabelCounts(int((indices >= 0).sum()), sum(map(eq, map(named, gold), predictions)))
        for place in np.flatnonzero(indices == UNKNOWN).tolist():
            if (cell := cells[place]) is not None:
                counts.add_unknown(cell)
        return counts


def _without_scores(reason: str) -> RowResult:
    return RowResult(None, None, False, reason)
