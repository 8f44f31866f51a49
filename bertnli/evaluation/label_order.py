"""Detects label names in a wrong order, from the confusion matrix.

Models for the same task have their labels in different orders, and in files 0, 1 and 2 mean different labels. A mistake
there raises no error, but makes a good model look worse than a bad one.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from bertnli.evaluation.metrics import ClassificationMetrics, wilson

_MOST = 6  # labels; all orders are tried, which are 720 for 6 labels


def fitting_order(metrics: ClassificationMetrics) -> tuple[tuple[str, ...], float] | None:
    """The order of label names with which the model would be clearly more accurate, and that accuracy; or None.

    "Clearly" means: at most half of the mistakes remain, the 95% intervals of the two accuracies do not overlap, and
    always predicting the most frequent label would be less accurate. A weak model, or a model on rows that were chosen
    because models fail on them, may be more accurate in another order, but not by so much.
    """
    labels, confusion = metrics.labels, metrics.confusion
    if not metrics.rows or len(labels) > _MOST:
        return None
    outputs = np.arange(len(labels))
    # The order with the most right predictions; if there are several, the one that changes the fewest names.
    right, _, order = max(
        (int(confusion[list(order), outputs].sum()), sum(map(int.__eq__, order, range(len(order)))), order)
        for order in permutations(range(len(labels)))
    )
    found, low = int(confusion.trace()), wilson(right, metrics.rows)[0]
    commonest = confusion.sum(axis=1).max() / metrics.rows
    if 2 * (metrics.rows - right) > metrics.rows - found or low <= max(metrics.accuracy_interval[1], commonest):
        return None
    return tuple(labels[index] for index in order), right / metrics.rows
