"""What a device could do at most, and what a training step asks of it: for the share of peak in the progress line."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from bertnli.model import ModelConfig

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TOKENS = {"cpu": (1024, 4096), "cuda": (16_384,)}


def training_flop(config: ModelConfig, tokens: float) -> float:
    """Floating-point operations to train on `tokens` tokens: 6 x weights x tokens.

    Two for each weight and token forward and four backward (Kaplan et al. 2020, section 2.1), over the blocks' matrix
    products; attention's own products, embeddings, pooler and classifier are left out (3% together at SNLI's lengths).
    """
    hidden = config.hidden_size
    return 6 * config.num_layers * (4 * hidden**2 + 2 * hidden * config.intermediate_size) * tokens


def matrix_peak(config: ModelConfig, precision: str, device: torch.device, seconds: float = 0.05) -> float:
    """FLOP/s of the fastest product `[tokens, in] x [in, out]` of the model's four linear shapes, measured now.

    `seconds`: for each shape.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, wide), (wide, hidden)]
    generator = torch.Generator(device).manual_seed(0)  # the run's own numbers stay as they are

    def operand(*shape: int) -> torch.Tensor:
        return torch.randn(shape, device=device, generator=generator).to(DTYPES[precision])

    return max(
        _rate(operand(tokens, inner), operand(outer, inner), seconds)
        for tokens in _TOKENS[device.type]
        for inner, outer in shapes
    )


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
