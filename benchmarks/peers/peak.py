"""The machine's matmul peak: the rate of torch's own products on the model's shapes, which no training can exceed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.peer import Peer, Run
from benchmarks.peers import hf
from benchmarks.work import Work

_SECONDS = 0.25  # for each shape


@dataclass
class MatrixPeak(Peer):
    """The rate that `bertnli train` measures for MFU in its progress line (bertnli/train/flops.py), measured longer."""

    work: Work
    precision: str
    unit: ClassVar[str] = "FLOP"

    def __post_init__(self) -> None:
        self.name = f"matrix-peak-{self.precision}"
        self.about = f"the fastest {self.precision} matrix product of the model's shapes"

    def options(self) -> dict[str, Any]:
        from bertnli.train.flops import SQUARE, TOKENS

        device = hf.device().type
        sizes = {"tokens": list(TOKENS[device]), "square": list(SQUARE[device])}
        return {"precision": self.precision, **sizes, "seconds_a_shape": _SECONDS}

    def prepare(self) -> None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self.work.model)
        self._sizes = config.hidden_size, config.intermediate_size

    def run(self, amount: int) -> Run:
        from bertnli.train.flops import matmul_peak

        return Run(matmul_peak(*self._sizes, self.precision, hf.device(), _SECONDS), 1.0)
