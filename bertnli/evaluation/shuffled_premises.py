"""Premises given to other rows: a score that stays, does not come from the pairs (annotation artefacts).

A model that does as well with any premise answers from the hypothesis alone (Gururangan et al. 2018; Poliak et al.
2018). What it still scores above the share of the largest class is how much the artefacts are worth to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from bertnli.data.pairs import PairFile, Row

SEED = 0
WINDOW = 4096  # rows whose premises are permuted among each other: far more than the few that share one in SNLI


class ShuffledPremises(PairFile):
    """A `PairFile` whose good rows have each other's premises; the same every time it is read.

    The permutation is drawn for `WINDOW` rows at once, so that memory does not grow with the file; a last, shorter
    window is joined with the one before it. Bad rows stay as they are.
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
