"""The model as an ONNX graph in fp16 for CUDA that computes nothing on padding.

The graph takes padded batches, as every bundle's does, and removes the padding itself: inside it has the packed
(varlen) layout, with `cu_seqlens`, the cumulative sequence lengths of flash attention. It is written node by node from
the model's weights and not exported by torch, because every node is chosen for its CUDA kernel (ONNX Runtime's
docs/OperatorKernels.md lists the kernels, contrib_ops/cuda/bert/ has their code). The parity gate compares it with the
model. The choices, and the reasons:

* **Padding is removed before the embeddings**, by standard operators: NonZero finds the real tokens in the mask. ONNX
  Runtime's RemovePadding would do it later, compute all its offsets in a single GPU thread, and accept padding on the
  right only. The fp32 graph converted to fp16 would compute on padding and need a mask. A graph with packed inputs
  could not be used by servers that form padded batches.
* **PackedMultiHeadAttention with separate query, key and value** is flash attention over sequences of different lengths
  (Dao 2023; its softmax is fp32) from Ampere on, and TensorRT's fused kernel on Turing. With the three interleaved in
  one input it does not use flash attention below 513 tokens. PackedAttention, which includes their product, never does.
* **The operator gets no bias**: with one, it first copies query, key and value. The key's bias adds the same to all
  scores of a query, and softmax ignores that. Attention weights sum to 1, so the value's bias passes through unchanged
  and is added with the output's bias. The query's bias is added by the query's own product.
* **The last block** computes one query per pair (see model.PairClassifier), but the operator needs as many queries as
  keys. So all tokens of a pair get the query of its first token, and only the first token's result is kept. That costs
  one gather. Padding keys and values again, for an operator that takes fewer queries, would cost two.
* **SkipLayerNormalization and BiasGelu (FastGelu)** add the biases of the products before them. ONNX Runtime would not
  fuse the former by itself, because its fusion expects three axes. Its kernels compute mean and variance in fp32 since
  ONNX Runtime's pull request 28682 (version 1.31), and in fp16 before.
* **A relative bias (MPNet) is the operator's own input**, `[1, heads, length, length]`, made once for all layers. With
  it the operator is memory-efficient attention if the batch is padded to a multiple of 8, as our sessions do; if not,
  it pads queries, keys and values, and waits for the GPU in each layer.
* **Pooler and classifier are fp32**: one row per pair costs nothing, and the logits lose no digits.

Families differ in the embeddings, the activations and the head; blocks that serve several layers (ALBERT) are in the
file once. ModernBERT's blocks are in fp16_pre_norm.py, DeBERTa's terms of positions in fp16_disentangled.py.

There is no bf16 graph: PackedMultiHeadAttention has no bf16 kernel, and with three digits logits do not stay within
2e-2.
"""

from __future__ import annotations

from typing import cast

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bertnli.model.blocks import Block
from bertnli.model.classifier import PairClassifier
from bertnli.model.disentangled import RelativePositions
from bertnli.model.relative_bias import SharedBias
from bertnli_export.graphs import fp16_pre_norm
from bertnli_export.graphs.fp16_disentangled import Distances, key_bias, neighbours
from bertnli_export.graphs.graph import check, check_size
from bertnli_export.graphs.packed_graph import ORT, GraphBuilder, PackedLayout, value
from bertnli_export.interface import INPUTS, OUTPUT

_OPSET = 18  # older versions of ONNX Runtime have CUDA kernels for it, and the graph needs no newer operator
_IR_VERSION = 10


def fp16_graph(model: PairClassifier) -> onnx.ModelProto:
    """The graph of `model` for CUDA, checked by onnx's checker. The model is not changed.

    A row whose mask is all 0, which a server may add to fill a batch, counts as one token, so its logits are finite.

    Raises InputError if the weights do not fit one file, or fp16's range.
    """
    check_size(model, bytes_per_weight=2)
    inputs = [value(name, ir.DataType.INT64, ["batch", "length"]) for name in INPUTS]
    builder = GraphBuilder()
    logits = _logits(builder, model, *inputs)
    logits.name = OUTPUT
    logits.dtype, logits.shape = ir.DataType.FLOAT, ir.Shape(["batch", len(model.config.labels)])
    graph = ir.Graph(
        inputs,
        [logits],
        nodes=builder.tape.nodes,
        initializers=builder.tape.initializers,
        opset_imports={"": _OPSET, ORT: 1},
        name="bertnli",
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=_IR_VERSION, producer_name="bertnli"))
    check(proto, len(model.config.labels))
    return proto


