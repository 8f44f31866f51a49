"""Our model in the form that is exported: the same numbers, as operators that ONNX Runtime runs fastest.

Tokens lie flat, `[pairs x length, hidden_size]`, between one attention and the next: of a sum and a norm over three
axes ONNX Runtime makes one operator (SkipLayerNormalization), which on a CPU takes six times as long as the two.
Attention is ONNX's own operator over `[pairs, length, hidden_size]`, so no head is transposed in the graph. Of its
biases the key's changes nothing, as softmax does not see what all keys share, and the value's comes out of the weighted
mean as it went in, so it is added after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bertnli.model.attention import Padded
from bertnli.model.classifier import Block, PairClassifier, SelfAttention

MakeLinear = Callable[[nn.Linear], nn.Module]


class FlatClassifier(nn.Module):
    """The model with the three inputs of a bundle's graph, each `[pairs, length]`; its blocks are as `rebuild` says."""

    def __init__(self, model: PairClassifier):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        return self.model(input_ids.flatten(), token_type_ids.flatten(), Flat(attention_mask))


class Flat:
    """The layout (see `bertnli.model.attention`) of padded pairs end to end; attention over it is `FlatAttention`'s."""

    def __init__(self, mask: Tensor):
        padded = Padded(mask)
        self.shape, self.mask = mask.shape, padded.mask
        self.positions = padded.positions.expand(mask.shape).flatten()

    def first(self, hidden: Tensor) -> Tensor:
        return hidden.unflatten(0, self.shape)[:, 0]


class FlatAttention(nn.Module):
    """`SelfAttention` over `Flat` tokens. `make_outer` makes its first and last layer, `make` key's and value's."""

    def __init__(self, attention: SelfAttention, make: MakeLinear, make_outer: MakeLinear):
        super().__init__()
        self.heads, self.head_size = attention.heads
        hidden, output = attention.output.in_features, attention.output
        (query, key, value), biases = attention.qkv.weight.split(hidden), attention.qkv.bias.split(hidden)
        self.query = make_outer(linear(query, biases[0]))
        self.key, self.value = make(linear(key)), make(linear(value))
        self.output = make_outer(linear(output.weight, output.bias + output.weight @ biases[2]))

    def forward(self, hidden: Tensor, layout: Flat, first: Tensor | None = None) -> Tensor:
        pairs, length = layout.shape
        queries, mask = (length, layout.mask) if first is None else (1, layout.mask[:, :, :1])
        query = self.query(hidden if first is None else first).unflatten(0, (pairs, queries))
        key, value = (part(hidden).unflatten(0, (pairs, length)) for part in (self.key, self.value))
        mixed, *_ = torch.onnx.ops.attention(
            query,
            key,
            value,
            attn_mask=mask,
            q_num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=self.head_size**-0.5,
        )
        return self.output(mixed.flatten(0, 1))


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A layer with these weights `[outputs, inputs]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def as_it_is(layer: nn.Linear) -> nn.Module:
    return layer


def rebuild(
    model: PairClassifier, make: MakeLinear = as_it_is, make_after_activation: MakeLinear = as_it_is
) -> FlatClassifier:
    """A copy of `model` to be exported. `make`: a linear layer over all tokens as it shall be in the graph, by default
    itself; `make_after_activation`: that whose input comes from the activation. Layers over the first tokens alone stay
    as they are."""
    model = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    last = model.blocks[-1]
    for block in model.blocks:
        assert isinstance(block, Block)
        outer, after = (as_it_is, as_it_is) if block is last else (make, make_after_activation)
        block.attention = FlatAttention(block.attention, make, outer)  # type: ignore[assignment]
        block.expand = outer(block.expand)  # type: ignore[assignment]
        block.contract = after(block.contract)  # type: ignore[assignment]
    return FlatClassifier(model)
