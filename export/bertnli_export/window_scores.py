"""A premise that is longer than the model takes: the scores of all its windows, and which of them decided.

The premise is cut into overlapping windows (data/windows.py), and each makes a pair with the whole hypothesis. Then for
each label, or for the score:

* `max`: the highest probability in any window. They are those of different windows, so they are not made to sum to 1:
  `p_entailment` is how surely some part of the premise entails the hypothesis, as in SummaC (Laban et al. 2022, section
  3.1, which splits by sentences).
* `mean`: the mean of the probabilities over the windows. Of one of several labels they sum to 1.

The prediction is made of these numbers. A premise that fits has one window, and the scores that it has without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.data.windows import MOST_WINDOWS, encode_windows
from bertnli.evaluation.activations import activate
from bertnli_export.expansion import Expanded, Expansion, Texts
from bertnli_export.score_columns import Extra, ScoreColumns
from bertnli_export.scorer import Prediction, Score, Scores, score_of, two_texts

if TYPE_CHECKING:
    from bertnli.data.tokenizer import PairTokenizer
    from bertnli_export.scoring_setup import ScoringSetup

Over = Literal["max", "mean"]

STRIDE = 32
_WINDOWS = 8  # of a row, as a guess of how many there are


@dataclass(frozen=True, slots=True)
class WindowScore(Score):
    """A `Score`, and the window that decided, of so many `windows`: its number from 1 on, and its characters,
    `premise[begin:end]`."""

    window: int = 1
    windows: int = 1
    begin: int = 0
    end: int = 0


@dataclass(frozen=True)
class Windows(Expansion):
    """stride: tokens that a window has in common with the one before it. over: what a row gets of its windows.

    Raises InputError for an impossible value.
    """

    stride: int = STRIDE
    over: Over = "max"

    def __post_init__(self) -> None:
        if self.over not in get_args(Over):
            raise InputError("--over", found=repr(self.over), expected=" or ".join(get_args(Over)))
        if type(self.stride) is not int or self.stride < 0:
            raise InputError("--stride", found=repr(self.stride), expected="a number of tokens, 0 or more")

    @property
    def options(self) -> dict[str, Any]:
        return {"windows": "premise", "stride": self.stride, "over": self.over}

    def rows_in_chunk(self, pairs: int) -> int:
        return max(1, pairs // _WINDOWS)

    def check(self, outputs: Outputs, tokenizer: PairTokenizer) -> None:
        if tokenizer.settings.hypothesis_only:
            raise InputError("--windows", found="a model that does not read the premise", do="omit --windows")
        if self.stride >= tokenizer.room - 1:
            raise InputError(
                "--stride",
                found=str(self.stride),
                expected=f"less than {tokenizer.room - 1}, the most tokens of a premise in a pair",
            )

    def columns(self, outputs: Outputs, prefix: str) -> ScoreColumns:
        names = ("window", "windows", "window_begin", "window_end")
        return ScoreColumns.of(outputs, prefix, tuple(Extra(prefix + name, "integer") for name in names))

    def expand(self, tokenizer: PairTokenizer, texts: Texts) -> Expanded:
        found = encode_windows(tokenizer, texts.premises, texts.hypotheses, self.stride)
        reason = (
            f"the hypothesis leaves too few of the {tokenizer.max_length} tokens of a pair for windows of the premise "
            f"that have {self.stride} in common (of {MOST_WINDOWS:,} windows at most)"
        )
        refused = dict.fromkeys(np.flatnonzero(found.counts == 0).tolist(), reason)
        return Expanded(found.encoded, found.counts, found.truncated, refused, found.characters)

    def reduce(self, expanded: Expanded, logits: NDArray[np.float32], setup: ScoringSetup) -> Scores:
        outputs, counts = setup.bundle.outputs, expanded.counts
        logits[~np.isfinite(logits).all(axis=1)] = np.nan
        values = activate(logits, outputs.activation, setup.temperature)
        rows = np.flatnonzero(counts)
        first = (np.cumsum(counts) - counts)[rows]
        reduced = np.full((len(counts), values.shape[1]), np.nan)
        if self.over == "max":
            reduced[rows] = np.maximum.reduceat(values, first, axis=0)
        else:
            reduced[rows] = np.add.reduceat(values, first, axis=0) / counts[rows, None]

        # In the deciding window the predicted label, or of independent labels the most probable one, is highest.
        highest = reduced.argmax(axis=1)
        extras: list[tuple[int, ...]] = [()] * len(counts)
        for row, begin in zip(rows.tolist(), first.tolist(), strict=True):
            count = int(counts[row])
            window = int(values[begin : begin + count, highest[row]].argmax())
            extras[row] = (window + 1, count, *expanded.details[begin + window])
        predictions = _predictions(reduced, highest, outputs, setup.threshold)
        return Scores(predictions, reduced, expanded.truncated, expanded.refused, extras)

    def texts_of(self, items: Sequence[Any]) -> Texts:
        return Texts(*two_texts(items), None)

    def score_of(self, outputs: Outputs, item: Any, scores: Scores, row: int) -> WindowScore:
        values, truncated = scores.values[row].tolist(), bool(scores.truncated[row])
        one = score_of(outputs.names, scores.predictions[row], values, truncated)
        return WindowScore(one.label, one.probabilities, one.truncated, one.labels, one.score, *scores.extras[row])


def _predictions(
    values: NDArray[np.float64], highest: NDArray[np.int64], outputs: Outputs, threshold: float
) -> list[Prediction]:
    if outputs.problem_type == "regression":
        return [None] * len(values)
    if outputs.problem_type == "single_label_classification":
        return [outputs.names[index] for index in highest.tolist()]
    return [tuple(compress(outputs.names, above)) for above in (values > threshold).tolist()]
