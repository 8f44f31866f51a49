"""Measures a classifier on all labelled rows of a file.

`evaluate` streams the file through a `Predictor`: a checkpoint, a Hugging Face folder or an ONNX bundle, all in the
same way. metrics.py has the metrics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import RunError
from bertnli.data.labelled import LabelledPair, LabelledPairs, RowsByLabel, read_labelled
from bertnli.data.outputs import Outputs, ProblemType
from bertnli.data.pairs import PairFile
from bertnli.data.tokenizer import PairTokenizer
from bertnli.evaluation.compare import Comparison
from bertnli.evaluation.example_predictions import ExamplePrediction, ExamplePredictions
from bertnli.evaluation.label_order import fitting_order
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.evaluation.slices import Slices

BATCH = 4096  # pairs in one call of the predictor, which makes its own batches of similar length from them


class Predictor(Protocol):
    """A classifier of pairs. It makes its own batches."""

    temperature: float
    """The logits are divided by it before the softmax or sigmoid."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, labels]`, in the order of the pairs, not divided by the temperature."""


def tokenizer_of(predictor: Predictor) -> PairTokenizer | None:
    """None for a predictor without one."""
    tokenizer = getattr(predictor, "tokenizer", None)
    return tokenizer if isinstance(tokenizer, PairTokenizer) else None


def outputs_of(predictor: Predictor) -> Outputs:
    """What the logits mean. A predictor without `outputs` gives a pair one of its labels."""
    return getattr(predictor, "outputs", None) or Outputs(predictor.labels)


class ComparedModel(NamedTuple):
    """A model to compare with, and the data for it."""

    name: str
    predictor: Predictor
    file: PairFile  # the same data, opened again: d2l's models read other columns of SNLI's files


@dataclass(frozen=True)
class Evaluation:
    """The results of a predictor on a file."""

    data: str  # name of the file
    temperature: float  # the logits were divided by it
    metrics: ClassificationMetrics
    without_temperature: ClassificationMetrics | None  # of the undivided logits; None if the temperature is 1
    no_gold_rows: int  # skipped, because they have no label, or the annotators did not agree
    bad_rows: int  # skipped by skip_bad_rows
    rows_by_label: RowsByLabel  # from `LabelledPairs.rows_by_label`
    right: Sequence[ExamplePrediction]  # the least confident right predictions, spread over the labels
    wrong: Sequence[ExamplePrediction]  # the most confident mistakes, spread over the kinds of mistake
    slices: Mapping[str, Any]  # from `Slices.to_json`
    against: Comparison | None
    seconds: float  # from the first row read to the last row counted, without the time of the other model

    @property
    def pairs_per_second(self) -> float:
        return self.metrics.rows / self.seconds

    def to_json(self) -> dict[str, Any]:
        """The results as JSON values; `bertnli eval --json` prints them and report.py shows them."""
        plain, order = self.without_temperature, fitting_order(self.metrics)
        return {
            "data": self.data,
            **self.metrics.to_json(),
            "temperature": self.temperature,
            "without_temperature": plain and {"loss": plain.loss, "brier": plain.brier, "ece": plain.ece},
            "swapped_labels": order and {"labels": list(order[0]), "accuracy": order[1]},
            "no_gold_rows": self.no_gold_rows,
            "bad_rows": self.bad_rows,
            "rows_by_label": self.rows_by_label,
            "examples": {
                "right": [example.to_json() for example in self.right],
                "wrong": [example.to_json() for example in self.wrong],
            },
            "slices": self.slices,
            "against": self.against and self.against.to_json(),
            "seconds": self.seconds,
            "pairs_per_second": self.pairs_per_second,
        }


