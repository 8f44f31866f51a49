"""Adapts a model to a data set with fewer classes: HANS has two, entailment and non-entailment; most models three."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.labels import NO_GOLD, LabelTable, label_key
from bertnli.evaluation.evaluate import Predictor, tokenizer_of


class MergedClasses:
    """A `Predictor` for the classes of a data set. A class's probability is the sum of the probabilities of its labels.

    labels: the classes, in the order of their first labels in the model. members: class -> labels of the model.
    """

    temperature = 1.0  # the logits here are already divided by the model's own temperature

    def __init__(self, predictor: Predictor, classes: Mapping[str, str], where: str):
        """classes: label of a model (case is ignored) -> class. where: the data set's name, for messages.

        Raises InputError if a label of the model has no class, or a class has no label.
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
        self.tokenizer = tokenizer_of(predictor)
        self._indices = [[predictor.labels.index(label) for label in members] for members in self.members.values()]

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, classes]`. Their softmax gives the sums of the model's probabilities.

        log(exp(a) + exp(b)) of two logits is the logit of the sum of their probabilities.
        """
        logits = self._predictor.logits(premises, hypotheses).astype(np.float64) / self._predictor.temperature
        merged = [np.logaddexp.reduce(logits[:, indices], axis=1) for indices in self._indices]
        return np.stack(merged, axis=1).astype(np.float32)


def two_classes(labels: Sequence[str], of_data: Iterable[str]) -> dict[str, str] | None:
    """Label of a model -> class, for a model with the three labels of NLI and a data set with two classes: entailment
    and `not_entailment` (RTE, QNLI) or `non-entailment` (HANS). None for any other model or data set.

    labels: of the model; of_data: all labels that the data set has, or that its label names give.
    """
    of_model = {label_key(label): label for label in labels}
    others = {label_key(label): label for label in of_data}
    for key in ("entailment", NO_GOLD):
        others.pop(key, None)
    if set(of_model) != {"entailment", "neutral", "contradiction"} or len(others) != 1:
        return None
    [(key, other)] = others.items()
    if re.sub(r"[\W_]", "", key) not in ("notentailment", "nonentailment"):
        return None
    return {label: label if key == "entailment" else other for key, label in of_model.items()}
