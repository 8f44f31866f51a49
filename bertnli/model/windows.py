"""Local attention: each token attends to the tokens at most `window` tokens away."""

from __future__ import annotations

import torch
from torch import Tensor


def in_window(mask: Tensor, queries: int, window: int, start: int = 0) -> Tensor:
    """`mask` `[…, 1 or queries, length]`, true at real keys, and within each query's window: `[…, queries, length]`.

    The first query is at the key `start`. Each query reaches itself: of padding, it might reach nothing else, and a
    softmax over nothing is NaN.
    """
    positions = torch.arange(mask.shape[-1], device=mask.device)
    distance = (positions[start : start + queries, None] - positions).abs()
    return mask & (distance <= window) | (distance == 0)
