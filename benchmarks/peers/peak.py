"""The machine's matmul peak: the rate of the fastest library on the model's shapes, which no peer can exceed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from benchmarks.peer import Peer, Run
from benchmarks.peers import hf
from benchmarks.peers.onnx_graph import session_options
from benchmarks.work import Work

_SECONDS = 0.25  # for each shape


@dataclass
class MatrixPeak(Peer):
    """The rate that `bertnli train` measures for MFU in its progress line (bertnli/train/flops.py), measured longer.

    In fp32 on a CPU also ONNX Runtime's, which is twice torch's on AMD's Zen 5: the faster of both counts.
    """

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
        from bertnli.train.flops import matmul_peak, product_shapes

        peak = matmul_peak(*self._sizes, self.precision, hf.device(), _SECONDS)
        if self.precision == "fp32" and hf.device().type == "cpu":
            peak = max(peak, onnxruntime_peak(product_shapes(*self._sizes, "cpu"), _SECONDS))
        return Run(peak, 1.0)


def onnxruntime_peak(shapes: Sequence[tuple[int, int, int]], seconds: float) -> float:
    """FLOP/s of ONNX Runtime's fastest product `[tokens, in] x [in, out]` in fp32, with constant weights as in a model.

    seconds: how long each shape is measured.
    """
    return max(_onnxruntime_rate(*shape, seconds) for shape in shapes)


def _onnxruntime_rate(tokens: int, inner: int, outer: int, seconds: float) -> float:
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    x = draw.standard_normal((tokens, inner), np.float32)
    weight = numpy_helper.from_array(draw.standard_normal((inner, outer), np.float32), "weight")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [tokens, size])
        for name, size in (("x", inner), ("y", outer))
    ]
    product = helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = helper.make_graph([product], "product", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options("fp32"), providers=["CPUExecutionProvider"]
    )
    session.run(None, {"x": x})
    count, started = 0, time.perf_counter()
    while (took := time.perf_counter() - started) < seconds:
        session.run(None, {"x": x})
        count += 1
    return count * 2 * tokens * inner * outer / took
