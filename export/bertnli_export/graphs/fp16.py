"""Our model as an ONNX graph in fp16 for CUDA that computes nothing on padding.

The graph takes padded batches, as every bundle's does, and drops the padding itself. It is written out node by node
from the model's weights instead of being exported by torch, because every node is chosen for its CUDA kernel
(ONNX Runtime's docs/OperatorKernels.md says which there are, contrib_ops/cuda/bert/ what they do), and the parity
gate holds it to the model. What was chosen, and why:

* **Padding goes before the embeddings**, by standard operators: NonZero finds the mask's real tokens. RemovePadding
  comes to the same later, but a single GPU thread writes all its offsets, and it takes padding on the right only. The
  fp32 graph in fp16 would compute on padding, and masks. Packed inputs would suit no server that makes batches.
* **PackedMultiHeadAttention with query, key and value apart** is flash attention over sequences of different lengths
  (Dao 2023; its softmax is fp32) from Ampere on, TensorRT's fused kernel on Turing. With the three interleaved in one
  input it leaves flash attention below 513 tokens; PackedAttention, which holds their product too, has none.
* **No bias in it**: with one, query, key and value are copied first. The key's bias adds the same to all scores of a
  query, which softmax does not see. The weights of a mixture sum to 1, so the value's bias is added to any mixture
  as it is, and the output's bias takes it over. The query's is added by its own product.
* **The last block** computes one query a pair (see model.PairClassifier). The operator wants as many queries as keys:
  all tokens of a pair get its first token's, and of the results the first token's is kept. That is one gather; giving
  keys and values their padding back, for an operator that takes fewer queries, is two.
* **SkipLayerNormalization and BiasGelu (FastGelu)** take the biases of the products before them; ONNX Runtime would
  not fuse the former by itself, as it looks for three axes. Its mean and variance are fp32 since ONNX Runtime's pull
  request 28682, and the kernels of 1.31 are; before, fp16.
* **Pooler and classifier are fp32**: one row a pair costs nothing, and the logits lose no digits.

bf16 is left out: PackedMultiHeadAttention has no bf16 kernel, and three digits do not keep logits to 2e-2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import onnx
import onnx_ir as ir
import torch
from onnx_ir.tape import Tape
from torch import Tensor, nn

from bertnli.common.errors import InputError
from bertnli.model.classifier import Block, PairClassifier
from bertnli_export.graphs.graph import check, check_size
from bertnli_export.interface import INPUTS, OUTPUT

_OPSET = 18  # it needs no newer operator, and older versions of ONNX Runtime have CUDA kernels for these
_ORT = "com.microsoft"
_IR_VERSION = 10


def fp16_graph(model: PairClassifier) -> onnx.ModelProto:
    """The graph of `model` for CUDA, passed by onnx's checker; the model stays as it is.

    A row of the mask without a 1, as a server may fill up a batch with, counts as one token, so its logits are finite.

    Raises InputError if the weights do not fit one file, or fp16's range.
    """
    check_size(model, bytes_per_weight=2)
    inputs = [_value(name, ir.DataType.INT64, ["batch", "length"]) for name in INPUTS]
    writer = _Writer()
    logits = _logits(writer, model, *inputs)
    logits.name = OUTPUT
    logits.dtype, logits.shape = ir.DataType.FLOAT, ir.Shape(["batch", len(model.config.labels)])
    graph = ir.Graph(
        inputs,
        [logits],
        nodes=writer.tape.nodes,
        initializers=writer.tape.initializers,
        opset_imports={"": _OPSET, _ORT: 1},
        name="bertnli",
    )
    proto = ir.to_proto(ir.Model(graph, ir_version=_IR_VERSION, producer_name="bertnli"))
    check(proto, len(model.config.labels))
    return proto


class _Writer:
    """Appends nodes; `tokens` below is the batch's real tokens, end to end."""

    def __init__(self) -> None:
        self.tape = Tape()

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node of a standard operator."""
        return self.tape.op(op_type, inputs, attributes, name=self._name(op_type))

    def fused(self, op_type: str, *inputs: ir.Value | None, rows: str, size: int, **attributes: Any) -> ir.Value:
        """A node of one of ONNX Runtime's own, which gives fp16 `[rows, size]`: onnx cannot infer that."""
        output = _value(f"fused_{len(self.tape.nodes)}", ir.DataType.FLOAT16, [rows, size])
        return self.tape.op(op_type, inputs, attributes, domain=_ORT, name=self._name(op_type), output=output)

    def constant(self, value: Tensor | Sequence[int] | int, dtype: torch.dtype = torch.int64) -> ir.Value:
        tensor = torch.as_tensor(value).detach().to(dtype)
        if not tensor.isfinite().all():
            raise InputError(
                "the model has weights beyond fp16's range of 65,504", do="export it with --precision fp32"
            )
        array = tensor.contiguous().numpy()
        name = f"constant_{len(self.tape.initializers)}"
        return self.tape.initializer(ir.tensor(array, name=name))

    def half(self, tensor: Tensor) -> ir.Value:
        return self.constant(tensor, torch.float16)

    def product(self, x: ir.Value, weight: Tensor) -> ir.Value:
        """Of a linear layer, whose bias is left to the node that comes after."""
        return self("MatMul", x, self.half(weight.T))

    def linear(self, x: ir.Value, weight: Tensor, bias: Tensor, dtype: torch.dtype = torch.float16) -> ir.Value:
        return self("Gemm", x, self.constant(weight, dtype), self.constant(bias, dtype), transB=1)

    def _name(self, op_type: str) -> str:
        return f"{op_type}_{len(self.tape.nodes)}"


