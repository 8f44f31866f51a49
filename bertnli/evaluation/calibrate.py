"""Temperature scaling: divides the logits by a number, so that a probability says how often the model is right.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. The same for the sigmoid of a score or of
independent labels, whose log loss has the same derivative. The temperature is fitted on rows that the model was not
trained on. It never changes the predicted label of the model (but it may change a class of merged_classes.py, whose
probability is a sum). It is stored in a folder's config.json or in a bundle's manifest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.common.temperature import Calibration
from bertnli.data.outputs import Activation, Outputs
from bertnli.data.pairs import PairFile
from bertnli.evaluation.activations import activate
from bertnli.evaluation.data_sets import LabelledSet
from bertnli.evaluation.evaluate import Predictor, check_labelled_rows, logits_in_batches, outputs_of, tokenizer_of
from bertnli.evaluation.evaluate_numbers import metrics_for
from bertnli.evaluation.metrics import ClassificationMetrics

LOWEST, HIGHEST = 0.01, 100.0  # temperatures; outside of this range the rows do not determine it
_STEPS = 50  # of the bisection; the error is then smaller than the range by a factor of 2**50


def calibrate(
    predictor: Predictor,
    held_out: LabelledSet,
    *,
    apart_from: LabelledSet,
    skip_bad_rows: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Calibration:
    """Fit a temperature to the logits of the labelled rows of `held_out`. The model's own temperature is ignored.

    apart_from: the set that the model is measured on. It must be a different file, because calibration looks better
    than it is on the rows that the temperature was fitted to.

    The logits of all rows are in memory, about 120 bytes for a row with three labels. Raises as `evaluate` does, for
    both sets; InputError if they are the same file, and if the model's outputs or the gold scores are not
    probabilities; RunError if no temperature fits (see `fit`).
    """
    file, outputs = held_out.file, outputs_of(predictor)
    if outputs.activation == "identity":
        raise InputError(
            f"--calibrate {file.name}",
            found="a model whose scores are not probabilities",
            expected="one with probabilities, which a temperature makes less extreme",
            do="omit --calibrate",
        )
    if _place(file) == _place(apart_from.file):
        raise InputError(
            f"--calibrate {file.name}", found="the file that the model is measured on", expected="other, held-out rows"
        )
    apart_from.check(predictor, skip_bad_rows)  # its errors too are reported before the scoring
    names = held_out.schema.label_names
    pairs, total = check_labelled_rows(
        file, predictor.labels, skip_bad_rows, names, outputs.problem_type, tokenizer_of(predictor)
    )
    parts: list[NDArray[np.float32]] = []
    golds: list[NDArray[Any]] = []
    for _, part, gold in logits_in_batches(predictor, pairs):
        parts.append(part)
        golds.append(gold)
        if progress is not None:
            progress(pairs.used, total)
    logits, gold = np.concatenate(parts), np.concatenate(golds)
    if outputs.activation == "sigmoid" and not (gold.min() >= 0 and gold.max() <= 1):
        raise InputError(
            f"--calibrate {file.name}",
            found=f"gold scores from {gold.min():g} to {gold.max():g}",
            expected="between 0 and 1, as the model's scores are",
        )
    temperature = fit(logits, gold, file.name)
    return Calibration(file.name, len(gold), temperature, *(_loss(outputs, logits, gold, t) for t in (temperature, 1)))


def _loss(outputs: Outputs, logits: NDArray[np.float32], gold: NDArray[Any], temperature: float) -> float:
    """The mean log loss."""
    if outputs.activation == "softmax":
        metrics = ClassificationMetrics(outputs.names)
        metrics.add(logits, gold, temperature)
        return metrics.loss
    numbers = metrics_for(outputs)
    numbers.add(logits, gold, temperature)
    return numbers.log_loss


def _place(file: PairFile) -> tuple[Path, str]:
    """The file, and the member if it is an archive."""
    return Path(file.path).resolve(), file.member


def fit(logits: NDArray[np.float32], gold: NDArray[Any], data: str) -> float:
    """The temperature with the smallest log loss, for logits `[pairs, labels]` and gold labels `[pairs]`; for a sigmoid
    gold numbers `[pairs, outputs]`.

    The loss is convex in 1 / temperature, so its derivative has at most one zero, which bisection finds. Raises
    RunError if there is no zero between LOWEST and HIGHEST: then all predictions are right, or the scores carry no
    information about the labels. data: the name of the rows, for messages.
    """
    exact = logits.astype(np.float64)
    activation: Activation = "softmax" if gold.ndim == 1 else "sigmoid"
    of_gold = (exact[np.arange(len(gold)), gold] if gold.ndim == 1 else (exact * gold).sum(axis=1)).mean()

    def slope(temperature: float) -> float:
        """Derivative of the mean log loss by 1 / temperature: the expected logit minus the logit of the gold label."""
        return float((activate(logits, activation, temperature) * exact).sum(axis=1).mean() - of_gold)

    if slope(HIGHEST) >= 0:
        raise RunError(
            f"{data}: no temperature fits: the scores are worse than equal probabilities for all labels",
            do="check with bertnli eval that the label names are in the model's order and the rows are of its kind",
        )
    if slope(LOWEST) <= 0:
        raise RunError(
            f"{data}: no temperature fits: the model is right on all of its {len(gold)} rows, or nearly all",
            do="give more held-out rows",
        )
    low, high = math.log(LOWEST), math.log(HIGHEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp((low + high) / 2)
