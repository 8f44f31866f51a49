"""Metrics against scikit-learn, scipy and plain loops; sums over ranks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
from numpy.typing import NDArray

from bertnli.common.errors import RunError
from bertnli.evaluation.metrics import ClassificationMetrics

LABELS = ("entailment", "neutral", "contradiction")


def random_batch(seed: int, rows: int, labels: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    gold = random.integers(labels, size=rows)
    logits = random.normal(size=(rows, labels)).astype(np.float32)
    logits[np.arange(rows), gold] += 1
    return logits, gold


def metrics_of(logits: NDArray[np.float32], gold: NDArray[np.int64], labels: int) -> ClassificationMetrics:
    metrics = ClassificationMetrics([f"label-{index}" for index in range(labels)])
    metrics.add(logits, gold)
    return metrics


@pytest.mark.parametrize(("rows", "labels"), [(1, 2), (7, 3), (500, 3), (400, 5)])
def test_the_figures_are_scikit_learns(rows: int, labels: int) -> None:
    logits, gold = random_batch(rows, rows, labels)
    metrics = metrics_of(logits, gold, labels)
    predicted = logits.argmax(axis=1)
    everything = list(range(labels))
    precision, recall, f1, _ = sklearn.metrics.precision_recall_fscore_support(
        gold, predicted, labels=everything, zero_division=0
    )
    exact = np.exp(logits.astype(np.float64))
    assert metrics.rows == rows
    np.testing.assert_array_equal(
        metrics.confusion, sklearn.metrics.confusion_matrix(gold, predicted, labels=everything)
    )
    assert metrics.accuracy == pytest.approx(sklearn.metrics.accuracy_score(gold, predicted))
    np.testing.assert_allclose(metrics.precision, precision)
    np.testing.assert_allclose(metrics.recall, recall)
    np.testing.assert_allclose(metrics.f1, f1)
    assert metrics.macro_f1 == pytest.approx(
        sklearn.metrics.f1_score(gold, predicted, average="macro", zero_division=0)
    )
    assert metrics.figure("mcc") == pytest.approx(sklearn.metrics.matthews_corrcoef(gold, predicted))
    assert (
        metrics.figure("log_loss")
        == metrics.loss
        == pytest.approx(sklearn.metrics.log_loss(gold, exact / exact.sum(axis=1, keepdims=True), labels=everything))
    )


@pytest.mark.parametrize(("right", "rows"), [(0, 5), (5, 5), (1, 1), (8371, 9824)])
def test_the_interval_is_wilsons(right: int, rows: int) -> None:
    metrics = ClassificationMetrics(("yes", "no"))
    metrics.confusion[0, 0], metrics.confusion[1, 0] = right, rows - right
    expected = scipy.stats.binomtest(right, rows).proportion_ci(0.95, method="wilson")
    assert metrics.accuracy_interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_adding_the_ranks_vectors_is_counting_everything_once() -> None:
    logits, gold = random_batch(3, 1000, 3)
    whole = metrics_of(logits, gold, 3)
    ranks = [metrics_of(logits[rank::4], gold[rank::4], 3) for rank in range(3)]
    ranks.append(metrics_of(logits[:0], gold[:0], 3))  # a rank without rows
    ranks.append(metrics_of(logits[3::4], gold[3::4], 3))
    summed = ClassificationMetrics.from_vector(whole.labels, np.sum([rank.as_vector() for rank in ranks], axis=0))
    np.testing.assert_array_equal(summed.confusion, whole.confusion)
    assert summed.loss == pytest.approx(whole.loss, rel=1e-12)
    assert summed.brier == pytest.approx(whole.brier, rel=1e-12)
    assert summed.ece == pytest.approx(whole.ece, rel=1e-12)
    np.testing.assert_allclose(summed.bins, whole.bins, rtol=1e-12)
    assert summed.accuracy == whole.accuracy


def test_a_huge_logit_is_a_finite_loss_and_a_nan_is_an_error() -> None:
    metrics = ClassificationMetrics(LABELS)
    metrics.add(np.array([[3e4, 0, -3e4]], np.float32), np.array([2]))
    assert metrics.loss == pytest.approx(6e4)
    with pytest.raises(RunError, match="not finite"):
        metrics.add(np.array([[np.nan, 0, 0]], np.float32), np.array([0]))


def test_calibration_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.15, 0.79, 0.06], [1 / 3, 1 / 3, 1 / 3]]))
    metrics = ClassificationMetrics(LABELS)
    metrics.add(logits, np.array([0, 1, 0, 1]))
    # 0.5 is right; 0.8 and 0.79 are of one bin, (11/15, 12/15], one right; a third is the first label, wrong
    assert metrics.ece == pytest.approx((0.5 + 0.59 + 1 / 3) / 4)
    squares = [0.5**2 + 0.3**2 + 0.2**2, 0.1**2 + 0.2**2 + 0.1**2, 0.85**2 + 0.79**2 + 0.06**2, 6 / 9]
    assert metrics.brier == pytest.approx(sum(squares) / 4)
    found = metrics.to_json()["reliability"]
    assert [one["rows"] for one in found] == [1, 1, 2]
    assert found[2] == pytest.approx(
        {"above": 11 / 15, "up_to": 12 / 15, "rows": 2, "confidence": 0.795, "accuracy": 0.5}
    )


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_calibration_is_that_of_a_plain_loop(temperature: float) -> None:
    logits, gold = random_batch(5, 2000, 3)
    metrics = ClassificationMetrics(LABELS)
    for part in range(0, 2000, 300):
        metrics.add(logits[part : part + 300], gold[part : part + 300], temperature)
    exact = scipy.special.softmax(logits.astype(np.float64) / temperature, axis=1)
    sure, right = exact.max(axis=1), exact.argmax(axis=1) == gold
    ece = 0.0
    for low in np.arange(15) / 15:
        here = (sure > low) & (sure <= low + 1 / 15)
        if here.any():
            ece += here.mean() * abs(sure[here].mean() - right[here].mean())
    assert metrics.ece == pytest.approx(ece, rel=1e-9)
    assert metrics.brier == pytest.approx(3 * np.mean((exact - np.eye(3)[gold]) ** 2))
    assert metrics.loss == pytest.approx(sklearn.metrics.log_loss(gold, exact))
    assert sum(one["rows"] for one in metrics.to_json()["reliability"]) == 2000


def test_a_temperature_changes_no_label_where_logits_are_nearly_equal() -> None:
    logits = np.array([[1.0, np.nextafter(np.float32(1), np.float32(2)), -1.0]], np.float32)
    for temperature in (1e-3, 1.0, 3.0, 1e6):
        metrics = ClassificationMetrics(LABELS)
        metrics.add(logits, np.array([1]), temperature)
        assert metrics.accuracy == 1 and metrics.to_json()["reliability"][0]["accuracy"] == 1


def test_without_rows_nothing_is_said() -> None:
    metrics = ClassificationMetrics(LABELS)
    assert all(map(math.isnan, (metrics.accuracy, metrics.loss, metrics.brier, metrics.ece)))
    assert metrics.to_json()["reliability"] == []
