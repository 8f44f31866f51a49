"""DeBERTa's disentangled attention: what a token is and how far it is away have vectors of their own.

A score is the sum of up to three products, each divided by sqrt(head_size x their number) (He et al. 2021, DeBERTa,
section 3.1; B: the bucket of the distance i - j between query i and key j):

    content of i  · content of j       as in any attention
    content of i  · position key[B]    content to position, c2p
    content of j  · position query[B]  position to content, p2c

Both terms of positions depend on i - j and one content. So they are products of the contents with one row for each of
the `queries + keys - 1` distances that occur, whose rows are then shifted against each other (`_shifted`): a view, with
no index for each score.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bertnli.families.config import Disentangled, ModelConfig
from bertnli.model.attention import Layout, Packed, ScoreRule
from bertnli.model.distances import occurring
from bertnli.model.dropout import Dropout


class RelativePositions(nn.Module):
    """The embeddings of distances that all blocks share."""

    rows: Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        attention = config.disentangled
        assert attention is not None
        self.max_positions = config.padded_positions
        span = attention.position_buckets or attention.max_distance
        self.table = nn.Embedding(2 * span, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if attention.norm else nn.Identity()
        self.register_buffer("rows", table_rows(attention, self.max_positions), persistent=False)

    def forward(self, layout: Layout) -> Tensor:
        """Of the distances -(longest - 1) to longest - 1, in this order: `[2 x longest - 1, hidden_size]`."""
        if isinstance(layout, Packed):
            layout.prepare_padding()
        return self.norm(self.table(occurring(self.rows, layout.longest)))


def table_rows(attention: Disentangled, positions: int) -> Tensor:
    """The row in the table of the distances -(positions - 1) to positions - 1, int64.

    Distances of up to half the buckets have their own. Those beyond share buckets, on a logarithmic scale up to
    max_distance. Each operation is transformers' own, in its order, because a bucket hangs on the rounding.
    """
    distances = torch.arange(1 - positions, positions)
    span = attention.position_buckets or attention.max_distance
    if attention.position_buckets:
        middle = span // 2
        far = distances.abs().clamp(min=middle)
        scale = torch.log(torch.tensor((attention.max_distance - 1) / middle))
        logarithmic = torch.ceil(torch.log(far / middle) / scale * (middle - 1)) + middle
        distances = torch.where(distances.abs() <= middle, distances, (logarithmic * distances.sign()).long())
    return (distances + span).clamp(0, 2 * span - 1)


class PositionTerms(nn.Module):
    """A block's own part in the terms of positions. Without projections of its own it uses those of the contents."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        attention = config.disentangled
        assert attention is not None
        self.heads = (config.num_heads, config.head_size)
        self.c2p, self.p2c = attention.content_to_position, attention.position_to_content
        self.scale = (config.head_size * (1 + self.c2p + self.p2c)) ** -0.5
        self.dropout = Dropout(config.hidden_dropout)
        own, size = not attention.shared_projections, config.hidden_size
        self.key = nn.Linear(size, size) if own and self.c2p else None
        self.query = nn.Linear(size, size) if own and self.p2c else None
        self.shared = not own

    def rule(self, relative: Tensor, qkv: nn.Module) -> ScoreRule:
        """relative: as `RelativePositions` returns it. qkv: the projections of the contents."""
        key, query = self.projected(self.dropout(relative), qkv)
        return score_rule(None if key is None else key.flip(1), query, self.scale)

    def projected(self, relative: Tensor, qkv: nn.Module) -> tuple[Tensor | None, Tensor | None]:
        """Position keys and position queries of `[distances, hidden_size]`, with the scale of the scores:
        `[heads, distances, head_size]` each; None where the model has no such term."""
        query: Tensor | None
        key: Tensor | None
        if self.shared:
            query, key = qkv(relative, values=False).chunk(2, -1)
        else:
            key, query = (None if part is None else part(relative) for part in (self.key, self.query))
        return self._by_head(key) if self.c2p else None, self._by_head(query) if self.p2c else None

    def _by_head(self, rows: Tensor | None) -> Tensor:
        assert rows is not None
        return (rows * self.scale).unflatten(-1, self.heads).transpose(0, 1)


def score_rule(position_key: Tensor | None, position_query: Tensor | None, scale: float) -> ScoreRule:
    """The rule with these, `[heads, distances, head_size]` each, None: without the term. The distances of
    `position_query` rise, as `RelativePositions` has them, those of `position_key` fall."""

    def bias(query: Tensor, key: Tensor) -> Tensor:
        queries, keys = query.shape[2], key.shape[2]
        terms = []
        if position_key is not None:
            rows = _around_zero(position_key, queries - 1, keys - 1).to(query.dtype)
            terms.append(content_to_position(query, rows))
        if position_query is not None:
            rows = _around_zero(position_query, keys - 1, queries - 1).to(key.dtype)
            terms.append(position_to_content(key, rows))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]

    return ScoreRule(bias, scale)


def _around_zero(rows: Tensor, before: int, after: int) -> Tensor:
    """Of `[heads, distances, head_size]`, with distance 0 in the middle, as many as there are before and after it."""
    zero = rows.shape[1] // 2
    return rows[:, zero - before : zero + after + 1]


def content_to_position(query: Tensor, position_key: Tensor) -> Tensor:
    """`[pairs, heads, queries, keys]` of queries `[pairs, heads, queries, head_size]`, and of the distances from
    queries - 1 down to 1 - keys: query i needs i, i - 1, …, i - keys + 1."""
    return _shifted(query @ position_key.mT)


def position_to_content(key: Tensor, position_query: Tensor) -> Tensor:
    """`[pairs, heads, queries, keys]` of keys `[pairs, heads, keys, head_size]`, and of the distances from 1 - keys up
    to queries - 1: key j needs -j, 1 - j, …, queries - 1 - j."""
    if position_query.shape[1] == key.shape[2]:  # one query, the pair's first token: one distance for each key
        return (key * position_query.flip(1)).sum(-1).unsqueeze(2)
    return _shifted(key @ position_query.mT).mT


def _shifted(x: Tensor) -> Tensor:
    """`y[…, i, j] = x[…, i, rows - 1 - i + j]` of `x` `[…, rows, rows + columns - 1]`, with these columns: a view.

    In memory a step down and one to the left, from (i, c) to (i + 1, c - 1), is one of width - 1.
    """
    rows, width = x.shape[-2:]
    if rows == 1:
        return x
    first, step = rows - 1, width - 1
    return x.flatten(-2)[..., first : first + rows * step].unflatten(-1, (rows, step))[..., : step - rows + 2]
