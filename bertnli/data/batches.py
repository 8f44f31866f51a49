"""Which pairs make up an optimizer step, which rank computes which of them, and the packed (varlen) layout of a batch.

A step is a fixed set of pairs, which depends only on the seed and the step's number. So the result of a run does not
depend on the number of ranks (only dropout masks do), and a resumed run continues exactly. Within a step, all ranks
get nearly the same number of tokens, and the same number of micro-batches.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


class Part(NamedTuple):
    """The pairs of one data set. weight: how often an epoch has each pair. A weight of 2.5 is each pair twice, and half
    of them, drawn anew in each epoch, once more."""

    pairs: int
    weight: float = 1.0

    @property
    def pairs_per_epoch(self) -> int:
        return max(1, math.floor(self.pairs * self.weight + 0.5))

    def drawn(self, seed: Sequence[int]) -> Indices:
        """The part's pairs of one epoch, from 0. seed: of what is drawn."""
        times, more = divmod(self.pairs_per_epoch, self.pairs)
        drawn = np.random.default_rng(seed).permutation(self.pairs)[:more] if more else np.arange(0)
        return np.concatenate([np.tile(np.arange(self.pairs), times), drawn])


@dataclass(frozen=True)
class Stream:
    """The endless sequence of global batches over `pairs` examples. Each epoch has its own order.

    parts: the data sets that the pairs are from, one after the other; () if they are from one alone.
    """

    pairs: int
    global_batch_size: int
    seed: int
    parts: tuple[Part, ...] = ()

    @property
    def pairs_per_epoch(self) -> int:
        return sum(part.pairs_per_epoch for part in self.parts) if self.parts else self.pairs

    def step(self, number: int) -> Indices:
        """Indices of the pairs in optimizer step `number` (from 0). The last step of an epoch may have fewer pairs."""
        epoch, place = divmod(number, math.ceil(self.pairs_per_epoch / self.global_batch_size))
        start = place * self.global_batch_size
        return self.epoch(epoch)[start : start + self.global_batch_size]

    def epoch(self, number: int) -> Indices:
        """Indices of the pairs of epoch `number` (from 0), in their order."""
        return _epoch_order(self.parts or (Part(self.pairs),), self.seed, number)


@lru_cache(maxsize=1)
def _epoch_order(parts: tuple[Part, ...], seed: int, epoch: int) -> Indices:
    ends = np.cumsum([part.pairs for part in parts])
    # "DRAW" in ASCII makes it another random stream than that of the order.
    drawn = [part.drawn([seed, epoch, 0x44524157, place]) for place, part in enumerate(parts)]
    pairs = np.concatenate([one + end - part.pairs for one, end, part in zip(drawn, ends, parts, strict=True)])
    return pairs[np.random.default_rng([seed, epoch]).permutation(len(pairs))]


def source_of(pairs: Indices, starts: Indices) -> Indices:
    """The data set that each pair is from, by the first pair of each set."""
    return np.searchsorted(starts, pairs, side="right") - 1


@dataclass(frozen=True)
class Assignment:
    """The pairs of one step, assigned to the ranks.

    pairs: int64 `[pairs]`, indices, the shortest pair first. lengths: int64 `[pairs]`, in tokens. owner: int64
    `[pairs]`, the rank of each pair. tokens: int64 `[ranks]`, the number of tokens of each rank.
    """

    pairs: Indices
    lengths: Indices
    owner: Indices
    tokens: Indices

    @property
    def imbalance(self) -> float:
        """By how much the largest number of tokens of a rank exceeds the mean: 0.05 means 5%, 0 means equal ranks."""
        return float(self.tokens.max() / self.tokens.mean() - 1)

    def micro_batches(self, rank: int, max_tokens: int) -> list[Indices]:
        """The micro-batches of one rank: arrays of pair indices, each sorted by length.

        All ranks get the same number of micro-batches, because every rank must take part in each collective operation.
        So a micro-batch is empty if a step has too few pairs. A micro-batch has about `max_tokens` tokens at most, but
        at least one pair, however long.
        """
        count = max(1, math.ceil(self.tokens.max() / max_tokens))
        mine, lengths = self.pairs[self.owner == rank], self.lengths[self.owner == rank]
        # Cut where the cumulative number of tokens passes each of `count` equal shares.
        middles = np.cumsum(lengths) - lengths / 2
        piece = np.minimum(middles * count // max(1.0, self.tokens[rank]), count - 1)
        return [mine[piece == number] for number in range(count)]


def assign_to_ranks(step: Indices, lengths: NDArray[np.integer], world: int) -> Assignment:
    """Assign each pair to the rank that has the fewest tokens so far, the longest pair first.

    This is the LPT rule (longest processing time first): its largest load is at most 4/3 of the optimum (Graham 1969,
    "Bounds on Multiprocessing Timing Anomalies"). step: `[pairs]`, indices. lengths: tokens of every pair of the
    corpus.
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
    """Pairs in flat arrays: a `Corpus`, or the `Encoded` pairs that a tokenizer returns."""

    @property
    def ids(self) -> NDArray[np.integer]: ...  # [tokens]
    @property
    def offsets(self) -> NDArray[np.int64]: ...  # [pairs] or more, where a pair's tokens begin in `ids`
    @property
    def lengths(self) -> NDArray[np.integer]: ...  # [pairs]
    @property
    def first_segment(self) -> NDArray[np.integer]: ...  # [pairs], tokens of [CLS] premise [SEP]


@dataclass(frozen=True)
class PackedBatch:
    """A batch in the packed (varlen) layout: all pairs end to end, without padding.

    input_ids, token_type_ids: int64 `[tokens]`. lengths: int64 `[pairs]`. The cumulative sum of the lengths, with a 0
    before it, is what variable-length attention kernels call `cu_seqlens`.
    """

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]


def pack(pairs: TokenisedPairs, indices: Indices) -> PackedBatch:
    """The pairs at `indices`, in that order, in the packed layout."""
    lengths = pairs.lengths[indices].astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)  # the position of a token in its pair
    return PackedBatch(
        input_ids=pairs.ids[np.repeat(pairs.offsets[indices], lengths) + within].astype(np.int64),
        token_type_ids=(within >= np.repeat(pairs.first_segment[indices], lengths)).astype(np.int64),
        lengths=lengths,
    )


def batches_by_length(lengths: NDArray[np.integer], max_tokens: int) -> list[Indices]:
    """Batches for evaluation: every pair once, pairs of similar length together, about `max_tokens` tokens each."""
    order = np.argsort(lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    return np.split(order, np.flatnonzero(np.diff((ends - 1) // max_tokens)) + 1) if len(order) else []
