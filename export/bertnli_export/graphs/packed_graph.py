"""What graphs for CUDA are written with: their nodes, and the packed (varlen) layout of a padded batch's tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.tape import Tape
from torch import Tensor

from bertnli.common.errors import InputError

ORT = "com.microsoft"


class GraphBuilder:
    """Appends nodes. Shapes below: `tokens` is the number of the batch's real tokens, which are packed end to end."""

    def __init__(self) -> None:
        self.tape = Tape()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def __call__(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """A node of a standard operator."""
        return self.tape.op(op_type, inputs, attributes, name=self._name(op_type))

    def fused(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        rows: str,
        size: int,
        dtype: torch.dtype = torch.float16,
        **attributes: Any,
    ) -> ir.Value:
        """A node of one of ONNX Runtime's own operators. Its output is `[rows, size]`, which onnx cannot infer."""
        kind = ir.DataType.FLOAT if dtype == torch.float32 else ir.DataType.FLOAT16
        output = value(f"fused_{len(self.tape.nodes)}", kind, [rows, size])
        return self.tape.op(op_type, inputs, attributes, domain=ORT, name=self._name(op_type), output=output)

    def constant(self, value: Tensor | Sequence[int] | int, dtype: torch.dtype = torch.int64) -> ir.Value:
        """An initializer; the same one for the same values."""
        tensor = torch.as_tensor(value).detach().to(dtype)
        if not tensor.isfinite().all():
            raise InputError(
                "the model has weights beyond fp16's range of 65,504", do="export it with --precision fp32"
            )
        array = tensor.contiguous().numpy()
        key = (array.dtype.str, array.shape, hashlib.sha256(array.data).digest())
        if key not in self._constants:
            name = f"constant_{len(self.tape.initializers)}"
            self._constants[key] = self.tape.initializer(ir.tensor(array, name=name))
        return self._constants[key]

    def half(self, tensor: Tensor) -> ir.Value:
        return self.constant(tensor, torch.float16)

    def matmul(self, x: ir.Value, weight: Tensor, dtype: torch.dtype = torch.float16) -> ir.Value:
        """The product of a linear layer. The next node adds its bias."""
        return self("MatMul", x, self.constant(weight.T, dtype))

    def linear(
        self, x: ir.Value, weight: Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.float16
    ) -> ir.Value:
        if bias is None:
            return self.matmul(x, weight, dtype)
        return self("Gemm", x, self.constant(weight, dtype), self.constant(bias, dtype), transB=1)

    def _name(self, op_type: str) -> str:
        return f"{op_type}_{len(self.tape.nodes)}"


class PackedLayout:
    """The packed (varlen) layout: the real tokens of a padded batch, end to end.

    tokens: their indices in the flattened batch, `[tokens]`. positions: of each token in its pair. pair: the pair of
    each token. first: the indices of the pairs' first tokens among the tokens, `[batch]`. column: the positions of the
    padded batch, `[length]`. shape, length: of the padded batch, as tensors. real: true at the real tokens of the
    flattened batch. lengths: tokens of each pair, int32 `[batch]`. cu_seqlens: the number of tokens before each pair,
    then the total, int32 `[batch + 1]`. token_offset: the indices of the real tokens in the flattened batch, then those
    of the padding, int32 `[batch, length]`; the kernels of PackedMultiHeadAttention other than flash attention need it.
    """

    def __init__(self, add: GraphBuilder, attention_mask: ir.Value):
        self._add = add
        self.shape = shape = add("Shape", attention_mask)
        self.length = length = add("Shape", attention_mask, start=1, end=2)
        zero, one = add.constant(0), add.constant(1)
        self.column = column = add("Range", zero, add("Squeeze", length), one)
        mask = add("Cast", attention_mask, to=ir.DataType.BOOL)
        real = add("Or", mask, add("Equal", column, zero))
        self._flat = add.constant([-1])
        self.real = flat = add("Reshape", real, self._flat)
        self.tokens = self._indices(flat)
        padding = self._indices(add("Not", flat))
        self.positions = add("Mod", self.tokens, length)
        self.pair = add("Div", self.tokens, length)
        offsets = add("Cast", add("Concat", self.tokens, padding, axis=0), to=ir.DataType.INT32)
        self.token_offset = add("Reshape", offsets, shape)
        lengths = add("ReduceSum", add("Cast", real, to=ir.DataType.INT32), add.constant([1]), keepdims=0)
        self.lengths = lengths
        ends = add("CumSum", lengths, zero)
        self.cu_seqlens = add("Concat", add.constant([0], torch.int32), ends, axis=0)
        self.first = add("Sub", ends, lengths)

    def take(self, padded: ir.Value) -> ir.Value:
        """The values of `padded` `[batch, length]` at the real tokens: `[tokens]`."""
        return self._add("Gather", self._add("Reshape", padded, self._flat), self.tokens)

    def attend(
        self,
        query: ir.Value,
        key: ir.Value,
        value: ir.Value,
        bias: ir.Value | None,
        scale: float | None,
        heads: tuple[int, int],
    ) -> ir.Value:
        """Attention within each pair, of `[tokens, hidden_size]` each. bias: of the scores, `[batch or 1, heads or 1,
        length, length]`. scale: instead of 1 / sqrt(head_size). heads: their number and size."""
        inputs = (query, key, value, None, self.token_offset, self.cu_seqlens, *([] if bias is None else [bias]))
        number, size = heads
        options: dict[str, Any] = {"num_heads": number} | ({} if scale is None else {"scale": scale})
        return self._add.fused("PackedMultiHeadAttention", *inputs, rows="tokens", size=number * size, **options)

    def _indices(self, flat: ir.Value) -> ir.Value:
        return self._add("Reshape", self._add("NonZero", flat), self._flat)


def value(name: str, dtype: ir.DataType, shape: Sequence[str | int]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
