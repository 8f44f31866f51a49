"""Tables with a row for each distance between two tokens of a pair, from the most negative one to the most positive."""

from __future__ import annotations

from torch import Tensor


def occurring(rows: Tensor, length: int) -> Tensor:
    """The rows of the distances 1 - length to length - 1, which pairs of at most `length` tokens have.

    rows: an odd number of them; distance 0 is in the middle.
    """
    zero = rows.shape[0] // 2
    return rows[zero + 1 - length : zero + length]
