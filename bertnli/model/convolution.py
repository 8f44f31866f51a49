"""The convolution of DeBERTa-v2-xlarge: a sum over each token's neighbours is added to what the first block returns."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from bertnli.families.config import ModelConfig
from bertnli.model.attention import Layout
from bertnli.model.blocks import ACTIVATIONS
from bertnli.model.dropout import Dropout


class Neighbours(nn.Conv1d):
    """A convolution along the pair, of what `Layout.neighbours` has collected: one product for all layouts."""

    def forward(self, collected: Tensor) -> Tensor:
        """`[…, width, hidden_size]` to `[…, hidden_size]`."""
        return F.linear(collected.flatten(-2), self.weight.transpose(1, 2).flatten(1), self.bias)


class Convolution(nn.Module):
    """The sum, its activation, and a norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.disentangled is not None
        self.width = config.disentangled.convolution
        self.activation = ACTIVATIONS[config.disentangled.convolution_activation]
        self.product = Neighbours(config.hidden_size, config.hidden_size, self.width)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, embedded: Tensor, hidden: Tensor, layout: Layout) -> Tensor:
        """What the next block reads, of what the first has read (`embedded`) and returned: `[…, hidden_size]` each."""
        product = self.product(layout.neighbours(embedded, self.width))
        return self.norm(hidden + self.activation(self.dropout(product)))
