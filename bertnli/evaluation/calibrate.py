"""Temperature scaling: a number that logits are divided by, so that probabilities say how often the model is right.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. It is fitted on rows that the model was not
trained on, never changes a label, and is kept with the model: in a folder's config.json (temperature.py), in a bundle's
manifest. (Where a set's classes are sums of the model's, the predicted class may be another: merged.py.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.common.temperature import Calibration
from bertnli.data.pairs import PairFile
from bertnli.evaluation.data_sets import LabelledSet
from bertnli.evaluation.evaluate import Predictor, check_labelled_rows, logits_in_batches
from bertnli.evaluation.metrics import ClassificationMetrics, log_softmax

LOWEST, HIGHEST = 0.01, 100.0  # temperatures; one beyond would mean that the rows cannot tell it
_STEPS = 50  # of the bisection: 13 orders of magnitude more exact than the range


def calibrate(
    predictor: Predictor,
    held_out: LabelledSet,
    *,
    apart_from: LabelledSet,
    skip_bad_rows: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Fit a temperature to the logits of the labelled rows of `held_out`, whatever temperature the model has.

    apart_from: the set that the model is measured on, which must be another one: on rows that a temperature was fitted
    to, the calibration looks better than it is.

    All rows are in memory at once, some 120 bytes a row of three labels. Raises as `evaluate` does, for both
    sets; InputError if they are one; RunError if no temperature fits (see `fit`).
    """
    file = held_out.file
    if _place(file) == _place(apart_from.file):
        raise InputError(
            f"--calibrate {file.name}", found="the file that the model is measured on", expected="rows held out from it"
        )
    apart_from.check(predictor, skip_bad_rows)  # what is wrong with it is said before the work, too
    pairs, total = check_labelled_rows(file, predictor.labels, skip_bad_rows, held_out.schema.label_names)
    parts: list[NDArray[np.float32]] = []
    golds: list[NDArray[np.int64]] = []
    for _, part, gold in logits_in_batches(predictor, pairs):
        parts.append(part)
        golds.append(gold)
        if progress is not None:
            progress(pairs.used, total)
    logits, gold = np.concatenate(parts), np.concatenate(golds)
    temperature = fit(logits, gold, file.name)
    fitted, plain = ClassificationMetrics(predictor.labels), ClassificationMetrics(predictor.labels)
    fitted.add(logits, gold, temperature)
    plain.add(logits, gold)
    return Calibration(file.name, len(gold), temperature, fitted.loss, plain.loss)


def _place(file: PairFile) -> tuple[Path, str]:
    """A file, and its member in an archive."""
    return Path(file.path).resolve(), file.name.removeprefix(file.path)


def fit(logits: NDArray[np.float32], gold: NDArray[np.int64], data: str) -> float:
    """The temperature of the least log loss on logits `[pairs, labels]` of gold labels `[pairs]`.

    The loss is convex in 1 / temperature, so its slope has one zero at most, which bisection finds. Raises RunError if
    there is none between LOWEST and HIGHEST: every label is right, or the scores say nothing of the labels.
    """
    exact = logits.astype(np.float64)
    of_gold = exact[np.arange(len(gold)), gold].mean()

    def slope(temperature: float) -> float:
        """Of the mean log loss by 1 / temperature: the expected logit less the gold label's."""
        return float((np.exp(log_softmax(logits, temperature)) * exact).sum(axis=1).mean() - of_gold)

    if slope(HIGHEST) >= 0:
        raise RunError(
            f"{data}: no temperature fits: the scores say less of its labels than equal probabilities would",
            do="see with bertnli eval whether the label names are in the model's order, and the rows are of its kind",
        )
    if slope(LOWEST) <= 0:
        raise RunError(
            f"{data}: no temperature fits: the model is right on every one of its {len(gold)} rows, or nearly",
            do="give more rows, held out from training",
        )
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp((low + high) / 2)
