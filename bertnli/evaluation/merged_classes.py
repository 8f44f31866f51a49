"""A model asked for fewer classes than it has: HANS knows entailment and non-entailment, most models three labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.labels import LabelTable
from bertnli.evaluation.evaluate import Predictor


class MergedClasses:
    """A `Predictor` whose labels are the classes of a data set: a class's probability is the sum of its members'.

    Attributes: `labels`, the classes, in the order of their first members in the model; `members`, class -> labels.
    """

    temperature = 1.0  # the model's own is in the logits: it comes before the probabilities are added

    def __init__(self, predictor: Predictor, classes: Mapping[str, str], where: str):
        """`classes`: a model's label, whatever its case -> the class; `where`, for messages, names the data set.

        Raises InputError if a label of the model belongs to none, or a class has no label.
        """
        names = tuple(dict.fromkeys(classes.values()))
        table = LabelTable(names, classes)
        found = [table.index(label) for label in predictor.labels]
        if set(found) != set(range(len(names))):
            raise InputError(
                f"{where}: the model's labels cannot be mapped to its classes",
                found=", ".join(predictor.labels),
                expected="; ".join(
                    f"for {name}: "
                    + " or ".join(dict.fromkeys([*(label for label, one in classes.items() if one == name), name]))
                    for name in names
                ),
            )
        self.members: dict[str, list[str]] = {}
        for index, label in zip(found, predictor.labels, strict=True):
            self.members.setdefault(names[index], []).append(label)
        self.labels = tuple(self.members)
        self._predictor = predictor
        self._indices = [[predictor.labels.index(label) for label in members] for members in self.members.values()]

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, classes]`: their softmax is the model's own probabilities, added."""
        logits = self._predictor.logits(premises, hypotheses).astype(np.float64) / self._predictor.temperature
        merged = [np.logaddexp.reduce(logits[:, indices], axis=1) for indices in self._indices]
        return np.stack(merged, axis=1).astype(np.float32)
