"""The weights of labels in the loss: as the run file gives them, or `balanced` over the pairs that are trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.labels import LabelTable
from bertnli.data.outputs import Outputs
from bertnli.run.loss_config import LossConfig


def class_weights(loss: LossConfig, outputs: Outputs, labels: Callable[[], NDArray[Any]]) -> tuple[float, ...] | None:
    """The weight of each label, in the model's order: `class_weights`, or `pos_weight` of independent labels; None
    without one of these keys.

    labels: called for `balanced` alone, gives those of the pairs trained on, `[pairs]` indices or `[pairs, labels]` of
    0 and 1. Raises InputError for weights that do not have exactly the model's labels, and for `balanced` if a label is
    on no pair.
    """
    key, given = ("class_weights", loss.class_weights) if loss.class_weights else ("pos_weight", loss.pos_weight)
    if given is None:
        return None
    if given == "balanced":
        return _balanced(key, outputs.names, labels())
    table = LabelTable(outputs.names)
    by_index = {table.index(label): weight for label, weight in given.items()}
    if sorted(by_index) != list(range(len(outputs.names))):
        raise InputError(
            f"loss.{key}",
            found=f"weights of {', '.join(given)}",
            expected=f"one for each label of the model: {', '.join(outputs.names)}",
            do="name these labels, each with a number (1.0 changes nothing), or write balanced",
        )
    return tuple(by_index[index] for index in range(len(outputs.names)))


def _balanced(key: str, names: tuple[str, ...], labels: NDArray[Any]) -> tuple[float, ...]:
    """scikit-learn's formula for classes: pairs / (classes x pairs of the class). For independent labels what torch
    advises for `pos_weight`: the pairs without the label / the pairs with it."""
    pairs, count = len(labels), len(names)
    independent = key == "pos_weight"
    rows = (labels > 0).sum(axis=0) if independent else np.bincount(labels, minlength=count)
    unbalanced = (rows == 0) | (rows == pairs) if independent else rows == 0
    if unbalanced.any():
        without = ", ".join(f"{names[index]} on {rows[index]:,} of them" for index in np.flatnonzero(unbalanced))
        raise InputError(
            f"loss.{key}: balanced",
            found=f"{pairs:,} pairs to train on, with {without}",
            expected="pairs with each label" + ", and pairs without it" * independent,
            do="give the weights as numbers, or train on pairs that have them",
        )
    return tuple(((pairs - rows) / rows if independent else pairs / (count * rows)).tolist())
