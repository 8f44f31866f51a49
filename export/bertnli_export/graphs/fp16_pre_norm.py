"""ModernBERT's part of the fp16 graph for CUDA: rotary positions, windows of attention, norms before the layers, gates.

* **The residual stream is fp32**, and so are the norms, which read it: no norm brings it back to a small range, and
  sums of many layers are larger than fp16 counts exactly. Products and attention are fp16.
* **RotaryEmbedding** turns queries and keys by their tokens' positions. To it every token is a sequence of one, because
  it wants no more tokens in one than there are positions; its grid has room for 65,535 of them.
* **A window is a bias** of the scores, the same for all heads: attention is computed over all tokens of a pair, without
  those outside. The operator has no window. Blocks without one are flash attention.
"""

from __future__ import annotations

from typing import cast

import onnx_ir as ir
import torch
from torch import nn

from bertnli.families.config import ModelConfig
from bertnli.model.blocks import PreNormBlock
from bertnli.model.classifier import PairClassifier
from bertnli.model.rotary import rotation
from bertnli_export.graphs.packed_graph import ORT, GraphBuilder, PackedLayout, value

_OUTSIDE = -30_000.0  # fp16 has it, and its softmax weight is exactly 0


def states(add: GraphBuilder, model: PairClassifier, layout: PackedLayout, ids: ir.Value) -> ir.Value:
    """What the pooler reads, fp32 `[batch, hidden_size]`. ids: of the tokens."""
    token = add("Gather", add.half(model.embeddings.token.weight), ids)
    hidden = add("Cast", token, to=ir.DataType.FLOAT)
    hidden = norm(add, hidden, model.embeddings.norm)
    config, blocks = model.config, cast(list[PreNormBlock], model.layers())
    rotary, of_first = config.rotary, config.head.pooling == "first"
    assert rotary is not None
    windows = {window: _window(add, layout, window) for window in dict.fromkeys(rotary.windows)}
    turns = {theta: _Turn(add, layout, config, theta) for theta in dict.fromkeys(rotary.thetas)}
    for number, block in enumerate(blocks):
        turn, window = turns[rotary.thetas[number]], windows[rotary.windows[number]]
        only_first = of_first and number == len(blocks) - 1
        hidden = _block(add, block, config.activation, hidden, layout, turn, window, only_first)
    hidden = norm(add, hidden, model.final_norm)
    return hidden if of_first else _mean(add, layout, hidden)


def norm(add: GraphBuilder, x: ir.Value, layer: nn.Module) -> ir.Value:
    """In fp32."""
    if isinstance(layer, nn.Identity):
        return x
    assert isinstance(layer, nn.LayerNorm)
    weights = [add.constant(tensor, torch.float32) for tensor in (layer.weight, layer.bias) if tensor is not None]
    return add("LayerNormalization", x, *weights, axis=-1, epsilon=layer.eps)


class _Turn:
    """The rotation of queries or keys, fp16 `[tokens, hidden_size]`, by their positions."""

    def __init__(self, add: GraphBuilder, layout: PackedLayout, config: ModelConfig, theta: float):
        self._add, self._hidden_size = add, config.hidden_size
        tables = rotation(torch.arange(config.max_positions), theta, config.head_size)
        self._tables = [add.half(table.flatten(1)) for table in tables]
        self._one = add.constant([1])
        self._positions = add("Unsqueeze", layout.positions, self._one)

    def __call__(self, x: ir.Value) -> ir.Value:
        add = self._add
        output = value(f"turned_{len(add.tape.nodes)}", ir.DataType.FLOAT16, ["tokens", 1, self._hidden_size])
        inputs = (add("Unsqueeze", x, self._one), self._positions, *self._tables)
        turned = add.tape.op("RotaryEmbedding", inputs, domain=ORT, name=output.name, output=output)
        return add("Squeeze", turned, self._one)


