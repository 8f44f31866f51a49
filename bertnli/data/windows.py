"""Long premises as overlapping windows, each of which makes a pair with the whole hypothesis.

The windows are those of transformers' `return_overflowing_tokens` with `truncation="only_first"` and `stride`: each one
fills the pair, and has `stride` tokens in common with the one before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertnli.data.encoded import Encoded
from bertnli.data.tokenizer import PairTokenizer

MOST_WINDOWS = 4096
"""Of a premise. More are only reached where the hypothesis leaves hardly more tokens than the stride: then each window
has a few new tokens, and a long premise would take as much memory as thousands of rows."""


class WindowedPairs(NamedTuple):
    """The windows of pairs, each pair's together and in the order of its text."""

    encoded: Encoded  # a pair is a window of a premise with the hypothesis
    counts: NDArray[np.int64]  # [pairs], their windows: 1 to MOST_WINDOWS; 0 if the hypothesis leaves no room for them
    truncated: NDArray[np.bool_]  # [pairs], a sentence has more characters than are read
    characters: list[tuple[int, int]]  # [windows], where its text, without outer blanks, begins and ends in the premise


def encode_windows(tokenizer: PairTokenizer, premises: list[str], hypotheses: list[str], stride: int) -> WindowedPairs:
    """Every pair whole, in as many windows as that takes. stride: tokens that two neighbours have in common.

    If the model's `truncation_side` is left, the first window may be the short one, else the last one. Raises as
    `PairTokenizer.encode` does.
    """
    pool = tokenizer.pool(premises, hypotheses, whole=True)
    assert pool.characters is not None
    len_p, len_h = pool.lengths[pool.premises], pool.lengths[pool.hypotheses]
    size = tokenizer.room - len_h  # [pairs], tokens of a premise in a window
    step = size - stride
    fits = len_p <= size
    further = -(-(len_p - size) // np.maximum(step, 1))  # windows after the first one
    counts = np.where(fits, 1, np.where(step > 0, 1 + further, 0))
    counts[counts > MOST_WINDOWS] = 0

    pair = np.repeat(np.arange(len(counts)), counts)  # [windows]
    nth = np.arange(len(pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    if tokenizer.cuts_beginnings:  # counted from the end of the text
        end = len_p[pair] - (counts[pair] - 1 - nth) * step[pair]
        begin = np.maximum(end - size[pair], 0)
    else:
        begin = nth * step[pair]
        end = np.minimum(begin + size[pair], len_p[pair])
    start_p, start_h = pool.starts[pool.premises[pair]] + begin, pool.starts[pool.hypotheses[pair]]
    too_long = pool.too_long[pool.premises] | pool.too_long[pool.hypotheses]
    encoded = pool.join(start_p, end - begin, start_h, len_h[pair], truncated=too_long[pair])
    first, last = (np.minimum(at, len(pool.ids) - 1) for at in (start_p, start_p + end - begin - 1))
    places = np.stack([pool.characters[first, 0], pool.characters[last, 1]], axis=1)
    places[begin == end] = 0  # a premise without a token
    characters = [_without_blanks(premises[at], *place) for at, place in zip(pair, places.tolist(), strict=True)]
    return WindowedPairs(encoded, counts, too_long, characters)


def _without_blanks(text: str, begin: int, end: int) -> tuple[int, int]:
    """The range without blanks at its ends, which some vocabularies have in their tokens."""
    part = text[begin:end]
    begin += len(part) - len(part.lstrip())
    return begin, begin + len(part.strip())
