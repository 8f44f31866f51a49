"""int8 for CPUs: weights with one scale per output channel, activations with one scale per token (Dettmers et al. 2022,
LLM.int8(), section 3, "vector-wise quantization"; Yao et al. 2022, ZeroQuant, section 3).

A token's scale comes from its own values. So a pair's score does not depend on the other pairs of its batch, and no
scale has to be calibrated. (Dynamic quantisation with ONNX Runtime's own tools takes one scale for the whole batch.)
The blocks' matrix products over all tokens are int8. Everything else stays fp32, also the last block's products over
the first tokens: there are so few of them that fp32 costs nothing.

    scale[token] = largest |x[token]| / 127
    q            = QuantizeLinear(x, scale, 128)                      uint8, one scale per row
    y            = MatMulIntegerToFloat(q, weight) * scale + bias     int32 sums, scaled per channel to float

The activations are uint8 with zero point 128 instead of int8, because ONNX Runtime's fast kernel takes uint8. On some
CPUs that kernel is wrong; the graph checks it (saturation.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bertnli.data.encoded import Encoded
from bertnli.model.classifier import PairClassifier
from bertnli_export.graphs.centering import centre
from bertnli_export.graphs.exported_model import for_export
from bertnli_export.graphs.folded_positions import with_folded_positions
from bertnli_export.graphs.graph import OPSET, add_metadata, check, export_graph
from bertnli_export.graphs.saturation import SaturationCheck
from bertnli_export.interface import SATURATION_CHECK


@dataclass(frozen=True)
class InputRange:
    """The quantization range of a layer's inputs. zero: zero point. lowest: smallest value; None: symmetric."""

    zero: int = 128
    lowest: float | None = None


_WEIGHT = 1  # of MatMulIntegerToFloat's inputs

# Outputs of an activation function are nearly all above 0, so most of the 256 steps are there. GELU's minimum is
# -0.17004.
_AFTER_ACTIVATION = {"relu": InputRange(0, 0.0)} | dict.fromkeys(
    ("gelu", "gelu_new", "gelu_pytorch_tanh"), InputRange(16, -0.1701)
)


def export_int8(model: PairClassifier, typical: Encoded) -> onnx.ModelProto:
    """The graph of `model` with int8 products in its blocks; see `export_graph`, also for what is raised.

    typical: pairs whose hidden states are centred (centering.py). No scale is taken from them.
    """
    after = _AFTER_ACTIVATION[model.config.activation]
    model = centre(with_folded_positions(model), typical)
    form = for_export(model, Int8Linear, lambda layer: Int8Linear(layer, after))
    graph = export_graph(model, SaturationCheck(form))
    _add_weight_zero_points(graph.graph)
    check(graph, len(model.config.labels))
    add_metadata(graph, {SATURATION_CHECK: "in the graph"})
    return graph


class Int8Linear(nn.Module):
    """`layer` for the exporter: it becomes ONNX operators, and computes nothing in torch."""

    weight: Tensor
    scale: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, layer: nn.Linear, values: InputRange = InputRange()):
        super().__init__()
        self.values, self.bias = values, layer.bias
        weight, scale = quantize_weight(layer.weight)
        self.register_buffer("weight", weight.T.contiguous())
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.tensor(values.zero, dtype=torch.uint8))
        self.register_buffer("one", torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """`[tokens, inputs]` to `[tokens, outputs]`."""
        tokens, outputs = x.shape[0], len(self.scale)
        scale = self.token_scales(x)
        integers = torch.onnx.ops.symbolic(
            "::QuantizeLinear",
            (x, scale.flatten(), self.zero.expand(tokens)),
            {"axis": 0},
            dtype=torch.uint8,
            shape=x.shape,
            version=OPSET,
        )
        y = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (integers, self.weight, self.one, self.scale, self.zero),
            dtype=torch.float32,
            shape=(tokens, outputs),
            version=1,
        )
        return y * scale if self.bias is None else y * scale + self.bias

    def token_scales(self, x: Tensor) -> Tensor:
        """`[tokens, 1]`: the step size of each token's integers."""
        zero, lowest = self.values.zero, self.values.lowest
        largest = x.abs() if lowest is None else x
        scale = largest.amax(-1, keepdim=True) / (255 - zero)
        return scale.clamp_min(-lowest / zero) if lowest else scale


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[outputs, inputs]` in int8, and the scale of each output `[outputs]`: weight = int8 x scale."""
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale


def _add_weight_zero_points(graph: onnx.GraphProto) -> None:
    """Each product gets a zero point of its own. Weights that several products share (ALBERT's) become uint8.

    Both are for the option that makes products exact (saturation.py). With it ONNX Runtime 1.31 cannot load int8
    weights that are shared, and 1.24 ends the process at a product without a zero point. Products of uint8 weights are
    exact on every CPU, and slower on those with VNNI. Where all weights are uint8, so are the check's.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    uses = Counter(node.input[_WEIGHT] for node in products)
    shared = {name for name, count in uses.items() if count > 1}
    unsigned = set(uses) if len(uses) == len(shared) + 1 else shared  # the one besides is the check's
    for name in unsigned:
        signed = onnx.numpy_helper.to_array(weights[name])
        weights[name].CopyFrom(onnx.numpy_helper.from_array(signed.view(np.uint8) ^ 128, name))
    for number, node in enumerate(products):
        zero = np.array(128, np.uint8) if node.input[_WEIGHT] in unsigned else np.array(0, np.int8)
        node.input.append(f"weight_zero_point_{number}")
        graph.initializer.append(onnx.numpy_helper.from_array(zero, node.input[-1]))
