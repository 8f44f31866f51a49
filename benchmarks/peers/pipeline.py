"""transformers' `pipeline("text-classification")`, as its documentation scores many texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.peer import Unavailable
from benchmarks.peers.scoring import Pairs, Probabilities, Scoring, by_length


@dataclass
class TransformersPipeline(Scoring):
    """It batches its inputs in their order, so they are sorted by length for it."""

    name: str = "transformers-pipeline"
    about: str = "transformers pipeline, sorted by length"

    def settings(self) -> dict[str, Any]:
        return {"top_k": None, "truncation": True, "max_length": self.work.max_length}

    def load(self) -> None:
        try:
            from transformers import pipeline
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._pipeline = pipeline("text-classification", model=str(self.work.model))

    def probabilities(self, pairs: Pairs) -> Probabilities:
        result = np.empty((len(pairs), len(self.labels)))
        (order,) = by_length([len(premise) + len(hypothesis) for premise, hypothesis in pairs], len(pairs))
        inputs = [{"text": pairs[place][0], "text_pair": pairs[place][1]} for place in order]
        found: Any = self._pipeline(inputs, batch_size=self.batch_size, **self.settings())
        for place, parts in zip(order, found, strict=True):
            scores = {part["label"]: part["score"] for part in parts}
            result[place] = [scores[label] for label in self.labels]
        return result
