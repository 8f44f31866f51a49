"""How well scores agree with gold scores or find the right rows: correlations, average precision, ROC AUC, MRR, nDCG.

Equal scores are in no order: every figure is the same however the rows of a file are ordered. NaN: not defined.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
K = 10  # places of a group that MRR and nDCG look at


def pearson(one: Floats, other: Floats) -> float:
    """Pearson's correlation; NaN if one of them is constant."""
    if not len(one) or (one == one[0]).all() or (other == other[0]).all():
        return math.nan
    one, other = (values.astype(np.float64) - values.mean(dtype=np.float64) for values in (one, other))
    one, other = (values / np.abs(values).max() for values in (one, other))  # or squares of small ones would be 0
    one, other = one / np.linalg.norm(one), other / np.linalg.norm(other)
    return float(np.clip(one @ other, -1, 1))


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation: Pearson's of the ranks."""
    return pearson(ranks(one), ranks(other))


def ranks(values: Floats) -> NDArray[np.float64]:
    """`[values]`, from 1 for the smallest; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def average_precision(relevant: NDArray[np.bool_], scores: Floats) -> float:
    """The mean over the relevant rows of the precision among the rows with at least their score, as in scikit-learn;
    NaN without relevant rows."""
    found, rows = (counts.cumsum() for counts in _by_score(relevant.astype(np.float64), scores))
    return float((np.diff(found, prepend=0) * found / rows).sum() / found[-1]) if relevant.any() else math.nan


def roc_auc(relevant: NDArray[np.bool_], scores: Floats) -> float:
    """The probability that a relevant row has a higher score than another row, with half of it for equal scores; NaN
    unless there are both."""
    positive, negative = int(relevant.sum()), int((~relevant).sum())
    if not positive or not negative:
        return math.nan
    return float((ranks(scores)[relevant].sum() - positive * (positive + 1) / 2) / (positive * negative))


def reciprocal_rank(relevant: NDArray[np.bool_], scores: Floats, k: int = K) -> float:
    """1 / the place of the first relevant row by score, 0 if it is not among the first `k`. The mean over all orders
    of rows with equal scores."""
    before = 0
    for found, rows in zip(*_by_score(relevant.astype(np.int64), scores), strict=True):
        if found:
            total, share = 0.0, 1.0  # share: of the orders in which the places so far have no relevant row
            for place in range(int(rows - found) + 1):
                if before + place >= k:
                    break
                here = share * found / (rows - place)
                total, share = total + here / (before + place + 1), share - here
            return float(total)
        before += int(rows)
    return 0.0


def ndcg(gains: Floats, scores: Floats, k: int = K) -> float:
    """Normalised discounted cumulative gain of the first `k` rows by score, linear in `gains`; 0 if all gains are 0.

    The mean over all orders of rows with equal scores, as in scikit-learn (McSherry and Najork 2008).
    """
    discounts = np.where(np.arange(len(gains)) < k, 1 / np.log2(np.arange(len(gains)) + 2), 0.0)
    best = float(np.sort(gains)[::-1] @ discounts)
    found, rows = _by_score(gains, scores)
    ends = np.cumsum(rows)
    sums = np.diff(np.cumsum(discounts)[ends - 1], prepend=0)
    return float((found / rows) @ sums) / best if best > 0 else 0.0


def _by_score(values: NDArray[Any], scores: Floats) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """For each different score, the highest first: the sum of the `values` of its rows, and the number of its rows."""
    different, place, rows = np.unique(scores, return_inverse=True, return_counts=True)
    return np.bincount(place, values, len(different))[::-1], rows[::-1]


def in_groups(groups: NDArray[np.integer]) -> Iterator[NDArray[np.int64]]:
    """The places of the rows of each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order])) + 1
    return iter(np.split(order, starts)) if len(order) else iter(())
