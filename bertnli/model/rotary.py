"""Rotary positions (Su et al. 2021, RoFormer, section 3.2): query and key are turned by angles that grow with position.

The two halves of a head are the two coordinates of head_size / 2 planes, and each plane has an angle of its own. So
query · key depends on the distance of two tokens. A pair's first token has position 0, and is not turned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bertnli.families.config import ModelConfig
from bertnli.model.attention import Layout

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine of each token's angles, fp32 `[…, 1, 1, head_size / 2]`: `…` are the axes of the positions."""


class Rotations(nn.Module):
    """The rotations of a batch's tokens for each of `distinct_thetas`: blocks with the same theta share them.

    They are a tuple, because ZeRO-3's hooks on modules take no map from numbers.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.rotary is not None
        self.thetas, self.head_size = config.rotary.distinct_thetas, config.head_size

    def forward(self, layout: Layout) -> tuple[Rotation, ...]:
        return tuple(rotation(layout.positions, theta, self.head_size) for theta in self.thetas)


def rotation(positions: Tensor, theta: float, head_size: int) -> Rotation:
    """Of `positions` `[…]`: plane i is turned by position / theta^(2 i / head_size)."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device) / head_size
    angles = (positions.float()[..., None] * (1.0 / theta**exponents))[..., None, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, count: int, turn: Rotation) -> Tensor:
    """`x` `[…, n, heads, head_size]` with the first `count` of the n turned: query and key. On a CPU in place of x."""
    if x.device.type == "cpu":
        return _Rotated.apply(x, count, *turn)
    cos, sin = turn  # by operators that torch.compile can fuse
    one, other = _wide(x.narrow(-3, 0, count)).chunk(2, -1)
    turned = torch.cat([one * cos - other * sin, other * cos + one * sin], -1).to(x.dtype)
    return torch.cat([turned, x.narrow(-3, count, x.shape[-3] - count)], -3)


class _Rotated(torch.autograd.Function):
    """In place: three passes over the memory instead of eight. The gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.count = count
        ctx.mark_dirty(x)
        _turn(x.narrow(-3, 0, count), cos, sin)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        gradient = gradient.clone()
        _turn(gradient.narrow(-3, 0, ctx.count), cos, -sin)
        return gradient, None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """In place, computed in fp32 (or fp64 if x has that)."""
    wide = _wide(x)
    one, other = wide.chunk(2, -1)
    across = one * sin
    one.mul_(cos).addcmul_(other, sin, value=-1)
    other.mul_(cos).add_(across)
    if wide is not x:
        x.copy_(wide)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
