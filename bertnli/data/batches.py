"""Which pairs make up an optimizer step, and which rank takes which of them through the model.

A step is a fixed set of pairs: a function of the seed and the step's number, of nothing else. So a run does not
depend on the number of ranks (dropout's masks do), and a resumed run goes on exactly. Inside the step every rank gets
nearly the same number of tokens and the same number of micro-batches, each of pairs of similar length laid end to end
without padding.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """The endless sequence of global batches over `pairs` examples: epoch after epoch, each in an order of its own."""

    pairs: int
    global_batch_size: int
    seed: int

    def step(self, number: int) -> Indices:
        """Indices of the pairs in optimizer step `number` (from 0); an epoch's last step may hold fewer pairs."""
        epoch, place = divmod(number, math.ceil(self.pairs / self.global_batch_size))
        start = place * self.global_batch_size
        return _epoch_order(self.pairs, self.seed, epoch)[start : start + self.global_batch_size]


@lru_cache(maxsize=1)
def _epoch_order(pairs: int, seed: int, epoch: int) -> Indices:
    return np.random.default_rng([seed, epoch]).permutation(pairs)


@dataclass(frozen=True)
class Assignment:
    """A step's pairs dealt to the ranks.

    pairs: `[pairs]` indices, the shortest first; lengths: tokens of each; owner: the rank of each; tokens: `[ranks]`,
    of each rank.
    """

    pairs: Indices
    lengths: Indices
    owner: Indices
    tokens: Indices

    @property
    def imbalance(self) -> float:
        """How many more tokens the busiest rank has than the mean: 0.05 for 5%, 0 for ranks that are even."""
        return float(self.tokens.max() / self.tokens.mean() - 1)

    def micro_batches(self, rank: int, max_tokens: int) -> list[Indices]:
        """Those of one rank, each sorted by length: `[micro_batches]` arrays of pair indices.

        Every rank gets the same number of them, so that collective operations meet; one is empty where a step holds
        fewer pairs than there are places. One holds about `max_tokens` tokens at most (one pair always fits).
        """
        count = max(1, math.ceil(self.tokens.max() / max_tokens))
        mine, lengths = self.pairs[self.owner == rank], self.lengths[self.owner == rank]
        # Cut where the running number of tokens passes each of `count` equal shares.
        middles = np.cumsum(lengths) - lengths / 2
        piece = np.minimum(middles * count // max(1.0, self.tokens[rank]), count - 1)
        return [mine[piece == number] for number in range(count)]


def assign_to_ranks(step: Indices, lengths: NDArray[np.integer], world: int) -> Assignment:
    """Each pair to the rank with the fewest tokens so far, the longest first (Graham 1969, LPT rule).

    `lengths`: tokens of every pair of the corpus.
    """
    pairs = step[np.lexsort((step, lengths[step]))]
    sizes = lengths[pairs].astype(np.int64)
    owner = np.zeros(len(pairs), dtype=np.int64)
    if world > 1:
        loads = [(0, rank) for rank in range(world)]  # a heap
        for place in range(len(pairs) - 1, -1, -1):
            load, rank = loads[0]
            owner[place] = rank
            heapq.heapreplace(loads, (load + int(sizes[place]), rank))
    tokens = np.zeros(world, dtype=np.int64)
    np.add.at(tokens, owner, sizes)
    return Assignment(pairs, sizes, owner, tokens)


class TokenisedPairs(Protocol):
    """Pairs in flat arrays: a corpus, or what a tokenizer has just made (`tokens.Encoded`)."""

    @property
    def ids(self) -> NDArray[np.integer]: ...  # [tokens]
    @property
    def offsets(self) -> NDArray[np.int64]: ...  # where a pair's tokens begin
    @property
    def lengths(self) -> NDArray[np.integer]: ...  # [pairs]
    @property
    def first_segment(self) -> NDArray[np.integer]: ...  # [pairs], tokens of [CLS] premise [SEP]


@dataclass(frozen=True)
class PackedBatch:
    """Pairs end to end: `input_ids` and `token_type_ids` int64 `[tokens]`, `lengths` int64 `[pairs]`."""

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]


def pack(pairs: TokenisedPairs, indices: Indices) -> PackedBatch:
    """The pairs at `indices`, in that order, without padding."""
    lengths = pairs.lengths[indices].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # a token's place in its pair
    return PackedBatch(
        input_ids=pairs.ids[np.repeat(pairs.offsets[indices], lengths) + within].astype(np.int64),
        token_type_ids=(within >= np.repeat(pairs.first_segment[indices], lengths)).astype(np.int64),
        lengths=lengths,
    )


def batches_by_length(lengths: NDArray[np.integer], max_tokens: int) -> list[Indices]:
    """All pairs, each once, in batches of similar length and about `max_tokens` tokens: for evaluation."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    return np.split(order, np.flatnonzero(np.diff((ends - 1) // max_tokens)) + 1) if len(order) else []
