"""The encoder's blocks: attention and feed-forward network, each with a residual and a norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertnli.families.config import ModelConfig
from bertnli.model.attention import PLAIN, Layout, ScoreRule
from bertnli.model.disentangled import PositionTerms
from bertnli.model.dropout import Dropout
from bertnli.model.rotary import Rotation, rotate

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "tanh": torch.tanh,
}


def norm(config: ModelConfig, size: int | None = None) -> nn.LayerNorm:
    """A norm over the last axis, of `size`; default: hidden_size."""
    return nn.LayerNorm(size or config.hidden_size, config.layer_norm_eps, bias=config.norm_bias)


class Projections(nn.Linear):
    """Query, key and value in one product."""

    def forward(self, hidden: Tensor, first: Tensor | None = None, values: bool = True) -> Any:
        """Of `hidden`; with `first`, a tuple: the queries of `first` alone, and keys and values of `hidden`. `values`:
        False leaves the values out."""
        if not values:
            size = 2 * self.in_features
            return F.linear(hidden, self.weight[:size], None if self.bias is None else self.bias[:size])
        if first is None:
            return super().forward(hidden)
        sizes = [self.in_features, 2 * self.in_features]
        weights = self.weight.split(sizes)
        biases = (None, None) if self.bias is None else self.bias.split(sizes)
        return F.linear(first, weights[0], biases[0]), F.linear(hidden, weights[1], biases[1])


class SelfAttention(nn.Module):
    """Multi-head self-attention within each pair."""

    def __init__(self, config: ModelConfig, number: int):
        """`number` of the block, from 0."""
        super().__init__()
        self.heads = (config.num_heads, config.head_size)
        self.attention_dropout = config.attention_dropout
        self.qkv = Projections(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.positions = None if config.disentangled is None else PositionTerms(config)

    def forward(self, hidden: Tensor, layout: Layout, first: Tensor | None = None, relative: Any = None) -> Tensor:
        """Attention of every token; with `first`, the hidden states of the pairs' first tokens, of these alone.

        relative: what the blocks share of relative positions (see `PairClassifier`).
        """
        dropout = self.attention_dropout if self.training else 0.0
        rule = self.rule(relative)
        if first is None:
            qkv = self.qkv(hidden).unflatten(-1, (3, *self.heads))
            mixed = layout.attend(self.placed(qkv, 2, relative), dropout, rule)
        else:
            query, key_value = self.qkv(hidden, first)
            key_value = self.placed(key_value.unflatten(-1, (2, *self.heads)), 1, relative)
            mixed = layout.attend_first(query.unflatten(-1, self.heads), key_value, dropout, rule)
        return self.output(mixed.flatten(-2))

    def placed(self, parts: Tensor, count: int, relative: Any) -> Tensor:
        """`parts` `[…, 2 or 3, heads, head_size]`, with the tokens' positions in the first `count`: query and key.

        Never in a first token's query: its position is 0, which changes nothing.
        """
        return parts

    def rule(self, relative: Any) -> ScoreRule:
        if relative is None:
            return PLAIN
        if self.positions is not None:
            return self.positions.rule(relative, self.qkv)
        return ScoreRule(bias=lambda query, key: relative[:, :, : query.shape[2], : key.shape[2]])


class RotaryAttention(SelfAttention):
    """Self-attention with rotary positions, in some blocks over a window of neighbours only."""

    def __init__(self, config: ModelConfig, number: int):
        super().__init__(config, number)
        assert config.rotary is not None
        self.which = config.rotary.distinct_thetas.index(config.rotary.thetas[number])
        self.window = config.rotary.windows[number]

    def placed(self, parts: Tensor, count: int, relative: tuple[Rotation, ...]) -> Tensor:
        return rotate(parts, count, relative[self.which])

    def rule(self, relative: Any) -> ScoreRule:
        return ScoreRule(window=self.window)


def self_attention(config: ModelConfig, number: int) -> SelfAttention:
    """Of the block `number`, by the kind of its positions."""
    return (SelfAttention if config.rotary is None else RotaryAttention)(config, number)


class Block(nn.Module):
    """A post-norm transformer block: attention, then the feed-forward network, each with a residual and a norm."""

    def __init__(self, config: ModelConfig, number: int = 0):
        super().__init__()
        self.attention = self_attention(config, number)
        self.attention_norm = norm(config)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = norm(config)
        self.attention_dropout = Dropout(config.hidden_dropout if config.dropout_after_attention else 0.0)
        self.dropout = Dropout(config.hidden_dropout if config.dropout_after_feed_forward else 0.0)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, hidden: Tensor, layout: Layout, only_first: bool = False, relative: Any = None) -> Tensor:
        """`only_first`: return `[pairs, hidden_size]`, for each pair's first token; nothing else is computed."""
        first = layout.first(hidden) if only_first else None
        attended = self.attention(hidden, layout, first, relative)
        hidden = self.attention_norm((hidden if first is None else first) + self.attention_dropout(attended))
        return self.output_norm(hidden + self.dropout(self.contract(self.activation(self.expand(hidden)))))


class PreNormBlock(nn.Module):
    """ModernBERT's block: the norms are before attention and feed-forward network, so the residual stream has none; and
    half of the first layer's outputs are gates of the other half (GeGLU, Shazeer 2020).

    The first block reads embeddings that have a norm of their own, and has none before its attention.
    """

    def __init__(self, config: ModelConfig, number: int = 0):
        super().__init__()
        self.attention_norm = norm(config) if number else nn.Identity()
        self.attention = self_attention(config, number)
        self.attention_output_dropout = Dropout(config.attention_dropout)
        self.expand_norm = norm(config)
        self.expand = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.intermediate_bias)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.intermediate_bias)
        self.dropout = Dropout(config.hidden_dropout)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, hidden: Tensor, layout: Layout, only_first: bool = False, relative: Any = None) -> Tensor:
        """As `Block.forward`."""
        normed = self.attention_norm(hidden)
        first = layout.first(normed) if only_first else None
        attended = self.attention(normed, layout, first, relative)
        hidden = (hidden if first is None else layout.first(hidden)) + self.attention_output_dropout(attended)
        inner, gate = self.expand(self.expand_norm(hidden)).chunk(2, -1)
        return hidden + self.contract(self.dropout(self.activation(inner) * gate))
