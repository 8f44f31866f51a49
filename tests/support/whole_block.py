"""A model's last block as transformers and d2l have it, for tests that compare the random numbers of dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class WholeBlock(nn.Module):
    """Computes the outputs of all tokens and draws dropout for them, though only the first token's are used."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor, layout: Any, only_first: bool, relative: Any = None) -> Tensor:
        assert only_first
        return layout.first(self.block(hidden, layout, relative=relative))
