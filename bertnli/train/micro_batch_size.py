"""How many tokens a rank takes through the model at once, where the run file does not say: what fits the GPU's memory.

Before training, a forward and a backward pass over the corpus's longest pairs are measured at two sizes. So the memory
of a token is known, and no step has to fail to find out that it is too large.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bertnli.common.errors import RunError
from bertnli.data.batches import Indices
from bertnli.data.corpus import Corpus
from bertnli.train.flops import DTYPES
from bertnli.train.steps import MicroBatch

CPU_TOKENS = 3072
LEAST, MOST = 256, 65_536
"""Of a GPU. More than MOST tokens are no faster: an H200's products are as fast as they get at a third of it."""
SHARE = 0.8
"""Of the free memory; the rest is for what the allocator cannot use between its blocks, and for other programs."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes that a micro-batch takes besides the model: `fixed` (its gradients) and `per_token` for each token."""

    fixed: float
    per_token: float

    def tokens(self, free: float) -> int:
        """The largest power of two that fits `free` bytes, from LEAST to MOST.

        A power of two, so that a run that goes on is cut as before although a little more or less memory is free.
        """
        fitting = (SHARE * free - self.fixed) / self.per_token
        return int(np.clip(2 ** np.floor(np.log2(max(fitting, 1))), LEAST, MOST))


def measure(peak: Callable[[int], tuple[int, int]], most: int = 4096) -> StepMemory:
    """From two micro-batches, the larger one of `most` tokens or, where the GPU is too full for them, fewer.

    peak: `peak(tokens)` computes a micro-batch of `tokens` tokens or a little more and returns their number and the
    bytes that it took; it raises torch.OutOfMemoryError. Raises RunError if not even LEAST tokens fit.
    """
    while True:
        try:
            (few, small), (many, large) = peak(most // 4), peak(most)
        except torch.OutOfMemoryError as error:
            if most <= LEAST:
                raise RunError(
                    "the GPU's memory is full",
                    found=str(error).partition(". ")[0],
                    expected=f"room for the model and {most} tokens",
                    do="end what else runs on it, or take a GPU with more memory",
                ) from None
            most //= 2
            continue
        # An allocator's blocks may hide the growth of a tiny model.
        per_token = max((large - small) / max(many - few, 1), 1.0)
        return StepMemory(max(large - per_token * many, 0.0), per_token)


def step_memory(model: nn.Module, corpus: Corpus, chosen: Indices, precision: str, device: torch.device) -> StepMemory:
    """Measured on `model`, which is moved to the GPU `device`, with the longest of the corpus's pairs at `chosen`.

    Raises RunError if the GPU is full.
    """
    model.to(device).train()
    longest = chosen[np.argsort(corpus.lengths[chosen], kind="stable")[::-1][:MOST]]

    def peak(tokens: int) -> tuple[int, int]:
        count = int(np.searchsorted(np.cumsum(corpus.lengths[longest]), tokens)) + 1
        pairs = np.resize(longest, count if count <= len(longest) else tokens // int(corpus.lengths[longest[-1]]) + 1)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            batch = MicroBatch.of(corpus, pairs, pairs, device)
            lower = torch.autocast(device.type, DTYPES[precision]) if precision != "fp32" else nullcontext()
            with lower:
                logits = model(*batch.inputs).float()
            F.cross_entropy(logits, batch.labels).backward()
            return len(batch.inputs[0]), torch.cuda.max_memory_allocated(device) - before
        finally:
            model.zero_grad(set_to_none=True)

    memory = measure(peak)
    torch.cuda.empty_cache()  # the blocks of these sizes are of no use to the engine
    return memory


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on a GPU: those that nobody has, and those that it keeps unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
