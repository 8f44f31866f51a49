"""The roofline behind the estimate for a GPU: bytes, FLOP and times of operators, on torch's meta device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gpu_estimate import Gpu, Roofline

GPU = Gpu(peak=100e12, of_peak=0.5, bandwidth=1e12, kernel=1e-6, launch=1e-6)


def operator(name, work):
    with Roofline(GPU) as roofline:
        work()
    return roofline.operators[name], roofline.seconds


def meta(*shape):
    return torch.empty(shape, dtype=torch.bfloat16, device="meta")


def test_a_large_product_takes_its_flop():
    row, seconds = operator("mm", lambda: meta(4096, 4096) @ meta(4096, 4096))
    assert (row.calls, row.gigaflop) == (1, pytest.approx(2 * 4096**3 / 1e9))
    assert seconds == pytest.approx(2 * 4096**3 / 50e12)


def test_an_elementwise_operator_takes_its_bytes():
    row, seconds = operator("gelu", lambda: torch.nn.functional.gelu(meta(10_000_000)))
    assert (row.gigabytes, row.gigaflop, seconds) == (pytest.approx(0.04), 0, pytest.approx(0.04e9 / 1e12))


def test_a_small_operator_takes_a_kernels_time_and_a_view_none():
    x = meta(8, 8)
    assert operator("add", lambda: x + x)[1] == 1e-6
    assert operator("t", lambda: x.t().unsqueeze(0))[1] == 0


def test_attention_of_short_pairs_takes_whole_tiles():
    query = meta(60, 12, 64)
    ends = torch.empty(4, dtype=torch.int32, device="meta")

    def attend():
        torch.ops.aten._flash_attention_forward(query, query, query, ends, ends, 20, 20, 0.0, False, False)

    row, _ = operator("_flash_attention_forward", attend)
    assert row.gigaflop == pytest.approx(2 * 2 * 3 * 128 * 128 * 12 * 64 / 1e9)
