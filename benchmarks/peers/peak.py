"""The machine's matrix peak: what torch's own products reach on the model's shapes, which no training can exceed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.harness import Peer, Run
from benchmarks.peers import hf
from benchmarks.work import Work

_SECONDS = 0.25  # for each shape
_TOKENS = {"cpu": (1024, 4096), "cuda": (4096, 16_384)}
_SQUARE = {"cpu": (), "cuda": (8192,)}
"""Products of square matrices besides: a GPU's rate is commonly measured so; a small model's shapes stay below it."""


@dataclass
class MatrixPeak(Peer):
    """Products [tokens, in] x [in, out] of the blocks' four linear layers, on a GPU also [8192, 8192] x [8192, 8192];
    the rate of the fastest."""

    work: Work
    precision: str
    unit: ClassVar[str] = "FLOP"

    def __post_init__(self) -> None:
        self.name = f"matrix-peak-{self.precision}"
        self.about = f"the fastest {self.precision} matrix product of the model's shapes"

    def options(self) -> dict[str, Any]:
        device = hf.device().type
        sizes = {"tokens": list(_TOKENS[device]), "square": list(_SQUARE[device])}
        return {"precision": self.precision, **sizes, "seconds_a_shape": _SECONDS}

    def prepare(self) -> None:
        import torch
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.work.model)
        hidden, wide = config.hidden_size, config.intermediate_size
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]
        device = hf.device()
        layers = [(hidden, 3 * hidden), (hidden, hidden), (hidden, wide), (wide, hidden)]
        shapes = [(tokens, inner, outer) for tokens in _TOKENS[device.type] for inner, outer in layers]
        shapes += [(size, size, size) for size in _SQUARE[device.type]]
        self._operands = [
            (torch.randn(tokens, inner, device=device).to(kind), torch.randn(outer, inner, device=device).to(kind))
            for tokens, inner, outer in shapes
        ]

    def run(self, amount: int) -> Run:
        return max((self._product(x, weight) for x, weight in self._operands), key=lambda run: run.per_second)

    def _product(self, x: Any, weight: Any) -> Run:
        import torch
        import torch.nn.functional as F

        wait = torch.cuda.synchronize if x.is_cuda else lambda: None
        F.linear(x, weight)
        wait()
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < _SECONDS:
            for _ in range(8):
                F.linear(x, weight)
            wait()
            count += 8
        flop = 2 * x.shape[0] * x.shape[1] * weight.shape[0]
        return Run(count * flop, time.perf_counter() - began)
