"""MPNet's relative bias: a learned number for each head and each bucket of distances is added to the scores.

The distance of a key from a query, in tokens, is negative on its left. Half of the buckets are for keys on the left and
the query's own token, half for keys on the right. In each half, small distances have a bucket of their own, larger ones
share logarithmic buckets up to max_distance, and all beyond it share the last (Raffel et al. 2020, T5, section 2.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bertnli.families.config import ModelConfig
from bertnli.model.attention import Layout, Packed
from bertnli.model.distances import occurring


def buckets_of(distances: Tensor, buckets: int, max_distance: int) -> Tensor:
    """The bucket of each distance, of the same shape; computed in fp32, as transformers' MPNet does."""
    half = buckets // 2
    exact = half // 2
    far = distances.abs().clamp(min=exact)
    shared = torch.log(far.float() / exact) / math.log(max_distance / exact) * (half - exact)
    in_half = torch.where(distances.abs() < exact, distances.abs(), exact + shared.long().clamp(max=half - exact - 1))
    return in_half + half * (distances > 0)


class SharedBias(nn.Module):
    """The bias of all blocks: they share its table `bias`, `[buckets, heads]`."""

    buckets: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        rule, self.positions = config.relative_bias, config.padded_positions
        assert rule is not None
        distances = torch.arange(1 - self.positions, self.positions)
        self.register_buffer("buckets", buckets_of(distances, rule.buckets, rule.max_distance), persistent=False)
        self.bias = nn.Embedding(rule.buckets, config.num_heads)

    def forward(self, layout: Layout) -> Tensor:
        """`[1, heads, length, length]`: what is added to the score of each query and key. A shorter pair's bias is its
        upper left corner."""
        if isinstance(layout, Packed):
            layout.prepare_padding()
        length = layout.longest
        of_distance = self.bias(occurring(self.buckets, length)).T
        places = torch.arange(length, device=of_distance.device)
        return of_distance[:, places - places[:, None] + length - 1][None]