def evaluate(
    predictor: Predictor,
    file: PairFile,
    *,
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
    against: ComparedModel | None = None,
    batch: int = BATCH,
    also: Sequence[Callable[[NDArray[np.float32], list[LabelledPair]], None]] = (),
    progress: Callable[[int, int | None], None] | None = None,
) -> Evaluation:
    """Measure `predictor` on all rows of `file` that have a gold label. Memory does not grow with the file.

    also: functions that are called for each batch with logits `[rows, labels]` and rows. progress: called with the
    number of pairs done and of all pairs (None for a pipe, whose rows cannot be counted before they are scored).

    Raises InputError before the first pair is scored: for bad rows (unless they are skipped), for a file without a
    labelled row, for labels that the model does not have (UnknownLabelsError), and if the model to compare with has
    other labels. Of a pipe's rows it raises them after that. Raises RunError if a score is not a finite number, and if
    the file changes meanwhile.
    """
    pairs, total = check_labelled_rows(
        file, predictor.labels, skip_bad_rows, label_names, tokenizer=tokenizer_of(predictor)
    )
    temperature = predictor.temperature
    metrics, chosen = ClassificationMetrics(predictor.labels), ExamplePredictions(predictor.labels)
    slices = Slices(file)
    without = ClassificationMetrics(predictor.labels) if temperature != 1 else None
    comparison = None
    if against is not None:
        comparison = Comparison(predictor.labels, against.predictor.labels, against.name)
        other_pairs, _ = check_labelled_rows(
            against.file,
            against.predictor.labels,
            skip_bad_rows,
            label_names,
            tokenizer=tokenizer_of(against.predictor),
        )
        others = logits_in_batches(against.predictor, other_pairs, batch)
    start, others_seconds = time.perf_counter(), 0.0
    for rows, logits, gold in logits_in_batches(predictor, pairs, batch):
        if comparison is not None and against is not None:
            began = time.perf_counter()
            other_rows, other_logits, _ = next(others, ([], logits, gold))
            if [row.number for row in rows] != [row.number for row in other_rows]:
                raise RunError(
                    f"{file.name}: the two models read different columns, and their usable rows are not the same",
                    do="fix the rows that --skip-bad-rows skips",
                )
            comparison.add(rows, gold, logits, other_logits, temperature, against.predictor.temperature)
            others_seconds += time.perf_counter() - began
        metrics.add(logits, gold, temperature)
        if without is not None:
            without.add(logits, gold)
        chosen.add(logits, rows, temperature)
        slices.add(rows, logits.argmax(axis=1) == gold)
        for count in also:
            count(logits, rows)
        if progress is not None:
            progress(metrics.rows, total)
    seconds = time.perf_counter() - start - others_seconds
    file.check_unchanged()
    return Evaluation(
        data=file.name,
        temperature=temperature,
        metrics=metrics,
        without_temperature=without,
        no_gold_rows=pairs.no_gold,
        bad_rows=pairs.bad,
        rows_by_label=pairs.rows_by_label(),
        right=chosen.right(),
        wrong=chosen.wrong(),
        slices=slices.to_json(),
        against=comparison,
        seconds=seconds,
    )


def check_labelled_rows(
    file: PairFile,
    labels: Sequence[str],
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
    problem_type: ProblemType = "single_label_classification",
    tokenizer: PairTokenizer | None = None,
) -> tuple[LabelledPairs, int | None]:
    """The labelled rows of a file, and their number (None for a pipe). Raises InputError as `evaluate` does.

    tokenizer: the model's; pairs that it cannot cut are bad rows.

    Unless it is a pipe, the file is read once for this, so that an error in its last row is found before the scoring.
    """
    options: dict[str, Any] = {"skip_bad_rows": skip_bad_rows, "label_names": label_names, "tokenizer": tokenizer}
    pairs = read_labelled(file, labels, problem_type=problem_type, **options)
    if not file.rereadable:
        return pairs, None
    return pairs, sum(1 for _ in pairs)


def logits_in_batches(
    predictor: Predictor, pairs: LabelledPairs, batch: int = BATCH
) -> Iterator[tuple[list[LabelledPair], NDArray[np.float32], NDArray[Any]]]:
    """Score the pairs in order, `batch` at a time. Yields pairs, logits `[pairs, labels]`, and gold labels: indices
    `[pairs]`, or for another problem type than one label for each pair numbers `[pairs, outputs]`.

    Raises RunError if a score is not a finite number.
    """
    stream = iter(pairs)
    while rows := list(islice(stream, batch)):
        logits = predictor.logits([pair.premise for pair in rows], [pair.hypothesis for pair in rows])
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            raise RunError(
                f"{pairs.file.name}: row {rows[finite.argmin()].number}: the model's scores are not finite numbers",
                found=", ".join(map(str, logits[finite.argmin()].tolist())),
                do="check the training loss, or score in fp32",
            )
        kind = np.float64 if isinstance(rows[0].label, tuple) else np.int64
        yield rows, logits, np.array([pair.label for pair in rows], kind)
