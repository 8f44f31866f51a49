"""DOC"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer]


def longest_first(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """The tokenizers library's rule (`truncate_encodings`), so transformers' `truncation=True`.

    Each may fill half of the room and what the other leaves free; with odd room the longer one has the bigger half
    (the hypothesis, if they are as long as each other).
    """
    half_p = np.where(len_p <= len_h, room // 2, room - room // 2)
    keep_p = np.minimum(len_p, np.maximum(half_p, room - len_h))
    return keep_p, np.minimum(len_h, room - keep_p)


def d2l(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """d2l's `_truncate_pair_of_tokens` (Dive into Deep Learning, section 16.7) in closed form.

    Its loop: while both together exceed the room, drop the last of the premise if that is strictly longer, else the
    last of the hypothesis. So with odd room the premise has the bigger half, whichever is longer.
    """
    keep_h = np.minimum(len_h, np.maximum(room // 2, room - len_p))
    return np.minimum(len_p, room - keep_h), keep_h


def proportional(len_p: Ints, len_h: Ints, room: int) -> tuple[Ints, Ints]:
    """Truncation in proportion to the lengths (the same section, exercise 2).

    A pair that is too long fills the room exactly: the premise keeps room * len_p / (len_p + len_h), rounded to the
    nearest with halves up, the hypothesis the rest; but of a sentence that has tokens, at least one stays.
    """
    len_p, len_h = np.asarray(len_p, np.int64), np.asarray(len_h, np.int64)
    total = np.maximum(len_p + len_h, 1)
    share_p = (2 * room * len_p + total) // (2 * total)
    share_p = np.clip(share_p, np.minimum(len_p, 1), room - np.minimum(len_h, 1))
    keep_p = np.where(len_p + len_h <= room, len_p, share_p)
    return keep_p, np.minimum(len_h, room - keep_p)


TRUNCATIONS: dict[str, Callable[[Ints, Ints, int], tuple[Ints, Ints]]] = {
    "longest_first": longest_first,
    "d2l": d2l,
    "proportional": proportional,
}
