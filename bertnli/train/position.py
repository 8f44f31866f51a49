"""Where a run stands: what a checkpoint keeps besides weights and moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Position:
    """steps: optimizer steps done. pairs, seconds: trained on, in steps alone, start-up and evaluation apart.

    best_accuracy, best_step: of the best evaluation so far (step 0: none). not_better: evaluations in a row since.
    inputs: sha256 of the weights that it started from and of its data, by their keys in the run file.
    """

    steps: int = 0
    pairs: int = 0
    seconds: float = 0.0
    best_accuracy: float = -1.0
    best_step: int = 0
    not_better: int = 0
    inputs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, steps: int, progress: Mapping[str, Any]) -> Position:
        """From a checkpoint."""
        return cls(**{**progress, "steps": steps})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def evaluated(self, accuracy: float) -> bool:
        """Take note of an evaluation after this step; true if it is the best so far."""
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_step, self.not_better = accuracy, self.steps, 0
            return True
        self.not_better += 1
        return False
