"""Logits to the numbers that users see: probabilities of labels, or a score."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bertnli.data.outputs import Activation
from bertnli.evaluation.metrics import Floats, softmax


def activate(logits: NDArray[np.floating], activation: Activation, temperature: float = 1.0) -> Floats:
    """`[pairs, outputs]` in float64. The logits are divided by `temperature` first, but not for `identity`."""
    if activation == "softmax":
        return softmax(logits, temperature)
    exact = logits.astype(np.float64)
    return exact if activation == "identity" else np.exp(-np.logaddexp(0.0, -exact / temperature))
