"""The machine's matrix peak: what torch's own products reach on the model's shapes, which no training can exceed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.harness import Peer, Run
from benchmarks.work import Work

_SECONDS = 0.25  # for each shape
_TOKENS = (1024, 4096)


@dataclass
class MatrixPeak(Peer):
    """Products [tokens, in] x [in, out] of the blocks' four linear layers; the rate of the fastest shape."""

    work: Work
    precision: str
    unit: ClassVar[str] = "FLOP"

    def __post_init__(self) -> None:
        self.name = f"matrix-peak-{self.precision}"
        self.about = f"the fastest {self.precision} matrix product of the model's shapes"

    def options(self) -> dict[str, Any]:
        return {"precision": self.precision, "tokens": list(_TOKENS), "seconds_a_shape": _SECONDS}

    def prepare(self) -> None:
        import torch
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.work.model)
        hidden, wide = config.hidden_size, config.intermediate_size
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[self.precision]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, wide), (wide, hidden)]
        self._operands = [
            (torch.randn(tokens, inner, device=device).to(kind), torch.randn(outer, inner, device=device).to(kind))
            for tokens in _TOKENS
            for inner, outer in shapes
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
