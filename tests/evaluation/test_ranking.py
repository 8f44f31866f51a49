"""Correlations and ranking figures: equal to scipy's, scikit-learn's and sentence-transformers', ties included."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.evaluation.ranking import average_precision, ndcg, pearson, reciprocal_rank, roc_auc, spearman

FEW = st.integers(-3, 3).map(lambda number: number / 7)  # many ties
ANY = st.floats(-1e6, 1e6)
ROWS = st.one_of(
    *(st.lists(st.tuples(one, st.integers(0, 1), st.integers(0, 4)), min_size=2, max_size=30) for one in (FEW, ANY))
)


@given(ROWS)
def test_equal_to_scikit_learn_and_scipy(rows: list[tuple[float, int, int]]) -> None:
    metrics, stats = pytest.importorskip("sklearn.metrics"), pytest.importorskip("scipy.stats")
    scores, labels, grades = (np.array(column, float) for column in zip(*rows, strict=True))
    relevant = labels > 0
    if relevant.any():
        assert average_precision(relevant, scores) == pytest.approx(metrics.average_precision_score(labels, scores))
    else:
        assert math.isnan(average_precision(relevant, scores))
    if relevant.any() and not relevant.all():
        assert roc_auc(relevant, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    else:
        assert math.isnan(roc_auc(relevant, scores))
    for gains in (labels, grades):
        assert ndcg(gains, scores) == pytest.approx(metrics.ndcg_score([gains], [scores], k=10))
    if len(set(scores)) > 1 and len(set(grades)) > 1:
        assert spearman(grades, scores) == pytest.approx(stats.spearmanr(grades, scores).statistic)
        if np.ptp(scores) > 1e-3:  # scipy warns of nearly constant ones
            assert pearson(grades, scores) == pytest.approx(stats.pearsonr(grades, scores).statistic)
    else:
        assert math.isnan(spearman(grades, scores)) and math.isnan(pearson(grades, scores))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6), st.integers(1, 4))
def test_the_reciprocal_rank_is_the_mean_over_all_orders_of_equal_scores(rows: list[Any], k: int) -> None:
    scores, relevant = (np.array(column) for column in zip(*rows, strict=True))
    expected = []
    for order in permutations(range(len(rows))):
        ranked = sorted(order, key=lambda row: -scores[row])[:k]
        expected.append(next((1 / place for place, row in enumerate(ranked, 1) if relevant[row]), 0.0))
    assert reciprocal_rank(relevant, scores, k) == pytest.approx(np.mean(expected))


def test_small_numbers_have_a_correlation() -> None:
    assert pearson(np.array([1e-200, 2e-200, 3e-200]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1)
