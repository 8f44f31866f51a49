"""Truncation rules: how many tokens of the premise and of the hypothesis are kept if a pair is too long.

Each rule takes `len_p` and `len_h`, `[pairs]`, the lengths in tokens without special tokens, and `room`, the maximum of
their sum; it returns the numbers of tokens to keep of both, `[pairs]` each. only_first and only_second keep 0 tokens of
a sentence where the other one fills the room: such a pair is refused (`unfit`), as in transformers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


def longest_first(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """The rule of the tokenizers library (`truncate_encodings`), which transformers' `truncation=True` uses.

    Each sentence may use half of the room, and what the other one does not use. If the room is odd, the longer sentence
    gets the extra token (the hypothesis if both have the same length).
    """
    half_p = np.where(len_p <= len_h, room // 2, room - room // 2)
    keep_p = np.minimum(len_p, np.maximum(half_p, room - len_h))
    return keep_p, np.minimum(len_h, room - keep_p)


def d2l(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """d2l's `_truncate_pair_of_tokens` (Dive into Deep Learning, section 16.7) in closed form.

    The book's loop: while both are longer than the room, remove the last token of the premise if the premise is
    strictly longer, otherwise the last token of the hypothesis. So if the room is odd, the premise gets the extra
    token.
    """
    keep_h = np.minimum(len_h, np.maximum(room // 2, room - len_p))
    return np.minimum(len_p, room - keep_h), keep_h


def proportional(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """Truncation in proportion to the lengths (the same section of the book, exercise 2).

    A pair that is too long fills the room exactly. The premise keeps room * len_p / (len_p + len_h) tokens, rounded to
    the nearest integer with halves up, and the hypothesis gets the rest; each sentence keeps at least one token.
    """
    len_p, len_h = np.asarray(len_p, np.int64), np.asarray(len_h, np.int64)
    total = np.maximum(len_p + len_h, 1)
    share_p = (2 * room * len_p + total) // (2 * total)
    share_p = np.clip(share_p, np.minimum(len_p, 1), room - np.minimum(len_h, 1))
    keep_p = np.where(len_p + len_h <= room, len_p, share_p)
    return keep_p, np.minimum(len_h, room - keep_p)


def only_first(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """transformers' `truncation="only_first"`: the premise is cut, the hypothesis never."""
    keep_h = np.minimum(len_h, room)
    return np.minimum(len_p, room - keep_h), keep_h


def only_second(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """transformers' `truncation="only_second"`: the hypothesis is cut, the premise never."""
    keep_h, keep_p = only_first(len_h, len_p, room)
    return keep_p, keep_h


def unfit(rule: str, len_p: Ints, len_h: Ints, room: int) -> NDArray[np.bool_]:
    """`[pairs]`: the pairs that are too long, and that the rule cannot shorten: nothing would be left of a sentence."""
    kept = {"only_first": len_h, "only_second": len_p}.get(rule)
    return np.zeros(len(len_p), bool) if kept is None else (len_p + len_h > room) & (kept >= room)


TRUNCATIONS: dict[str, Callable[[Ints, Ints, int], tuple[Ints, Ints]]] = {
    "longest_first": longest_first,
    "d2l": d2l,
    "proportional": proportional,
    "only_first": only_first,
    "only_second": only_second,
}
