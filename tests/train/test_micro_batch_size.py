"""The size of a micro-batch by a GPU's memory: measured before training, with no step that fails."""

from __future__ import annotations

import pytest
import torch

from bertnli.common.errors import RunError
from bertnli.train.micro_batch_size import LEAST, MOST, SHARE, fitting_tokens, measure

GB = 10**9
GRADIENTS, TOKEN = 0.44 * GB, 0.35e6  # of BERT-base in bf16, some


class Gpu:
    """A GPU of `room` bytes; early in the backward pass all activations are there, at its end all gradients."""

    def __init__(self, room: float):
        self.room = room
        self.tried: list[int] = []

    def peak(self, tokens: int) -> int:
        self.tried.append(tokens)
        taken = int(max(TOKEN * tokens, GRADIENTS))
        if taken > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return taken


@pytest.mark.parametrize(
    ("free", "tokens"), [(138, 65_536), (29, 65_536), (28, 32_768), (14, 16_384), (6, 8192), (0.6, 1024), (0.1, LEAST)]
)
def test_the_largest_that_fits_is_taken(free, tokens):
    """Also where the engine has taken most of the memory since it was measured."""
    gpu = Gpu(138 * GB)
    assert fitting_tokens(measure(gpu.peak), free * GB) == tokens
    assert gpu.tried[0] == LEAST and gpu.tried[-1] == MOST
    if tokens > LEAST:
        assert gpu.peak(tokens) <= SHARE * free * GB
        assert tokens == MOST or gpu.peak(2 * tokens) > SHARE * free * GB


def test_where_the_gpu_is_full_what_was_measured_before_is_taken():
    gpu = Gpu(3 * GB)
    peaks = measure(gpu.peak)
    assert (gpu.tried[-1], max(peaks)) == (16_384, 8192)
    assert fitting_tokens(peaks, 3 * GB) == 4096  # of 2.4 GB


def test_a_gpu_without_room_for_anything_says_so():
    with pytest.raises(
        RunError, match=r"memory is full; found CUDA out of memory; expected room for the model and 256 t"
    ):
        measure(Gpu(0.4 * GB).peak)


def test_a_little_more_or_less_memory_changes_nothing():
    """A run that goes on is cut as before."""
    peaks = measure(Gpu(138 * GB).peak)
    assert {fitting_tokens(peaks, free * GB) for free in (20, 21, 19.5)} == {32_768}
