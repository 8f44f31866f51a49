"""What an int8 graph computes, written in torch: products of whole numbers, which are scaled in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from bertnli_export.graphs.exported_model import ExportedClassifier, for_export
from bertnli_export.graphs.int8 import _AFTER_ACTIVATION, InputRange, quantize_weight
from torch import Tensor, nn

from bertnli.model.classifier import PairClassifier


class Int8InTorch(nn.Module):
    """What `Int8Linear` stands for. A test may override one of the two scales."""

    def __init__(self, layer: nn.Linear, values: InputRange | None = None):
        super().__init__()
        self.values, self.layer = values or InputRange(), layer

    def quantized_weight(self) -> tuple[Tensor, Tensor]:
        return quantize_weight(self.layer.weight)

    def token_scales(self, x: Tensor) -> Tensor:
        zero, lowest = self.values.zero, self.values.lowest
        bound = x.abs() if lowest is None else x
        scale = bound.max(-1, keepdim=True).values / (255 - zero)
        return scale.clamp(min=-lowest / zero) if lowest else scale

    def forward(self, x: Tensor) -> Tensor:
        weight, weight_scale = self.quantized_weight()
        scale, zero = self.token_scales(x), self.values.zero
        integers = ((x / scale).round() + zero).clamp(0, 255).long() - zero
        y = (integers.double() @ weight.double().T) * weight_scale.double() * scale.double()  # exact: below 2**53
        return (y if self.layer.bias is None else y + self.layer.bias.double()).float()


def in_int8(model: PairClassifier, linear: type[Int8InTorch] = Int8InTorch) -> ExportedClassifier:
    after = _AFTER_ACTIVATION[model.config.activation]
    return for_export(model, linear, lambda layer: linear(layer, after))


def logits_of(form: ExportedClassifier) -> Callable[..., np.ndarray]:
    """`Session.logits` of a model in the form that is exported."""

    def logits(*batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return form(*map(torch.from_numpy, batch)).numpy()

    return logits
