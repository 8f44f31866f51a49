"""Measures a model that gives a score, or independent labels, on all labelled rows of a file (see evaluate.py)."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bertnli.common.printable import shortened
from bertnli.data.labelled import LabelledPair
from bertnli.data.outputs import THRESHOLD, Outputs
from bertnli.data.pairs import PairFile
from bertnli.evaluation.column_values import Groups
from bertnli.evaluation.evaluate import (
    BATCH,
    Predictor,
    check_labelled_rows,
    logits_in_batches,
    outputs_of,
    tokenizer_of,
)
from bertnli.evaluation.example_predictions import EXAMPLES, SHOWN
from bertnli.evaluation.metrics import Floats
from bertnli.evaluation.score_metrics import LossKind, ScoreMetrics
from bertnli.evaluation.set_metrics import SetMetrics

NumberMetrics = ScoreMetrics | SetMetrics


def metrics_for(outputs: Outputs, loss_kind: LossKind | None = None) -> NumberMetrics:
    """Empty metrics for a model with these outputs. loss_kind: what a score is trained with; default: see there."""
    if outputs.problem_type == "regression":
        return ScoreMetrics(outputs.activation, loss_kind)
    return SetMetrics(outputs.names)


def evaluate_numbers(
    predictor: Predictor,
    file: PairFile,
    *,
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
    group: str | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int | None], None] | None = None,
) -> dict[str, Any]:
    """Measure `predictor` on all rows of `file` that have a gold label. Memory: some 20 bytes for a row and output.

    group: the column whose values say which rows are ranked together. Returns JSON values: those of the metrics'
    `to_json`, `ranking` with a group, and `furthest`, the rows whose scores are furthest from their gold ones. Raises
    as `evaluate` does, and for groups as `Groups` does.
    """
    outputs = outputs_of(predictor)
    groups = None if group is None else Groups(file, group)
    pairs, total = check_labelled_rows(
        file, outputs.names, skip_bad_rows, label_names, outputs.problem_type, tokenizer_of(predictor)
    )
    if groups is not None and total is not None:
        groups.check(pairs)
    metrics = metrics_for(outputs)
    furthest = _Furthest(outputs)
    start = time.perf_counter()
    for rows, logits, gold in logits_in_batches(predictor, pairs, batch):
        if groups is not None:
            groups.add(rows)
        metrics.add(logits, gold, predictor.temperature)
        furthest.add(rows, metrics.values_of(logits), gold)
        if progress is not None:
            progress(pairs.used, total)
    seconds = time.perf_counter() - start
    file.check_unchanged()
    found = {"data": file.name, **metrics.to_json()}
    if groups is not None and isinstance(metrics, ScoreMetrics):
        found["ranking"] = {"group": groups.column, **metrics.ranking(groups.numbers)}
    comparable = not isinstance(metrics, ScoreMetrics) or metrics.comparable
    return {
        **found,
        "temperature": predictor.temperature,
        "no_gold_rows": pairs.no_gold,
        "bad_rows": pairs.bad,
        "rows_by_label": pairs.rows_by_label(),
        "furthest": furthest.to_json() if comparable else [],
        "seconds": seconds,
        "pairs_per_second": metrics.rows / seconds,
    }


class _Furthest:
    """The rows whose numbers are furthest from the gold ones, at most EXAMPLES."""

    def __init__(self, outputs: Outputs):
        self._outputs = outputs
        self._kept: list[tuple[float, int, dict[str, Any]]] = []  # a heap, the nearest first

    def add(self, rows: Sequence[LabelledPair], values: Floats, gold: Floats) -> None:
        apart = np.abs(values - gold).max(axis=1)
        for index in np.argsort(-apart, kind="stable")[:EXAMPLES]:
            one = (float(apart[index]), -rows[index].number, self._example(rows[index], values[index].tolist()))
            if len(self._kept) < EXAMPLES:
                heapq.heappush(self._kept, one)
            else:
                heapq.heappushpop(self._kept, one)

    def _example(self, pair: LabelledPair, values: Sequence[float]) -> dict[str, Any]:
        example = {
            "row": pair.number,
            "premise": shortened(pair.premise, SHOWN),
            "hypothesis": shortened(pair.hypothesis, SHOWN),
        }
        if self._outputs.problem_type == "regression":
            return {**example, "gold": pair.label[0], "score": values[0]}
        names = self._outputs.names
        return {
            **example,
            "gold": [name for name, has in zip(names, pair.label, strict=True) if has],
            "predicted": [name for name, value in zip(names, values, strict=True) if value > THRESHOLD],
            "probabilities": dict(zip(names, values, strict=True)),
        }

    def to_json(self) -> list[dict[str, Any]]:
        """The furthest first."""
        return [example for *_, example in sorted(self._kept, key=lambda one: one[:2], reverse=True)]
