"""int8 for CPUs: weights with one scale an output channel, activations with one scale a token (Dettmers et al. 2022,
LLM.int8(), section 3, "vector-wise quantization"; Yao et al. 2022, ZeroQuant, section 3).

A token's scale comes from its own values, so that a pair's score depends on no other pair, and no scale is calibrated.
(Dynamic quantisation as ONNX Runtime's own tools write it takes one scale for the whole batch.) The blocks' matrix
products over all tokens are int8. Everything else stays fp32, the last block's over the first tokens too: they are so
few that it costs nothing.

    scale[token] = largest |x[token]| / 127
    q            = QuantizeLinear(x, scale, 128)                      uint8, one scale a row
    y            = MatMulIntegerToFloat(q, weight) * scale + bias     int32 sums; scaled a channel on the way out

uint8 with zero point 128 and not int8, because that is what ONNX Runtime's fast kernel takes.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import torch
from torch import Tensor, nn

from bertnli.data.tokenizer import Encoded
from bertnli.model.classifier import PairClassifier
from bertnli_export.graphs.centering import centred
from bertnli_export.graphs.exported_model import rebuild
from bertnli_export.graphs.graph import OPSET, export_graph


@dataclass(frozen=True)
class Values:
    """What a layer's inputs can be. zero: the uint8 that stands for 0. lowest: none is below; None: as far as above."""

    zero: int = 128
    lowest: float | None = None


# An activation's outputs lie nearly all above 0: they get most of the 256 steps. GELU's lowest value is -0.17004.
_AFTER = {"relu": Values(0, 0.0)} | dict.fromkeys(("gelu", "gelu_new", "gelu_pytorch_tanh"), Values(16, -0.1701))


def export_int8(model: PairClassifier, typical: Encoded) -> onnx.ModelProto:
    """The graph of `model` with int8 products in its blocks; see `export_graph`, also for what is raised.

    typical: pairs whose hidden states are centred (centred.py). No scale is taken from them.
    """
    after = _AFTER[model.config.activation]
    model = centred(model, typical)
    return export_graph(model, rebuild(model, Int8Linear, lambda layer: Int8Linear(layer, after)))


class Int8Linear(nn.Module):
    """`layer` for the exporter: it stands for ONNX operators and computes nothing in torch."""

    weight: Tensor
    scale: Tensor
    zero: Tensor
    one: Tensor

    def __init__(self, layer: nn.Linear, values: Values = Values()):
        super().__init__()
        self.values, self.bias = values, layer.bias
        weight, scale = quantised(layer.weight)
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
        """`[tokens, 1]`: what a step of each token's integers stands for."""
        zero, lowest = self.values.zero, self.values.lowest
        largest = x.abs() if lowest is None else x
        scale = largest.amax(-1, keepdim=True) / (255 - zero)
        return scale.clamp_min(-lowest / zero) if lowest else scale


def quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`[outputs, inputs]` in int8, and the scale of each output `[outputs]`: weight = int8 x scale."""
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return (weight / scale[:, None]).round().to(torch.int8), scale
