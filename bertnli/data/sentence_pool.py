"""Sentences that are tokenised once, and pairs that are joined from ranges of their tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bertnli.data.encoded import Encoded
from bertnli.data.pair_template import PairTemplate
from bertnli.data.truncation import Ints


@dataclass(frozen=True)
class SentencePool:
    """The different sentences of some pairs, end to end in `ids`, which begin with the template's special tokens."""

    template: PairTemplate
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]  # [sentences], the places of their first tokens in `ids`
    kept: NDArray[np.int64]  # [sentences], how many of their tokens are in `ids`
    lengths: NDArray[np.int64]  # [sentences], in tokens, also those that are not in `ids`
    too_long: NDArray[np.bool_]  # [sentences], whether they have more characters than are read
    premises: NDArray[np.int64]  # [pairs], numbers of sentences
    hypotheses: NDArray[np.int64]  # [pairs]
    # [len(ids), 2], of each token: where its text begins and ends in its sentence, in characters. None: not asked for.
    characters: NDArray[np.int64] | None = None

    def join(
        self,
        start_p: Ints,
        keep_p: Ints,
        start_h: Ints,
        keep_h: Ints,
        *,
        truncated: NDArray[np.bool_],
        unfit: NDArray[np.int64] | None = None,
    ) -> Encoded:
        """Pairs of these ranges, `[pairs]` each: `keep_p` tokens from the place `start_p` on for the premise, and so
        on."""
        # A pair consists of five ranges.
        prefix, separators, suffix = map(len, self.template[:3])
        one = np.ones_like(keep_p)
        range_starts = np.stack([0 * one, start_p, prefix * one, start_h, (prefix + separators) * one], axis=1)
        range_lengths = np.stack([prefix * one, keep_p, separators * one, keep_h, suffix * one], axis=1)
        encoded = Encoded(
            ids=self.ids[_ranges(range_starts.ravel(), range_lengths.ravel())],
            lengths=range_lengths.sum(axis=1, dtype=np.int32),
            first_segment=self.template.first_segment(keep_p, keep_h),
            truncated=truncated,
        )
        if unfit is not None:
            encoded.unfit = unfit
        return encoded


def _ranges(starts: Ints, lengths: Ints) -> NDArray[np.int64]:
    """The numbers of all ranges (start, start + 1, …), end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
