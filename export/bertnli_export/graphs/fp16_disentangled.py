"""DeBERTa's part of the fp16 graph for CUDA: the terms of positions are a bias of the scores.

The bias is another for each pair, so queries and keys are padded for it, and only for it: products, norms and attention
itself stay without padding. As in the model it takes a product with one row for each distance, whose rows are then
shifted against each other (`bertnli.model.disentangled`): no index for each score. Padding's rows of the bias are not
read. The convolution of DeBERTa-v2-xlarge is one product of what each token's neighbours have side by side.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from bertnli.model.blocks import SelfAttention
from bertnli.model.disentangled import RelativePositions
from bertnli_export.graphs.folded_positions import reads_keys
from bertnli_export.graphs.packed_graph import GraphBuilder, PackedLayout


class Distances:
    """What the blocks share: the distances that occur in the batch, and where padded tokens are among the packed."""

    def __init__(self, add: GraphBuilder, layout: PackedLayout, relative: RelativePositions, heads: tuple[int, int]):
        self._add, self._table = add, relative.norm(relative.table.weight)
        self._length, one = layout.length, add.constant([1])
        # Of distances from 1 - length to length - 1; distance 0 is in the middle.
        begin = add("Sub", add.constant([relative.max_positions]), layout.length)
        end = add("Add", add.constant([relative.max_positions - 1]), layout.length)
        self._rising, self._falling = (
            add("Slice", add.constant(rows), begin, end, add.constant([0]))
            for rows in (relative.rows, relative.rows.flip(0))
        )
        counted = add("CumSum", add("Cast", layout.real, to=ir.DataType.INT64), add.constant(0))
        self._packed = add("Sub", counted, one)
        self._by_head = add("Concat", layout.shape, add.constant(list(heads)), axis=0)
        # What `_shifted` cuts out of a pair's rows of width 2 x length - 1, and the shape that it takes then.
        self._first = add("Sub", layout.length, one)
        self._end = add("Add", self._first, add("Mul", layout.length, add("Mul", self._first, add.constant([2]))))
        self._steps = add("Concat", add.constant([0, 0]), layout.length, add.constant([-1]), axis=0)

    def bias(self, attention: SelfAttention, query: ir.Value, key: ir.Value) -> tuple[ir.Value, float]:
        """What is added to the scores of packed queries and keys, `[pairs, heads, length, length]`, and their scale."""
        assert attention.positions is not None
        position_key, position_query = attention.positions.projected(self._table, attention.qkv)
        terms = []
        if position_key is not None:
            terms.append(self._shifted(self._product(query, position_key, self._falling)))
        if position_query is not None:
            shifted = self._shifted(self._product(key, position_query, self._rising))
            terms.append(self._add("Transpose", shifted, perm=[0, 1, 3, 2]))
        return terms[0] if len(terms) == 1 else self._add("Add", *terms), attention.positions.scale

    def _product(self, x: ir.Value, table: Tensor, rows: ir.Value) -> ir.Value:
        """Of each token, packed, and each distance: `[pairs, heads, length, distances]`. table: `[heads, rows,
        head_size]`."""
        add = self._add
        padded = add("Reshape", add("Gather", x, self._packed), self._by_head)
        at_distances = add("Gather", add.half(table.mT), rows, axis=2)
        return add("MatMul", add("Transpose", padded, perm=[0, 2, 1, 3]), at_distances)

    def _shifted(self, x: ir.Value) -> ir.Value:
        """`y[…, i, j] = x[…, i, length - 1 - i + j]`: in memory a step down and one to the left is one of width - 1."""
        add = self._add
        flat = add("Reshape", x, add.constant([0, 0, -1]))
        steps = add("Reshape", add("Slice", flat, self._first, self._end, add.constant([2])), self._steps)
        return add("Slice", steps, add.constant([0]), self._length, add.constant([3]))


def neighbours(add: GraphBuilder, layout: PackedLayout, hidden: ir.Value, width: int) -> ir.Value:
    """The hidden states around each token, side by side: `[tokens, width x hidden_size]`, zeros beyond its pair."""
    first, length = (
        add("Gather", add("Cast", of_pairs, to=ir.DataType.INT64), layout.pair)
        for of_pairs in (layout.first, layout.lengths)
    )
    zero, found = add.constant(0), []
    for offset in range(-(width // 2), width // 2 + 1):
        position = add("Add", layout.positions, add.constant(offset))
        inside = add("And", add("GreaterOrEqual", position, zero), add("Less", position, length))
        states = add("Gather", hidden, add("Add", first, add("Where", inside, position, zero)))
        found.append(add("Where", add("Unsqueeze", inside, add.constant([1])), states, add.half(torch.tensor(0.0))))
    return add("Concat", *found, axis=1)


def key_bias(attention: SelfAttention) -> Tensor | None:
    """The bias that keys need: where positions are compared with keys, it counts."""
    if attention.qkv.bias is None or not reads_keys(attention):
        return None
    bias: Tensor = attention.qkv.bias.chunk(3)[1]
    return bias if torch.any(bias) else None
