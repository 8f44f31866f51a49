"""The share of the measured matmul peak (MFU) that training reaches: a step's FLOP, and the peak of a device.

MFU (model FLOPs utilization) is the rate of a model's own floating-point operations divided by the device's peak rate
(Chowdhery et al. 2022, PaLM, section 4.1). They take the peak from the data sheet; here it is measured, because CPUs
have no such figure and a GPU does not always reach its own. So our MFU is usually higher than theirs would be.
"""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from bertnli.families.config import ModelConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENS = {"cpu": (1024, 4096), "cuda": (4096, 16_384)}
SQUARE = {"cpu": (), "cuda": (8192,)}
"""Sizes of square matrices that are multiplied too. A GPU's rate is usually measured so; a small model's shapes are
slower."""


def block_weights(config: ModelConfig) -> int:
    """Weights in the matrix products of all blocks; each block has 4 H^2 in attention and 2 H I in the feed-forward
    network, 3 H I with a gate (H: hidden_size, I: intermediate_size)."""
    hidden, matrices = config.hidden_size, 3 if config.pre_norm else 2
    return config.num_layers * (4 * hidden**2 + matrices * hidden * config.intermediate_size)


def training_flop(config: ModelConfig, tokens: float) -> float:
    """Floating-point operations to train on `tokens` tokens: 6 x weights x tokens.

    For each weight and token two operations forward and four backward (Kaplan et al. 2020, section 2.1). Only the
    blocks' linear layers are counted: the products inside attention, embeddings, pooler and classifier are not (3%
    together at SNLI's lengths).
    """
    return 6 * block_weights(config) * tokens


def needed_flop(config: ModelConfig, tokens: float, pairs: float, frozen: int | None = None) -> float:
    """`training_flop` without the operations that a pair classifier does not need, and ours does not compute.

    The last block's keys and values are needed for every token, the rest of that block only for each pair's first token
    (`classifier.PairClassifier`), unless the classifier reads the mean over all.

    frozen: the number of blocks that are frozen with the embeddings; None: nothing is. They are computed forward alone,
    and the products that read their output need no gradient of it. What gradient checkpointing computes a second time
    is not counted (PaLM, section 4.1).
    """
    layers, keys_and_values, query = config.num_layers, 2 * config.hidden_size**2, config.hidden_size**2
    of_one_block = block_weights(config) / layers
    in_last = tokens if config.head.pooling == "mean" else pairs  # those that the last block computes wholly
    spared = 6 * (of_one_block - keys_and_values) * (tokens - in_last)
    if frozen is not None:
        last = keys_and_values * tokens + (of_one_block - keys_and_values) * in_last
        blocks = [of_one_block * tokens] * (layers - 1) + [last]
        spared += 4 * sum(blocks[:frozen])
        norm_between = config.pre_norm and frozen > 0  # a norm that is trained, and so needs its output's gradient
        if frozen < layers and not norm_between:
            spared += 2 * (keys_and_values * tokens + query * (in_last if frozen == layers - 1 else tokens))
    return training_flop(config, tokens) - spared


def matmul_peak(hidden: int, wide: int, precision: str, device: torch.device, seconds: float = 0.02) -> float:
    """The measured matmul peak: FLOP/s of the fastest product `[tokens, in] x [in, out]` over a block's linear layers.

    hidden, wide: the model's hidden_size and intermediate_size. seconds: how long each shape is measured.
    """
    generator = torch.Generator(device).manual_seed(0)  # the global generator's numbers stay those of the run

    def operand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(DTYPES[precision])

    shapes = product_shapes(hidden, wide, device.type)
    return max(_rate(operand(tokens, inner), operand(outer, inner), seconds) for tokens, inner, outer in shapes)


def product_shapes(hidden: int, wide: int, device: str) -> list[tuple[int, int, int]]:
    """The products that the peak is looked for among, each as (tokens, in, out)."""
    layers = [(hidden, 3 * hidden), (hidden, hidden), (hidden, wide), (wide, hidden)]
    of_layers = [(tokens, inner, outer) for tokens in TOKENS[device] for inner, outer in layers]
    return of_layers + [(size, size, size) for size in SQUARE[device]]


def _rate(x: torch.Tensor, weight: torch.Tensor, seconds: float) -> float:
    def wait() -> None:
        if x.is_cuda:
            torch.cuda.synchronize()

    F.linear(x, weight)
    wait()
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        for _ in range(4):
            F.linear(x, weight)
        wait()
        count += 4
    return count * 2 * x.shape[0] * x.shape[1] * weight.shape[0] / took