def _logits(
    add: GraphBuilder, model: PairClassifier, input_ids: ir.Value, attention_mask: ir.Value, token_type_ids: ir.Value
) -> ir.Value:
    layout = PackedLayout(add, attention_mask)
    ids = layout.take(input_ids)
    if model.config.pre_norm:
        states = fp16_pre_norm.states(add, model, layout, ids)
    else:
        states = add("Cast", _first_states(add, model, layout, ids, token_type_ids), to=ir.DataType.FLOAT)
    pooled = _pooler(add, model, states)
    return add.linear(pooled, model.classifier.weight, model.classifier.bias, torch.float32)


def _first_states(
    add: GraphBuilder, model: PairClassifier, layout: PackedLayout, ids: ir.Value, token_type_ids: ir.Value
) -> ir.Value:
    """The encoder's output for the pairs' first tokens, `[batch, hidden_size]`."""
    hidden = _embeddings(add, model, layout, ids, token_type_ids)
    relative = _relative(add, model, layout)
    activation, (*blocks, last) = model.config.activation, cast(list[Block], model.layers())
    embedded = hidden
    for number, block in enumerate(blocks):
        hidden = _block(add, block, activation, hidden, layout, relative)
        if model.convolution is not None and number == 0:
            hidden = _convolution(add, model, layout, embedded, hidden)
    return _block(add, last, activation, hidden, layout, relative, only_first=True)


def _embeddings(
    add: GraphBuilder, model: PairClassifier, layout: PackedLayout, ids: ir.Value, token_type_ids: ir.Value
) -> ir.Value:
    """`[tokens, hidden_size]`. ids: of the tokens; token_type_ids: padded. What all tokens have is in their table."""
    embeddings = model.embeddings
    table, summands = embeddings.token.weight, []
    if embeddings.task is not None:
        table = table + embeddings.task.weight[0]
    if embeddings.segment is not None and embeddings.type_vocab_size == 1:
        table = table + embeddings.segment.weight[0]
    elif embeddings.segment is not None:
        summands.append(add("Gather", add.half(embeddings.segment.weight), layout.take(token_type_ids)))
    if embeddings.position is not None:
        rows = _position_rows(add, embeddings.first_position, layout, ids)
        summands.append(add("Gather", add.half(embeddings.position.weight), rows))
    embedded, norm = add("Gather", add.half(table), ids), embeddings.norm
    other = add("Add", *summands) if len(summands) == 2 else summands[0] if summands else None
    if isinstance(norm, nn.Identity):
        embedded = embedded if other is None else add("Add", embedded, other)
    elif other is None:
        embedded = add("LayerNormalization", embedded, add.half(norm.weight), add.half(norm.bias), epsilon=norm.eps)
    else:
        embedded = _skip_layer_norm(add, embedded, other, "tokens", norm)
    projection = embeddings.projection
    return embedded if projection is None else add.linear(embedded, projection.weight, projection.bias)


def _position_rows(add: GraphBuilder, first_position: int, layout: PackedLayout, ids: ir.Value) -> ir.Value:
    """The row of each token in the table of positions; see `Embeddings`, also for padding tokens in a text."""
    if not first_position:
        return layout.positions
    padding, first = add.constant(first_position - 1), add.constant(first_position)
    is_padding = add("Equal", ids, padding)
    passed = add("CumSum", add("Cast", is_padding, to=ir.DataType.INT64), add.constant(0))
    before = add("Gather", add("Gather", passed, layout.first), layout.pair)
    counted = add("Sub", layout.positions, add("Sub", passed, before))
    return add("Where", is_padding, padding, add("Add", counted, first))


def _relative(add: GraphBuilder, model: PairClassifier, layout: PackedLayout) -> ir.Value | Distances | None:
    """What the blocks share of relative positions: what is added to all scores, `[1, heads, length, length]` for the
    padded length (`SharedBias`), or what they make a bias of their own with."""
    if model.relative is None:
        return None
    if isinstance(model.relative, RelativePositions):
        return Distances(add, layout, model.relative, (model.config.num_heads, model.config.head_size))
    assert isinstance(model.relative, SharedBias)
    of_distance = model.relative.bias(model.relative.buckets).T  # [heads, distances]
    zero = add.constant(model.relative.positions - 1)  # the place of distance 0
    queries = add("Sub", add("Unsqueeze", layout.column, add.constant([1])), zero)
    places = add("Sub", layout.column, queries)
    return add("Unsqueeze", add("Gather", add.half(of_distance), places, axis=1), add.constant([0]))


