"""A check inside an int8 graph: on a CPU whose int8 products are wrong, every logit is NaN.

x86 CPUs without VNNI (for example AMD before Zen 4, Intel servers before Cascade Lake) have no instruction that sums
products of 8 bits in 32. ONNX Runtime's kernel for them sums two products in 16 bits, and a sum above 32,767 becomes
32,767 (saturation). Nothing reports that. On such a CPU int8 changed 1.6% of the labels of a MiniLM trained on SNLI, in
place of 1.0%, and 14% of those of a small model with random weights.

The session option `session.x64quantprecision` chooses a slower kernel that is exact there. A graph cannot ask for it.
bertnli's own `Session` sets it where the check needs it; other programs that open the graph show NaN, not wrong scores.

Sources: ONNX Runtime, "Quantize ONNX models", on U8S8 and U8U8; oneDNN, "Nuances of int8 computations".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertnli_export.graphs.exported_model import ExportedClassifier

_SIDE = 16  # rows, inputs and outputs: a product by the kernel for several rows, as the model's are
_LARGEST_INPUT, _LARGEST_WEIGHT = 255, 127  # two products are 64,770
_EXPECTED = float(_SIDE * _LARGEST_INPUT * _LARGEST_WEIGHT)


class SaturationCheck(nn.Module):
    """`form`, whose logits are NaN where a product of the largest integers is wrong."""

    weight: Tensor
    ones: Tensor
    zero: Tensor

    def __init__(self, form: ExportedClassifier):
        super().__init__()
        self.form = form
        self.register_buffer("weight", torch.full((_SIDE, _SIDE), _LARGEST_WEIGHT, dtype=torch.int8))
        self.register_buffer("ones", torch.ones(_SIDE))
        self.register_buffer("zero", torch.tensor(0, dtype=torch.uint8))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        logits = self.form(input_ids, attention_mask, token_type_ids)
        # Any token clipped to 255 is 255. With a constant, ONNX Runtime would compute the product while it loads the
        # graph, before it chooses the kernel.
        largest = input_ids[:1, :1].clamp(_LARGEST_INPUT, _LARGEST_INPUT).to(torch.uint8)
        product = torch.onnx.ops.symbolic(
            "com.microsoft::MatMulIntegerToFloat",
            (largest.expand(_SIDE, _SIDE), self.weight, self.ones[0], self.ones, self.zero),
            dtype=torch.float32,
            shape=(_SIDE, _SIDE),
            version=1,
        )
        return logits + torch.where(product[:1, :1] == _EXPECTED, 0.0, torch.nan)
