"""The model in the form that is exported: the same results, computed by the operators that ONNX Runtime runs fastest.

* Between one attention and the next, hidden states have two axes, `[pairs x length, hidden_size]`. With three axes ONNX
  Runtime would fuse a sum and a norm into one operator (SkipLayerNormalization), which on a CPU takes six times as long
  as the two.
* Attention is ONNX's own operator over `[pairs, length, hidden_size]`, so the graph has no transposition of heads.
* The key's bias is dropped: it adds the same to all scores of a query, and softmax ignores that. DeBERTa's position to
  content term needs it, and so do rotary positions, which turn it by the key's position.
* The value's bias moves into the output layer's bias: attention weights sum to 1, so the weighted mean contains it as
  it is.
* Rotary positions are ONNX's own operator with a table of cosines and sines; it takes as long as one product of each
  element.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bertnli.families.config import ModelConfig
from bertnli.model.attention import Padded
from bertnli.model.blocks import Block, PreNormBlock, RotaryAttention, SelfAttention
from bertnli.model.classifier import PairClassifier
from bertnli.model.rotary import rotation
from bertnli_export.graphs.folded_positions import reads_keys, with_folded_positions

ConvertLinear = Callable[[nn.Linear], nn.Module]


class ExportedClassifier(nn.Module):
    """The model with the three inputs of a bundle's graph, each `[pairs, length]`; `for_export` makes it."""

    def __init__(self, model: PairClassifier):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.model(input_ids.flatten(), token_type_ids.flatten(), FlattenedLayout(attention_mask))


class FlattenedLayout:
    """The layout (see `bertnli.model.attention`) of padded pairs whose first two axes are joined, for
    `ExportedAttention`."""

    def __init__(self, mask: Tensor):
        padded = Padded(mask)
        self.shape, self.padded = mask.shape, padded
        self.longest = padded.longest
        self.positions = padded.positions.expand(mask.shape).flatten()

    def first(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(0, self.shape)[:, 0]

    def mean(self, hidden: Tensor) -> Tensor:
        # A product, as ONNX Runtime's sum of one pair alone adds in another order than that of several pairs.
        real = self.padded.mask[:, 0, 0, :, None]
        sums = real.to(hidden.dtype).transpose(1, 2) @ hidden.unflatten(0, self.shape).where(real, 0)
        return sums[:, 0] / real.sum(1)

    def neighbours(self, hidden: Tensor, width: int) -> Tensor:
        return self.padded.neighbours(hidden.unflatten(0, self.shape), width).flatten(0, 1)


class ExportedAttention(nn.Module):
    """`SelfAttention` over a `FlattenedLayout`. `convert` is applied to the layers of key and value, `convert_outer` to
    those of query and output."""

    def __init__(self, attention: SelfAttention, convert: ConvertLinear, convert_outer: ConvertLinear):
        super().__init__()
        self.heads, self.head_size = attention.heads
        self.rule = attention.rule
        hidden, output, bias = attention.output.in_features, attention.output, attention.qkv.bias
        query, key, value = attention.qkv.weight.split(hidden)
        query_bias, key_bias, value_bias = (None, None, None) if bias is None else bias.split(hidden)
        self.which = attention.which if isinstance(attention, RotaryAttention) else None
        if self.which is None and not reads_keys(attention):
            key_bias = None
        self.query = convert_outer(linear(query, query_bias))
        self.key, self.value = convert(linear(key, key_bias)), convert(linear(value))
        moved = output.bias if value_bias is None else output.bias + output.weight @ value_bias
        self.output = convert_outer(linear(output.weight, moved))

    def forward(
        self, hidden: Tensor, layout: FlattenedLayout, first: Tensor | None = None, relative: Any = None
    ) -> Tensor:
        pairs, length = layout.shape
        query = self.query(hidden if first is None else first).unflatten(0, (pairs, length if first is None else 1))
        key, value = (part(hidden).unflatten(0, (pairs, length)) for part in (self.key, self.value))
        rule = self.rule(relative)
        if self.which is not None:
            turn = relative[self.which]
            key = turn(key, layout, self.heads)
            query = turn(query, layout, self.heads) if first is None else query
        mixed, *_ = torch.onnx.ops.attention(
            query,
            key,
            value,
            attn_mask=layout.padded.scores_mask(self._by_head(query), self._by_head(key), rule),
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=self.head_size**-0.5 if rule.scale is None else rule.scale,
        )
        return self.output(mixed.flatten(0, 1))

    def _by_head(self, x: Tensor) -> Tensor:
        """`[pairs, length, hidden_size]` to `[pairs, heads, length, head_size]`."""
        return x.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)


class ExportedRotation(nn.Module):
    """The rotation of a query or key (see `bertnli.model.rotary`): a table with a row for each position."""

    cos: Tensor
    sin: Tensor

    def __init__(self, positions: int, theta: float, head_size: int):
        super().__init__()
        for name, table in zip(("cos", "sin"), rotation(torch.arange(positions), theta, head_size), strict=True):
            self.register_buffer(name, table.flatten(1).contiguous())

    def forward(self, x: Tensor, layout: FlattenedLayout, heads: int) -> Tensor:
        """`[pairs, length, hidden_size]`."""
        positions = layout.positions.unflatten(0, layout.shape)
        return torch.onnx.ops.rotary_embedding(x, self.cos, self.sin, positions, num_heads=heads)


class ExportedRotations(nn.Module):
    """`bertnli.model.rotary.Rotations`: what `ExportedAttention` has as `relative`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        assert config.rotary is not None
        self.turns = nn.ModuleList(
            ExportedRotation(config.padded_positions, theta, config.head_size)
            for theta in config.rotary.distinct_thetas
        )

    def forward(self, layout: FlattenedLayout) -> list[nn.Module]:
        return list(self.turns)


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer with these weights `[outputs, inputs]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def unchanged(layer: nn.Linear) -> nn.Module:
    return layer


def for_export(
    model: PairClassifier, convert: ConvertLinear = unchanged, convert_after_activation: ConvertLinear = unchanged
) -> ExportedClassifier:
    """A copy of `model` to be exported.

    convert: applied to the linear layers over all tokens. convert_after_activation: to those of them whose input is the
    activation's output, without a gate. Layers over the first tokens only stay unchanged.
    """
    model = with_folded_positions(model).requires_grad_(False)
    if convert is not unchanged:
        own_last_block(model)
    *blocks, last = model.layers()
    for block in dict.fromkeys([*blocks, last]):
        gated = isinstance(block, PreNormBlock)
        assert gated or isinstance(block, Block)
        outer, after = convert, convert if gated else convert_after_activation
        if block is last and model.config.head.pooling == "first":
            outer = after = unchanged
        block.attention = ExportedAttention(block.attention, convert, outer)  # type: ignore[assignment]
        block.expand = outer(block.expand)  # type: ignore[assignment]
        block.contract = after(block.contract)  # type: ignore[assignment]
    if model.config.rotary is not None:
        model.relative = ExportedRotations(model.config)
    return ExportedClassifier(model)


def own_last_block(model: PairClassifier) -> None:
    """Give the last layer a block of its own if its block serves other layers too, where it has another form."""
    *blocks, last = model.layers()
    if last in blocks:
        model.blocks = nn.ModuleList([*blocks, copy.deepcopy(last)])
