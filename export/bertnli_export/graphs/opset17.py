"""A graph for ONNX Runtime 1.16 and later: opset 17, with operators of its domain com.microsoft for what is newer.

    Attention            -> MultiHeadAttention (com.microsoft), as fused. Its mask becomes an addend of the scores, with
                            an entry for each head: 1.16 computes something else from its input key_padding_mask
    Gelu                 -> Gelu or FastGelu (com.microsoft)
    RotaryEmbedding      -> the products and sums that it stands for
    LayerNormalization   -> the same with a bias, of zeros where it has none: without one, 1.16 ends the process
    ReduceMax            -> the same, whose axes are an attribute
    Split                -> the same, without the number of its outputs

Everything else is in opset 17 as it is; onnx's checker looks at the result. Sources: the changelog of ONNX's operators
(onnx/docs/Changelog.md) and ONNX Runtime's docs/ContribOperators.md, both as of 1.16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, defs, helper, numpy_helper

from bertnli.common.errors import RunError

OPSET, IR_VERSION = 17, 8
OLDEST = "1.16.0"
"""The oldest ONNX Runtime that opens such a graph."""

_MICROSOFT = "com.microsoft"
_MASKED = -1e30  # finite: a padded query whose window holds no token attends to all alike, and gives no NaN


def to_opset_17(graph: onnx.ModelProto) -> onnx.ModelProto:
    """`graph` itself, changed. Raises RunError for an operator that opset 17 does not have."""
    converter = _Converter(graph)
    nodes = [new for node in graph.graph.node for new in converter.convert(node)]
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)
    del graph.opset_import[:]
    graph.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)])
    graph.ir_version = IR_VERSION
    return graph


class _Converter:
    def __init__(self, graph: onnx.ModelProto):
        self._graph, self._numbers = graph.graph, count()
        self._producers = {name: node for node in graph.graph.node for name in node.output}
        self._known: dict[tuple[str, int], str] = {}  # of a mask and a number of heads: the bias

    def convert(self, node: NodeProto) -> Iterator[NodeProto]:
        special: dict[str, Callable[[NodeProto], Iterator[NodeProto]]] = {
            "Attention": self._attention,
            "Gelu": self._gelu,
            "RotaryEmbedding": self._rotary,
        }
        if node.domain == "" and node.op_type in special:
            yield from special[node.op_type](node)
            return
        if node.domain == "":
            self._check_known(node)
            if node.op_type.startswith("Reduce"):
                self._axes_as_attribute(node)
            if node.op_type == "LayerNormalization" and len(node.input) == 2:
                node.input.append(self._zeros_like(node.input[1]))
            self._drop_defaults(node)
        yield node

    # ------------------------------------------------------------------------------------------------- operators

    def _attention(self, node: NodeProto) -> Iterator[NodeProto]:
        query, key, value, mask = node.input
        given = _attributes(node)
        heads = given["q_num_heads"]
        if (mask, heads) not in self._known:
            yield from self._mask(mask, heads)
        inputs = [query, key, value, "", "", self._known[mask, heads]]
        options = {"num_heads": heads, "scale": given["scale"]}
        yield helper.make_node("MultiHeadAttention", inputs, node.output[:1], node.name, domain=_MICROSOFT, **options)

    def _mask(self, mask: str, heads: int) -> Iterator[NodeProto]:
        """The nodes that make a bias `[pairs, heads, queries, length]` of an attention's mask."""
        if self._is_bool(mask):
            bias, wide = self._name("bias"), self._name("bias_by_head")
            yield helper.make_node(
                "Where", [mask, self._constant(np.float32(0)), self._constant(np.float32(_MASKED))], [bias], bias
            )
            shape = self._constant(np.array([1, heads, 1, 1]))
            yield helper.make_node("Expand", [bias, shape], [wide], wide)
            self._known[mask, heads] = wide
        else:
            self._known[mask, heads] = mask

    def _is_bool(self, name: str) -> bool:
        known = next(value for value in self._graph.value_info if value.name == name)
        return known.type.tensor_type.elem_type == TensorProto.BOOL

    def _gelu(self, node: NodeProto) -> Iterator[NodeProto]:
        fast = _attributes(node).get("approximate", b"none") == b"tanh"
        yield helper.make_node("FastGelu" if fast else "Gelu", node.input, node.output, node.name, domain=_MICROSOFT)

    def _rotary(self, node: NodeProto) -> Iterator[NodeProto]:
        """Su et al. 2021, RoFormer, equation 34, over halves of a head: x `[pairs, length, hidden_size]`."""
        given = _attributes(node)
        if given.get("interleaved") or given.get("rotary_embedding_dim"):
            raise _unknown(node)
        x, cos_table, sin_table, positions = node.input
        new = {name: self._name(name) for name in ("x", "a", "b", "cos", "sin", "ac", "bs", "as", "bc", "c", "d", "cd")}

        def add(operator: str, inputs: list[str], outputs: list[str], **options: Any) -> NodeProto:
            return helper.make_node(operator, inputs, outputs, self._name(operator), **options)

        by_head = self._constant(np.array([0, 0, given["num_heads"], -1]))
        yield add("Reshape", [x, by_head], [new["x"]])
        yield add("Split", [new["x"]], [new["a"], new["b"]], axis=-1)
        for table, name in ((cos_table, "cos"), (sin_table, "sin")):
            rows = self._name("rows")
            yield add("Gather", [table, positions], [rows])
            yield add("Unsqueeze", [rows, self._constant(np.array([2]))], [new[name]])
        for left, right, product in (("a", "cos", "ac"), ("b", "sin", "bs"), ("a", "sin", "as"), ("b", "cos", "bc")):
            yield add("Mul", [new[left], new[right]], [new[product]])
        yield add("Sub", [new["ac"], new["bs"]], [new["c"]])
        yield add("Add", [new["as"], new["bc"]], [new["d"]])
        yield add("Concat", [new["c"], new["d"]], [new["cd"]], axis=-1)
        yield add("Reshape", [new["cd"], self._constant(np.array([0, 0, -1]))], list(node.output))

    def _axes_as_attribute(self, node: NodeProto) -> None:
        """In place. ReduceSum alone has its axes as an input in opset 17, too."""
        if node.op_type == "ReduceSum" or len(node.input) < 2:
            return
        axes = self._value(node.input.pop())
        node.attribute.append(helper.make_attribute("axes", axes.tolist()))

    # ----------------------------------------------------------------------------------------------------- helpers

    def _check_known(self, node: NodeProto) -> None:
        try:
            defs.get_schema(node.op_type, OPSET)
        except defs.SchemaError:
            raise _unknown(node) from None

    def _drop_defaults(self, node: NodeProto) -> None:
        """Remove attributes that opset 17 does not have and that change nothing; the checker refuses others."""
        old = defs.get_schema(node.op_type, OPSET).attributes
        new = defs.get_schema(node.op_type).attributes
        for attribute in list(node.attribute):
            if attribute.name not in old and attribute.name in new:
                is_default = attribute == new[attribute.name].default_value
                if is_default or (node.op_type, attribute.name) == ("Split", "num_outputs"):
                    node.attribute.remove(attribute)

    def _zeros_like(self, weight: str) -> str:
        return self._constant(np.zeros_like(self._value(weight)))

    def _value(self, name: str) -> np.ndarray:
        tensor = next((one for one in self._graph.initializer if one.name == name), None)
        if tensor is None:
            tensor = helper.get_attribute_value(self._producers[name].attribute[0])
        return np.atleast_1d(numpy_helper.to_array(tensor))

    def _constant(self, value: np.ndarray | np.generic) -> str:
        name = self._name("constant")
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _name(self, about: str) -> str:
        return f"opset17_{about}_{next(self._numbers)}"


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _unknown(node: NodeProto) -> RunError:
    return RunError(
        f"the graph cannot be written for opset {OPSET}",
        found=f"operator {node.op_type}",
        do="omit --opset, or report this",
    )
