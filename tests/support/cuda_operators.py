"""What a graph for CUDA computes, on any machine: ONNX's reference evaluator with ONNX Runtime's own operators as its
docs/ContribOperators.md defines them, and a table of the kernels of its CUDA provider.

Products, norms and softmax are summed in fp32, and the output of a node is rounded to its type, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from bertnli_export import devices, session
from bertnli_export.binding import BoundSession
from bertnli_export.devices import CPU, Device
from bertnli_export.interface import INPUTS, OUTPUT
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from scipy.special import erf

from bertnli.common.gpus import Gpus

ORT = "com.microsoft"

_FLOAT, _INT, _BOOL = {"float16", "float"}, {"int32", "int64"}, {"bool"}
KERNELS = {
    operator: types
    for operators, types in (
        ("BiasGelu FastGelu Gelu Gemm LayerNormalization MatMul PackedMultiHeadAttention Relu", _FLOAT),
        ("RotaryEmbedding SkipLayerNormalization Split Tanh", _FLOAT),
        ("Add Concat Div Gather Mul Squeeze Sub", _FLOAT | _INT),
        ("Abs CumSum Greater GreaterOrEqual Less Mod Range ReduceSum", _INT),
        ("And Not Or Where", _BOOL),
        ("Cast Equal NonZero Reshape Shape Slice Transpose Unsqueeze", _FLOAT | _INT | _BOOL),
    )
    for operator in operators.split()
}
"""Operator -> types of its first input that the CUDA provider has a kernel for. From docs/OperatorKernels.md of ONNX
Runtime; only the operators and types of our graphs."""


def without_kernel(graph: onnx.ModelProto) -> list[str]:
    """Nodes that would run on the CPU because the CUDA provider has no kernel, as `Operator(type)`."""
    known = onnx.shape_inference.infer_shapes(graph, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*known.value_info, *known.input, *known.output)}
    types |= {tensor.name: tensor.data_type for tensor in known.initializer}
    found = []
    for node in known.node:
        kind = onnx.TensorProto.DataType.Name(types[node.input[0]]).lower()
        if kind not in KERNELS.get(node.op_type, ()):
            found.append(f"{node.op_type}({kind})")
    return found


def evaluator(graph: onnx.ModelProto) -> Callable[..., NDArray[np.float32]]:
    """`Session.logits` of the graph."""
    reference = ReferenceEvaluator(graph, new_ops=OPERATORS)

    def logits(*batch: NDArray[np.int64]) -> NDArray[np.float32]:
        [result] = reference.run([OUTPUT], dict(zip(INPUTS, batch, strict=True)))
        return result

    return logits


_ATTENTION = """
<domain: "stand.in", opset_import: ["": 23]>
PackedMultiHeadAttention <num_heads> (query, key, value, bias, token_offset, ends) => (output)
{
    zero = Constant <value: tensor = int32 {0}> ()
    one = Constant <value: tensor = int32 {1}> ()
    first = Constant <value: tensor = int64[1] {0}> ()
    last = Constant <value: tensor = int64[1] {1}> ()
    count = Shape <end: int = 1> (query)
    counted = Squeeze (count)
    tokens = Cast <to: int = 6> (counted)
    place = Range (zero, tokens, one)
    column = Unsqueeze (place, last)
    past = GreaterOrEqual (column, ends)
    past_ints = Cast <to: int = 6> (past)
    pair = ReduceSum <keepdims: int = 0> (past_ints, last)
    rows = Unsqueeze (pair, last)
    columns = Unsqueeze (pair, first)
    together = Equal (rows, columns)
    mask = Unsqueeze (together, first)
    full_mask = Unsqueeze (mask, first)
    q = Unsqueeze (query, first)
    k = Unsqueeze (key, first)
    v = Unsqueeze (value, first)
    mixed = Attention <q_num_heads: int = @num_heads, kv_num_heads: int = @num_heads> (q, k, v, full_mask)
    output = Squeeze (mixed, first)
}
"""


# The bias is for pairs of positions, which a token has in its own sequence.
_WITH_BIAS = (
    _ATTENTION.replace("token_offset, ends)", "token_offset, ends, bias_of_positions)")
    .replace(
        "    q = Unsq",
        """
    one_before = Sub (pair, one)
    start = Gather (ends, one_before)
    position = Sub (place, start)
    of_queries = Gather <axis: int = 2> (bias_of_positions, position)
    added = Gather <axis: int = 3> (of_queries, position)
    never = Constant <value: tensor = float {-inf}> ()
    low = CastLike (never, added)
    biased_mask = Where (full_mask, added, low)
    q = Unsq""",
    )
    .replace("(q, k, v, full_mask)", "(q, k, v, biased_mask)")
)


def for_the_cpu(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with PackedMultiHeadAttention, which ONNX Runtime has for CUDA only, written in standard operators:
    attention of all tokens to all tokens, masked to those of the same pair. ONNX Runtime's kernels run the rest."""
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    for node in copy.graph.node:
        if node.op_type == "PackedMultiHeadAttention":
            node.domain = "stand.in"
    for entry in copy.opset_import:
        entry.version = 23 if entry.domain == "" else entry.version  # the first with Attention
    biased = any(node.op_type == "PackedMultiHeadAttention" and len(node.input) > 6 for node in graph.graph.node)
    copy.functions.append(onnx.parser.parse_function(_WITH_BIAS if biased else _ATTENTION))
    copy.opset_import.append(onnx.helper.make_opsetid("stand.in", 1))
    return copy


