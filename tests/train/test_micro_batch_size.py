"""The size of a micro-batch by a GPU's memory: measured before training, with no step that fails."""

from __future__ import annotations

import pytest
import torch

from bertnli.common.errors import RunError
from bertnli.train.micro_batch_size import LEAST, MOST, StepMemory, measure

GB = 10**9


class Gpu:
    """A GPU of `room` bytes on which a micro-batch takes `fixed` bytes and `per_token` for each token."""

    def __init__(self, room: float, fixed: float, per_token: float):
        self.room, self.fixed, self.per_token = room, fixed, per_token
        self.tried: list[int] = []

    def peak(self, tokens: int) -> tuple[int, int]:
        self.tried.append(tokens)
        tokens += 7  # pairs are whole
        taken = int(self.fixed + self.per_token * tokens)
        if taken > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return tokens, taken


def test_the_growth_is_measured_and_the_largest_that_fits_is_taken():
    # BERT-base in bf16: 0.44 GB of gradients, some 0.7 MB a token.
    memory = measure(Gpu(140 * GB, 0.44 * GB, 0.7e6).peak)
    assert memory.per_token == pytest.approx(0.7e6, rel=1e-6) and memory.fixed == pytest.approx(0.44 * GB, rel=1e-6)
    fitting = {free: memory.tokens(free * GB) for free in (138, 78, 22, 14, 6, 0.1)}
    assert fitting == {138: 65_536, 78: 65_536, 22: 16_384, 14: 8192, 6: 4096, 0.1: LEAST}
    for free, tokens in fitting.items():
        if tokens > LEAST:
            assert memory.fixed + tokens * memory.per_token < 0.8 * free * GB
            assert tokens == MOST or memory.fixed + 2 * tokens * memory.per_token > 0.8 * free * GB


def test_a_smaller_one_is_tried_where_the_gpu_is_full():
    gpu = Gpu(1.5 * GB, 0.44 * GB, 0.7e6)
    memory = measure(gpu.peak)
    assert gpu.tried == [1024, 4096, 512, 2048, 256, 1024]
    assert memory.per_token == pytest.approx(0.7e6, rel=1e-6)


def test_a_gpu_without_room_for_anything_says_so():
    with pytest.raises(
        RunError, match=r"memory is full; found CUDA out of memory; expected room for the model and 256 t"
    ):
        measure(Gpu(0.5 * GB, 0.44 * GB, 0.7e6).peak)


def test_a_little_more_or_less_memory_changes_nothing():
    """A run that goes on is cut as before."""
    memory = StepMemory(0.44 * GB, 0.7e6)
    assert {memory.tokens(free * GB) for free in (40, 41, 39.5)} == {32_768}


def test_a_model_whose_growth_the_allocator_hides_takes_the_most():
    assert measure(lambda tokens: (tokens, 2 * 2**20)).tokens(GB) == MOST
