"""Shuffled-premise control: if accuracy stays the same with the premises shuffled, the model ignores them.

Such a model answers from the hypothesis alone, by annotation artefacts (Gururangan et al. 2018; Poliak et al. 2018).
Its accuracy on shuffled premises minus the share of the largest class shows how much it gains from the artefacts.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile

SEED = 0
WINDOW = 4096  # premises are permuted within so many rows; in SNLI about three rows share a premise


class ShuffledPremises(PairFile):
    """A `PairFile` in which the premises of the good rows are permuted, in the same way at each reading.

    Premises are permuted within windows of `WINDOW` rows, so that memory does not grow with the file; a shorter last
    window is joined with the window before it. Bad rows do not change.
    """

    def rows(self) -> Iterator[Row]:
        """As `PairFile.rows`."""
        source, number = super().rows(), 0
        window = list(islice(source, WINDOW))
        while window:
            following = list(islice(source, WINDOW))
            if len(following) < WINDOW:
                window, following = window + following, []
            yield from _permuted(window, np.random.default_rng([SEED, number]))
            window, number = following, number + 1


def _permuted(rows: list[Row], random: np.random.Generator) -> Iterator[Row]:
    good = [row for row in rows if row.error is None]
    given = iter(random.permutation(len(good)))
    for row in rows:
        yield row if row.error is not None else row._replace(premise=good[next(given)].premise)
