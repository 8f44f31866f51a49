"""How many tokens a rank takes through the model at once, where the run file does not say: what fits the GPU's memory.

Before training, forward and backward passes are measured, each over twice the tokens of the one before. So no step has
to fail to find out that it is too large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn

from bertnli.common.errors import RunError
from bertnli.data.batches import Indices
from bertnli.data.corpus import Corpus
from bertnli.data.pooled_corpus import PooledCorpus
from bertnli.train.flops import DTYPES
from bertnli.train.losses import Loss
from bertnli.train.steps import MicroBatch

CPU_TOKENS = 3072
LEAST, MOST = 256, 65_536
"""Of a GPU. More than MOST tokens are no faster: they are products of 65,536 rows."""
SHARE = 0.8
"""Of the free memory; the rest is for what the allocator cannot use between its blocks, and for other programs."""


def fitting_tokens(peaks: Mapping[int, int], free: float) -> int:
    """The largest micro-batch of `peaks` (tokens: bytes) that fits into SHARE of `free` bytes; at least LEAST."""
    return max((tokens for tokens, peak in peaks.items() if peak <= SHARE * free), default=LEAST)


def measure(peak: Callable[[int], int]) -> dict[int, int]:
    """The bytes of micro-batches of LEAST to MOST tokens, doubled each time, as far as they fit the GPU.

    peak: computes a micro-batch of so many tokens and returns the bytes that it took besides the model; it raises
    torch.OutOfMemoryError. Raises RunError if not even LEAST tokens fit.
    """
    peaks: dict[int, int] = {}
    tokens = LEAST
    while tokens <= MOST:
        try:
            peaks[tokens] = peak(tokens)
        except torch.OutOfMemoryError as error:
            if not peaks:
                raise RunError(
                    "the GPU's memory is full",
                    found=str(error).partition(". ")[0],
                    expected=f"room for the model and {LEAST} tokens",
                    do="end what else runs on it, or take a GPU with more memory",
                ) from None
            break
        tokens *= 2
    return peaks


def measure_on_gpu(
    model: nn.Module, loss: Loss, corpus: PooledCorpus | Corpus, chosen: Indices, precision: str, device: torch.device
) -> dict[int, int]:
    """`measure` on `model`, which is moved to the GPU `device`, with the corpus's pairs at `chosen`.

    Of each size two micro-batches are computed: long pairs, whose attention may need more, and short ones, which are
    many: flash attention's backward pass needs 128 rows more for each. Raises RunError if the GPU is full.
    """
    model.to(device).train()
    by_length = chosen[np.argsort(corpus.lengths[chosen], kind="stable")]
    kinds = by_length[::-1], by_length[len(by_length) // 10 :]

    def peak(tokens: int) -> int:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        for pairs in kinds:
            ends = np.cumsum(corpus.lengths[np.resize(pairs, tokens)], dtype=np.int64)  # a pair has a token at least
            some = np.resize(pairs, np.searchsorted(ends, tokens) + 1)
            try:
                _forward_and_backward(model, loss, MicroBatch.of(corpus, some, some, device), precision)
            finally:
                model.zero_grad(set_to_none=True)
        return torch.cuda.max_memory_allocated(device) - before

    peaks = measure(peak)
    torch.cuda.empty_cache()  # the engine needs blocks of other sizes
    return peaks


def _forward_and_backward(model: nn.Module, loss: Loss, batch: MicroBatch, precision: str) -> None:
    lower = nullcontext() if precision == "fp32" else torch.autocast("cuda", DTYPES[precision])
    with lower:
        logits = model(*batch.inputs)
    summed, _ = loss(logits.float(), batch.labels)
    (summed / len(logits)).backward()


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still allocate on a GPU: those that nobody has, and those that it keeps unused."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def gpu_is_full(error: torch.OutOfMemoryError, rank: int, do: str) -> RunError:
    """The error for a step that needs more memory than the GPU has. do: what helps."""
    return RunError(
        f"rank {rank}: the GPU's memory is full",
        found=str(error).partition(". ")[0],
        do=f"{do}; the same command then continues from the last checkpoint",
    )
