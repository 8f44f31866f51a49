"""The steps of a rank, in order: each one's pairs and micro-batches, on the device before it needs them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bertnli.data.batches import Assignment, Indices, assign_to_ranks, pack, source_of
from bertnli.data.corpus import Corpus
from bertnli.data.pooled_corpus import PooledCorpus
from bertnli.model.attention import Packed, copy_async, to_device


class SoftLabels(Protocol):
    """Of the pairs of a corpus: an array, or what a teacher says (teacher.py)."""

    def __getitem__(self, pairs: Indices) -> NDArray[np.float32]:
        """`[pairs, labels]`, probabilities."""


@dataclass(frozen=True)
class MicroBatch:
    """inputs: the model's three. labels: int64 `[pairs]`, or fp32 `[pairs, outputs]` (see `Corpus`). counts: False for
    the pair of a rank that has none. by_source: of each of several data sets the places of its pairs; () if there is
    one alone. soft: fp32 `[pairs, labels]`, soft labels."""

    inputs: tuple[Tensor, Tensor, Packed]
    labels: Tensor
    counts: bool
    by_source: tuple[Tensor, ...] = ()
    soft: Tensor | None = None

    @classmethod
    def of(
        cls,
        corpus: PooledCorpus | Corpus,
        indices: Indices,
        instead: Indices,
        device: torch.device,
        soft_labels: SoftLabels | None = None,
    ) -> MicroBatch:
        """The pairs at `indices`. A rank without pairs still takes part in every collective operation: it takes the
        pair `instead`, which does not count."""
        counts = len(indices) > 0
        indices = indices if counts else instead
        gold = corpus.labels[indices]
        labels = torch.from_numpy(gold.astype(np.int64 if gold.ndim == 1 else np.float32))
        by_source: tuple[Tensor, ...] = ()
        if isinstance(corpus, PooledCorpus):
            source = source_of(indices, corpus.starts)
            places = (torch.from_numpy(np.flatnonzero(source == one)) for one in range(len(corpus.starts)))
            by_source = tuple(copy_async(one, device) for one in places)
        soft = None
        if soft_labels is not None:
            soft = copy_async(torch.from_numpy(soft_labels[indices]), device)
        return cls(to_device(pack(corpus, indices), device), copy_async(labels, device), counts, by_source, soft)

    def tensors(self) -> list[Tensor]:
        """All its tensors on the device."""
        ids, token_types, layout = self.inputs
        soft = [] if self.soft is None else [self.soft]
        return [ids, token_types, layout.positions, layout.cu_seqlens, self.labels, *self.by_source, *soft]

    def targets(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """The labels and the soft labels of some of its pairs."""
        return self.labels[places], None if self.soft is None else self.soft[places]


@dataclass(frozen=True)
class Step:
    """pairs: int64 `[pairs]`, indices of the step's pairs on all ranks. assignment: to the ranks. micro_batches: of
    this rank. labels: of `pairs`, as the corpus has them."""

    pairs: Indices
    assignment: Assignment
    micro_batches: list[MicroBatch]
    labels: NDArray[Any]

    @classmethod
    def of(
        cls,
        corpus: PooledCorpus | Corpus,
        pairs: Indices,
        rank: int,
        world: int,
        micro_tokens: int,
        device: torch.device,
        soft_labels: SoftLabels | None = None,
    ) -> Step:
        assignment = assign_to_ranks(pairs, corpus.lengths, world)
        cut = assignment.micro_batches(rank, micro_tokens)
        micro_batches = [MicroBatch.of(corpus, one, pairs[:1], device, soft_labels) for one in cut]
        return cls(pairs, assignment, micro_batches, corpus.labels[pairs])


class Steps:
    """`make(number)` for one step after the other, as a context manager.

    ahead: make the next step on a side thread while the device computes this one; for a GPU, which would wait for it
    otherwise. Its copies are on a stream of their own. On a CPU the thread would take the cores from the computation.
    """

    def __init__(self, make: Callable[[int], Step], device: torch.device, ahead: bool):
        self._make = make
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="steps") if ahead else None
        self._next: tuple[int, Future[Step]] | None = None
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __getitem__(self, number: int) -> Step:
        """Step `number`, counted from 0."""
        if self._thread is None:
            return self._make(number)
        made, future = self._next or (-1, None)
        step = future.result() if future is not None and made == number else self._on_its_stream(number)
        if self._copies is not None:
            computing = torch.cuda.current_stream()
            computing.wait_stream(self._copies)
            for micro_batch in step.micro_batches:
                for tensor in micro_batch.tensors():
                    tensor.record_stream(computing)  # its memory is not given to a later copy before it was read
        self._next = number + 1, self._thread.submit(self._on_its_stream, number + 1)
        return step

    def _on_its_stream(self, number: int) -> Step:
        with torch.cuda.stream(self._copies):  # None: nothing changes
            return self._make(number)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
