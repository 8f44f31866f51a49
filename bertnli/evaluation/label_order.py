"""Do the figures look as if the labels were named in another order than they mean?

Models of the same task differ in their order of labels, and files in what 0, 1 and 2 stand for; a mistake there makes a
good model look worse than a bad one, and nothing fails.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np

from bertnli.evaluation.metrics import ClassificationMetrics, wilson

_MOST = 6  # labels; every order is tried, and these have 720


def fitting_order(metrics: ClassificationMetrics) -> tuple[tuple[str, ...], float] | None:
    """The names of the model's outputs, in order, that would make it clearly more accurate, and that accuracy; or None.

    Clearly: at most half of the mistakes are left, the 95% intervals of the two accuracies are apart, and the commonest
    label for every row would be less accurate. A weak model, or one on rows that were chosen because models err on
    them, may lean to a wrong label and be more accurate by its name, but not that much.
    """
    labels, confusion = metrics.labels, metrics.confusion
    if not metrics.rows or len(labels) > _MOST:
        return None
    outputs = np.arange(len(labels))
    # The most right; of several, the one that changes the fewest names.
    right, _, order = max(
        (int(confusion[list(order), outputs].sum()), sum(map(int.__eq__, order, range(len(order)))), order)
        for order in permutations(range(len(labels)))
    )
    found, low = int(confusion.trace()), wilson(right, metrics.rows)[0]
    commonest = confusion.sum(axis=1).max() / metrics.rows
    if 2 * (metrics.rows - right) > metrics.rows - found or low <= max(metrics.accuracy_interval[1], commonest):
        return None
    return tuple(labels[index] for index in order), right / metrics.rows