def _logits(
    write: _Writer, model: PairClassifier, input_ids: ir.Value, attention_mask: ir.Value, token_type_ids: ir.Value
) -> ir.Value:
    packing = _Packing(write, attention_mask)
    hidden = _embeddings(write, model, packing.take(input_ids), packing.take(token_type_ids), packing.positions)
    activation, (*blocks, last) = model.config.activation, cast(list[Block], model.blocks)
    for block in blocks:
        hidden = _block(write, block, activation, hidden, packing)
    hidden = _block(write, last, activation, hidden, packing, only_first=True)
    first = write("Cast", hidden, to=ir.DataType.FLOAT)
    pooled = write("Tanh", write.linear(first, model.pooler.weight, model.pooler.bias, torch.float32))
    return write.linear(pooled, model.classifier.weight, model.classifier.bias, torch.float32)


class _Packing:
    """Where the real tokens of a padded batch are.

    tokens: their places in the flat batch, `[tokens]`; positions: their places in their pairs; pair: whose each is.
    first: places of the pairs' first tokens among the tokens, `[batch]`. cumulative: how many tokens there are before
    each pair, and in all, int32 `[batch + 1]`. offsets: the places of the real tokens, then of the padding, int32
    `[batch, length]`, for those kernels of PackedMultiHeadAttention that are not flash attention.
    """

    def __init__(self, write: _Writer, attention_mask: ir.Value):
        self._write = write
        shape, length = write("Shape", attention_mask), write("Shape", attention_mask, start=1, end=2)
        zero, one = write.constant(0), write.constant(1)
        column = write("Range", zero, write("Squeeze", length), one)
        mask = write("Cast", attention_mask, to=ir.DataType.BOOL)
        real = write("Or", mask, write("Equal", column, zero))
        self._flat = write.constant([-1])
        flat = write("Reshape", real, self._flat)
        self.tokens = self._places(flat)
        padding = self._places(write("Not", flat))
        self.positions = write("Mod", self.tokens, length)
        self.pair = write("Div", self.tokens, length)
        offsets = write("Cast", write("Concat", self.tokens, padding, axis=0), to=ir.DataType.INT32)
        self.offsets = write("Reshape", offsets, shape)
        lengths = write("ReduceSum", write("Cast", real, to=ir.DataType.INT32), write.constant([1]), keepdims=0)
        ends = write("CumSum", lengths, zero)
        self.cumulative = write("Concat", write.constant([0], torch.int32), ends, axis=0)
        self.first = write("Sub", ends, lengths)

    def take(self, padded: ir.Value) -> ir.Value:
        """What `padded` `[batch, length]` has at the real tokens: `[tokens]`."""
        return self._write("Gather", self._write("Reshape", padded, self._flat), self.tokens)

    def _places(self, flat: ir.Value) -> ir.Value:
        return self._write("Reshape", self._write("NonZero", flat), self._flat)


def _embeddings(write: _Writer, model: PairClassifier, ids: ir.Value, types: ir.Value, positions: ir.Value) -> ir.Value:
    embeddings = model.embeddings
    token, segment, position = (
        write("Gather", write.half(table.weight), at)
        for table, at in ((embeddings.token, ids), (embeddings.segment, types), (embeddings.position, positions))
    )
    other = write("Add", segment, position)
    if isinstance(embeddings.norm, nn.Identity):
        return write("Add", token, other)
    return _normed(write, token, other, "tokens", embeddings.norm)


def _block(
    write: _Writer, block: Block, activation: str, hidden: ir.Value, packing: _Packing, only_first: bool = False
) -> ir.Value:
    """`[tokens, hidden_size]` to the same; `only_first`: `[pairs, hidden_size]`, of the pairs' first tokens."""
    attention = block.attention
    query, key, value = attention.qkv.weight.chunk(3)
    query_bias, _, value_bias = attention.qkv.bias.chunk(3)
    output, output_bias = attention.output.weight, attention.output.bias

    kept = write("Gather", hidden, packing.first) if only_first else hidden
    queries = write.linear(kept, query, query_bias)
    if only_first:
        queries = write("Gather", queries, packing.pair)
    keys, values = write.product(hidden, key), write.product(hidden, value)
    heads, head_size = attention.heads
    packed = (queries, keys, values, None, packing.offsets, packing.cumulative)
    mixed = write.fused("PackedMultiHeadAttention", *packed, rows="tokens", size=heads * head_size, num_heads=heads)
    if only_first:
        mixed = write("Gather", mixed, packing.first)
    bias = output_bias + output @ value_bias
    rows = "batch" if only_first else "tokens"
    hidden = _normed(write, write.product(mixed, output), kept, rows, block.attention_norm, bias)
    expanded = _activated(write, write.product(hidden, block.expand.weight), rows, block.expand.bias, activation)
    contracted = write.product(expanded, block.contract.weight)
    return _normed(write, contracted, hidden, rows, block.output_norm, block.contract.bias)


def _normed(
    write: _Writer, x: ir.Value, skip: ir.Value, rows: str, norm: nn.LayerNorm, bias: Tensor | None = None
) -> ir.Value:
    """The layer norm of `x` with its `bias` and `skip`."""
    weights = [write.half(tensor) for tensor in (norm.weight, norm.bias, bias) if tensor is not None]
    size = norm.weight.numel()
    return write.fused("SkipLayerNormalization", x, skip, *weights, rows=rows, size=size, epsilon=norm.eps)


def _activated(write: _Writer, x: ir.Value, rows: str, bias: Tensor, activation: str) -> ir.Value:
    """One of model.ACTIVATIONS, of `x` with its bias."""
    if activation == "relu":
        return write("Relu", write("Add", x, write.half(bias)))
    operator = "BiasGelu" if activation == "gelu" else "FastGelu"  # which is gelu with tanh
    return write.fused(operator, x, write.half(bias), rows=rows, size=bias.numel())


def _value(name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
