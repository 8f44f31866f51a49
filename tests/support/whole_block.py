"""A model's last block as other people's classes have it: for tests that compare the numbers drawn for dropout."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class WholeBlock(nn.Module):
    """Computes, and draws dropout for, the outputs that nothing looks at as well."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.block = block

    def forward(self, hidden: Tensor, layout: Any, only_first: bool) -> Tensor:
        assert only_first
        return layout.first(self.block(hidden, layout))