def _block(
    add: GraphBuilder,
    block: Block,
    activation: str,
    hidden: ir.Value,
    layout: PackedLayout,
    relative: ir.Value | Distances | None,
    only_first: bool = False,
) -> ir.Value:
    """`[tokens, hidden_size]` to the same; with `only_first` to `[pairs, hidden_size]`, of the pairs' first tokens."""
    attention = block.attention
    query, key, value = attention.qkv.weight.chunk(3)
    query_bias, _, value_bias = attention.qkv.bias.chunk(3)
    output, output_bias = attention.output.weight, attention.output.bias

    kept = add("Gather", hidden, layout.first) if only_first else hidden
    queries = add.linear(kept, query, query_bias)
    if only_first:
        queries = add("Gather", queries, layout.pair)
    keys, values = add.linear(hidden, key, key_bias(attention)), add.matmul(hidden, value)
    if isinstance(relative, Distances):
        mixed = layout.attend(queries, keys, values, *relative.bias(attention, queries, keys), attention.heads)
    else:
        mixed = layout.attend(queries, keys, values, relative, None, attention.heads)
    if only_first:
        mixed = add("Gather", mixed, layout.first)
    bias = output_bias + output @ value_bias
    rows = "batch" if only_first else "tokens"
    hidden = _skip_layer_norm(add, add.matmul(mixed, output), kept, rows, block.attention_norm, bias)
    expanded = _activation(add, add.matmul(hidden, block.expand.weight), rows, block.expand.bias, activation)
    contracted = add.matmul(expanded, block.contract.weight)
    return _skip_layer_norm(add, contracted, hidden, rows, block.output_norm, block.contract.bias)


def _convolution(
    add: GraphBuilder, model: PairClassifier, layout: PackedLayout, embedded: ir.Value, hidden: ir.Value
) -> ir.Value:
    """See `bertnli.model.convolution.Convolution`."""
    convolution, disentangled = model.convolution, model.config.disentangled
    assert convolution is not None and disentangled is not None
    product, activation = convolution.product, disentangled.convolution_activation
    around = neighbours(add, layout, embedded, convolution.width)
    summed = add.matmul(around, product.weight.transpose(1, 2).flatten(1))
    bias = torch.zeros(len(product.weight)) if product.bias is None else product.bias
    return _skip_layer_norm(
        add, _activation(add, summed, "tokens", bias, activation), hidden, "tokens", convolution.norm
    )


def _pooler(add: GraphBuilder, model: PairClassifier, states: ir.Value) -> ir.Value:
    """`[batch, hidden_size]` to the same, in fp32."""
    weight, bias, activation = model.pooler.weight, model.pooler.bias, model.config.head.activation
    if activation in ("tanh", "relu"):
        pooled = add(activation.capitalize(), add.linear(states, weight, bias, torch.float32))
    else:
        bias = torch.zeros(len(weight)) if bias is None else bias
        pooled = _activation(add, add.matmul(states, weight, torch.float32), "batch", bias, activation, torch.float32)
    return pooled if isinstance(model.pooler_norm, nn.Identity) else fp16_pre_norm.norm(add, pooled, model.pooler_norm)


def _skip_layer_norm(
    add: GraphBuilder, x: ir.Value, skip: ir.Value, rows: str, norm: nn.LayerNorm, bias: Tensor | None = None
) -> ir.Value:
    """The layer norm of `x` + `bias` + `skip`."""
    weights = [add.half(tensor) for tensor in (norm.weight, norm.bias, bias) if tensor is not None]
    size = norm.weight.numel()
    return add.fused("SkipLayerNormalization", x, skip, *weights, rows=rows, size=size, epsilon=norm.eps)


def _activation(
    add: GraphBuilder, x: ir.Value, rows: str, bias: Tensor, activation: str, dtype: torch.dtype = torch.float16
) -> ir.Value:
    """One of model.ACTIVATIONS, applied to `x` + `bias`."""
    if activation in ("relu", "tanh"):
        return add(activation.capitalize(), add("Add", x, add.constant(bias, dtype)))
    operator = "BiasGelu" if activation == "gelu" else "FastGelu"  # FastGelu is GELU's tanh approximation
    return add.fused(operator, x, add.constant(bias, dtype), rows=rows, size=bias.numel(), dtype=dtype)
