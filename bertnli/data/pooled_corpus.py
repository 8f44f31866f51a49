"""The corpora of several data sets as one: what a run with several sources trains on.

Their tokens stay in the corpora, which all ranks memory-map; the other arrays, some 30 bytes a pair, are copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from bertnli.data.batches import Indices, source_of
from bertnli.data.corpus import Corpus


class PooledCorpus:
    """The pairs of `corpora`, which the same tokenizer made, one corpus after the other; arrays as those of `Corpus`.

    starts: `[corpora]`, the index of each corpus's first pair. rows: of each pair in its own file.
    """

    def __init__(self, corpora: Sequence[Corpus]):
        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(corpus, name) for corpus in corpora])

        self.starts = _starts([len(corpus) for corpus in corpora])
        tokens = _starts([len(corpus.ids) for corpus in corpora])
        self.ids = cast("NDArray[np.integer]", _JoinedIds([corpus.ids for corpus in corpora], tokens))
        self.offsets = np.concatenate([corpus.offsets + start for corpus, start in zip(corpora, tokens, strict=True)])
        self.lengths: NDArray[np.uint16] = joined("lengths")
        self.first_segment: NDArray[np.uint16] = joined("first_segment")
        self.labels: NDArray[np.int8] | NDArray[np.float64] = joined("labels")
        self.rows: NDArray[np.int64] = joined("rows")
        self.premises: NDArray[np.uint64] = joined("premises")
        self.key = " ".join(corpus.key for corpus in corpora)
        self.without_gold = sum(corpus.without_gold for corpus in corpora)
        self.soft_labels: NDArray[np.float32] | None = None
        if corpora[0].soft_labels is not None:
            self.soft_labels = joined("soft_labels")

    def __len__(self) -> int:
        return len(self.lengths)


class _JoinedIds:
    """The token ids of all corpora, end to end: what `pack` asks of an array."""

    def __init__(self, arrays: Sequence[NDArray[np.integer]], starts: Indices):
        self._arrays, self._starts = arrays, starts

    def __getitem__(self, places: Indices) -> NDArray[np.integer]:
        """The ids at these places, which may be in any order."""
        source = source_of(places, self._starts)
        found = np.empty(len(places), self._arrays[0].dtype)
        for number, ids in enumerate(self._arrays):
            here = source == number
            found[here] = ids[places[here] - self._starts[number]]
        return found


def _starts(sizes: Sequence[int]) -> Indices:
    return np.cumsum([0, *sizes[:-1]])
