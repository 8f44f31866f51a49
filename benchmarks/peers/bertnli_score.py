"""bertnli's own scorer: what `bertnli score` runs, on a bundle that `bertnli export` makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.peer import Unavailable
from benchmarks.peers.scoring import Pairs, Probabilities, Scoring
from benchmarks.scoring_stages import seconds_by_stage
from bertnli.common.errors import BertnliError


@dataclass
class BertnliScore(Scoring):
    """`bertnli_export.score.score_file` without the load time that it reports. It chooses its own batches."""

    whole_last_block: ClassVar[bool] = False
    batch_sizes: Sequence[int] = field(default=(), init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.name = "bertnli" if self.precision == "fp32" else f"bertnli-{self.precision}"
        self.about = f"bertnli score, {self.precision} bundle"

    def settings(self) -> dict[str, Any]:
        return {"device": "auto"}

    def load(self) -> None:
        from bertnli import Scorer

        self._bundle = self.work.folder / f"bundle-{self.precision}"
        if not self._bundle.exists():
            from bertnli_export.build import export_bundle

            from bertnli.model import pretrained

            source = pretrained.load(self.work.model, max_length=self.work.max_length)
            try:
                export_bundle(source, self._bundle, precision=self.precision)
            except BertnliError as error:
                if self.precision == "fp32":
                    raise
                raise Unavailable(str(error)) from None  # there is no such precision, or the parity gate refused it
        self._scorer = Scorer(self._bundle)

    def quality(self, reference: Sequence[float]) -> dict[str, Any]:
        return super().quality(reference) | {"seconds_by_stage": seconds_by_stage(self._scorer, self.work.rows)}

    def probabilities(self, pairs: Pairs) -> Probabilities:
        return np.array([list(score.probabilities.values()) for score in self._scorer.score(pairs)])

    def score(self, rows: Path, out: Path) -> float:
        from bertnli_export.score import score_file

        return score_file(self._bundle, rows, out, restart=True)["load_seconds"]