def _window(add: GraphBuilder, layout: PackedLayout, window: int | None) -> ir.Value | None:
    """The bias `[1, 1, length, length]` of a block whose tokens attend to `window` tokens to each side."""
    if window is None:
        return None
    distances = add("Sub", add("Unsqueeze", layout.column, add.constant([1])), layout.column)
    outside = add("Greater", add("Abs", distances), add.constant(window))
    bias = add("Where", outside, add.half(torch.tensor(_OUTSIDE)), add.half(torch.tensor(0.0)))
    return add("Unsqueeze", bias, add.constant([0, 1]))


def _block(
    add: GraphBuilder,
    block: PreNormBlock,
    activation: str,
    hidden: ir.Value,
    layout: PackedLayout,
    turn: _Turn,
    window: ir.Value | None,
    only_first: bool,
) -> ir.Value:
    """fp32 `[tokens, hidden_size]` to the same; with `only_first` to that of the pairs' first tokens, `[batch, …]`."""
    attention = block.attention
    query, key, value_ = attention.qkv.weight.chunk(3)
    biases = (None, None, None) if attention.qkv.bias is None else attention.qkv.bias.chunk(3)
    normed = _half(add, norm(add, hidden, block.attention_norm))
    keys = turn(add.linear(normed, key, biases[1]))
    values = add.matmul(normed, value_)  # its bias passes through attention
    if only_first:  # position 0 is not turned
        hidden = add("Gather", hidden, layout.first)
        queries = add.linear(add("Gather", normed, layout.first), query, biases[0])
        queries = add("Gather", queries, layout.pair)
    else:
        queries = turn(add.linear(normed, query, biases[0]))
    mixed = layout.attend(queries, keys, values, window, None, attention.heads)
    if only_first:
        mixed = add("Gather", mixed, layout.first)
    output = attention.output
    bias = output.bias if biases[2] is None else output.bias + output.weight @ biases[2]
    hidden = _plus(add, hidden, add.linear(mixed, output.weight, bias))

    expanded = _linear(add, _half(add, norm(add, hidden, block.expand_norm)), block.expand)
    inner, gate = add.tape.op_multi_out("Split", [expanded], {"axis": -1, "num_outputs": 2}, num_outputs=2)
    rows = "batch" if only_first else "tokens"
    gated = add("Mul", _activation(add, inner, activation, rows, block.contract.in_features), gate)
    return _plus(add, hidden, _linear(add, gated, block.contract))


def _linear(add: GraphBuilder, x: ir.Value, layer: nn.Linear) -> ir.Value:
    return add.linear(x, layer.weight, layer.bias)


def _activation(add: GraphBuilder, x: ir.Value, activation: str, rows: str, size: int) -> ir.Value:
    if activation == "relu":
        return add("Relu", x)
    return add.fused("Gelu" if activation == "gelu" else "FastGelu", x, rows=rows, size=size)


def _half(add: GraphBuilder, x: ir.Value) -> ir.Value:
    return add("Cast", x, to=ir.DataType.FLOAT16)


def _plus(add: GraphBuilder, hidden: ir.Value, change: ir.Value) -> ir.Value:
    return add("Add", hidden, add("Cast", change, to=ir.DataType.FLOAT))


def _mean(add: GraphBuilder, layout: PackedLayout, hidden: ir.Value) -> ir.Value:
    """The mean over each pair's tokens: `[tokens, hidden_size]` to `[batch, hidden_size]`. A product with 0 and 1."""
    batch = add("Squeeze", add("Shape", layout.first))
    pairs = add("Unsqueeze", add("Range", add.constant(0), batch, add.constant(1)), add.constant([1]))
    belongs = add("Cast", add("Equal", pairs, layout.pair), to=ir.DataType.FLOAT)
    lengths = add("Unsqueeze", add("Cast", layout.lengths, to=ir.DataType.FLOAT), add.constant([1]))
    return add("Div", add("MatMul", belongs, hidden), lengths)
