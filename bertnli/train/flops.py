"""What a device could do at most, and what a training step asks of it: for the share of peak in the progress line."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from bertnli.model.classifier import ModelConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOKENS = {"cpu": (1024, 4096), "cuda": (4096, 16_384)}
SQUARE = {"cpu": (), "cuda": (8192,)}
"""Products of square matrices besides: a GPU's rate is commonly measured so; a small model's shapes stay below it."""


def block_weights(config: ModelConfig) -> int:
    """Weights in the matrix products of all blocks: of each, 4 H^2 in the attention and 2 H I in the feed-forward."""
    hidden = config.hidden_size
    return config.num_layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size)


def training_flop(config: ModelConfig, tokens: float) -> float:
    """Floating-point operations to train on `tokens` tokens: 6 x weights x tokens.

    Two for each weight and token forward and four backward (Kaplan et al. 2020, section 2.1), over the blocks' matrix
    products; attention's own products, embeddings, pooler and classifier are left out (3% together at SNLI's lengths).
    """
    return 6 * block_weights(config) * tokens


def needed_flop(config: ModelConfig, tokens: float, pairs: float) -> float:
    """`training_flop` less what a pair classifier can leave out, as ours does.

    Of its last block only keys and values are wanted of every token, the rest of the pairs' first tokens alone.
    """
    of_one_block = block_weights(config) / config.num_layers
    keys_and_values = 2 * config.hidden_size**2
    return training_flop(config, tokens) - 6 * (of_one_block - keys_and_values) * (tokens - pairs)


def matrix_peak(hidden: int, wide: int, precision: str, device: torch.device, seconds: float = 0.02) -> float:
    """FLOP/s of the fastest product `[tokens, in] x [in, out]` of a block's four linear shapes, measured now.

    hidden, wide: the model's hidden_size and intermediate_size. seconds: for each shape.
    """
    layers = [(hidden, 3 * hidden), (hidden, hidden), (hidden, wide), (wide, hidden)]
    shapes = [(tokens, inner, outer) for tokens in TOKENS[device.type] for inner, outer in layers]
    shapes += [(size, size, size) for size in SQUARE[device.type]]
    generator = torch.Generator(device).manual_seed(0)  # the run's own numbers stay as they are

    def operand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(DTYPES[precision])

    return max(_rate(operand(tokens, inner), operand(outer, inner), seconds) for tokens, inner, outer in shapes)


def _rate(x: torch.Tensor, weight: torch.Tensor, seconds: float) -> float:
    def wait() -> None:
        if x.is_cuda:
            torch.cuda.synchronize()

    F.linear(x, weight)
    wait()
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        for _ in range(4):
            F.linear(x, weight)
        wait()
        count += 4
    return count * 2 * x.shape[0] * x.shape[1] * weight.shape[0] / took