class PackedMultiHeadAttention(OpRun):
    """Tokens attend to the tokens of their own sequence, by `cumulative_sequence_length`."""

    op_domain = ORT

    def _run(  # type: ignore[override]
        self,
        query,
        key,
        value,
        bias,
        token_offset,
        cumulative_sequence_length,
        attention_bias=None,
        num_heads=None,
        scale=None,
        **_: Any,
    ) -> tuple[NDArray[Any]]:
        tokens, hidden = query.shape
        pairs, length = token_offset.shape
        ends = cumulative_sequence_length
        assert key.shape == value.shape == query.shape
        assert token_offset.dtype == ends.dtype == np.int32
        assert ends.shape == (pairs + 1,) and ends[0] == 0 and ends[-1] == tokens
        assert ((lengths := np.diff(ends)) > 0).all() and lengths.max() <= length
        # The kernels other than flash attention copy tokens by these indices.
        assert (np.sort(token_offset.ravel()) == np.arange(pairs * length)).all()
        assert (token_offset.ravel()[:tokens] // length == np.repeat(np.arange(pairs), lengths)).all()
        if attention_bias is None:
            attention_bias = np.zeros((1, num_heads, length, length), np.float32)
        assert attention_bias.shape[2:] == (length, length)
        biases = np.broadcast_to(attention_bias, (pairs, num_heads, length, length)).astype(np.float32)
        if bias is not None:
            query, key, value = (x + b for x, b in zip((query, key, value), np.split(bias, 3), strict=True))
        heads = [x.astype(np.float32).reshape(tokens, num_heads, -1) for x in (query, key, value)]
        result = np.empty((tokens, num_heads, hidden // num_heads), np.float32)
        for (begin, end), added in zip(pairwise(ends), biases, strict=True):
            q, k, v = (x[begin:end].transpose(1, 0, 2) for x in heads)
            scores = q @ k.transpose(0, 2, 1) * (scale or q.shape[-1] ** -0.5) + added[:, : end - begin, : end - begin]
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            result[begin:end] = (weights / weights.sum(axis=-1, keepdims=True) @ v).transpose(1, 0, 2)
        return (result.reshape(tokens, hidden).astype(query.dtype),)


class SkipLayerNormalization(OpRun):
    op_domain = ORT

    def _run(self, x, skip, gamma, beta, bias=None, epsilon=None) -> tuple[NDArray[Any]]:  # type: ignore[override]
        assert x.shape == skip.shape and x.ndim in (2, 3)
        total = x.astype(np.float32) + skip + (0 if bias is None else bias)
        centred = total - total.mean(axis=-1, keepdims=True)
        scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(epsilon))
        return ((centred * scale * gamma + beta).astype(x.dtype),)


class BiasGelu(OpRun):
    op_domain = ORT

    def _run(self, x, bias) -> tuple[NDArray[Any]]:  # type: ignore[override]
        total = x.astype(np.float32) + bias
        return ((total * 0.5 * (1 + erf(total / np.sqrt(np.float32(2))))).astype(x.dtype),)


class Gelu(OpRun):
    op_domain = ORT

    def _run(self, x, **_: Any) -> tuple[NDArray[Any]]:  # type: ignore[override]
        wide = x.astype(np.float32)
        return ((wide * 0.5 * (1 + erf(wide / np.sqrt(np.float32(2))))).astype(x.dtype),)


class RotaryEmbedding(OpRun):
    """The halves of a head are a plane's two coordinates."""

    op_domain = ORT

    def _run(self, x, position_ids, cos, sin, **_: Any) -> tuple[NDArray[Any]]:  # type: ignore[override]
        batch, length, hidden = x.shape
        assert position_ids.shape == (batch, length) and position_ids.max() < len(cos) and length <= len(cos)
        heads = x.reshape(batch, length, -1, 2, cos.shape[1])
        one, other = heads[..., 0, :], heads[..., 1, :]
        c, s = cos[position_ids][:, :, None], sin[position_ids][:, :, None]
        return (np.stack([one * c - other * s, other * c + one * s], axis=-2).reshape(batch, length, hidden),)


class FastGelu(OpRun):
    op_domain = ORT

    def _run(self, x, bias=None) -> tuple[NDArray[Any]]:  # type: ignore[override]
        total = x.astype(np.float32) + (0 if bias is None else bias)
        return ((total * 0.5 * (1 + np.tanh(0.797885 * total + 0.035677 * total**3))).astype(x.dtype),)


class MatMul(OpRun):
    """In fp32, because numpy's fp16 product is slow."""

    def _run(self, a, b) -> tuple[NDArray[Any]]:  # type: ignore[override]
        return ((a.astype(np.float32) @ b.astype(np.float32)).astype(a.dtype),)


class Gemm(OpRun):
    def _run(self, a, b, c, alpha=None, beta=None, transA=None, transB=None):  # type: ignore[override]  # noqa: N803
        assert not transA and transB and alpha == beta == 1.0
        return ((a.astype(np.float32) @ b.T.astype(np.float32) + c).astype(a.dtype),)


OPERATORS = [
    PackedMultiHeadAttention,
    RotaryEmbedding,
    SkipLayerNormalization,
    BiasGelu,
    FastGelu,
    Gelu,
    MatMul,
    Gemm,
]


def stand_in_gpu(monkeypatch: pytest.MonkeyPatch, count: int = 1) -> None:
    """GPUs that ONNX Runtime can use: sessions for CUDA run `for_the_cpu` of their graph."""
    real = onnxruntime.InferenceSession

    class OnCuda(real):
        def __init__(self, path: str, options: object = None, providers: Any = None):
            self.on_cuda = "CUDA" in str(providers)
            if self.on_cuda:
                graph = for_the_cpu(onnx.load(path)).SerializeToString()
                super().__init__(graph, options, providers=["CPUExecutionProvider"])
            else:
                super().__init__(path, options, providers=providers)

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"] if self.on_cuda else super().get_providers()

    class BoundToTheCpu(BoundSession):
        def __init__(self, opened: Any, device: Device, labels: int, inputs: Sequence[str]):
            super().__init__(opened, CPU, labels, inputs)

    monkeypatch.setattr(session, "BoundSession", BoundToTheCpu)
    monkeypatch.setattr(devices, "find_gpus", lambda: Gpus(count, None, 99))
    monkeypatch.setattr(devices, "_provider_problem", lambda: None)
    monkeypatch.setattr(session, "preload_cuda", lambda _: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", OnCuda)


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: Gpus(0))
