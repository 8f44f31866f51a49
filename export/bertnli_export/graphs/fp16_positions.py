"""DeBERTa's positions in the fp16 graph: the bias that PackedMultiHeadAttention adds to the scores of each pair.

The operator takes packed queries and keys, and a bias for padded ones, `[batch, heads, length, length]`. So the two
terms (see bertnli/model/disentangled.py) are computed over the padded batch. At padding they are any finite numbers,
which the operator does not read: the rows there are those of other tokens.
"""

from __future__ import annotations

import onnx_ir as ir
from torch import Tensor

from bertnli_export.graphs.folded_positions import FoldedTerms, Rows
from bertnli_export.graphs.packed_graph import GraphBuilder, PackedLayout


class DistanceRows:
    """The rows in the tables of positions that the batch's length needs, for all blocks.

    rising, falling: of the distances 1 - length to length - 1, and the other way round, `[2 x length - 1]`. padded: the
    index of the token at each place of the padded batch, `[batch, length]`.
    """

    def __init__(self, add: GraphBuilder, rows: Rows, layout: PackedLayout):
        self._add, self.length = add, layout.length
        zero, last = add.constant([rows.max_positions - 1]), add("Sub", layout.length, add.constant([1]))
        begin, end = add("Sub", zero, last), add("Add", add("Add", zero, last), add.constant([1]))
        distances = add("Range", add("Squeeze", begin), add("Squeeze", end), add.constant(1))
        table = add.constant(rows.rows)
        self.rising = add("Gather", table, distances)
        self.falling = add("Gather", table, add("Sub", add("Add", zero, zero), distances))
        first = add("Unsqueeze", add("Cast", layout.first, to=ir.DataType.INT64), add.constant([1]))
        self.padded = add("Mod", add("Add", first, layout.column), add("Shape", layout.tokens))
        # `_shifted` in bertnli/model/disentangled.py: where the first row begins, where the last ends, the new shape.
        width = add("Add", last, last)
        self._first, self._end = last, add("Add", last, add("Mul", layout.length, width))
        keep = add.constant([0, 0])
        self._flat = add.constant([0, 0, -1])
        self._shape = add("Concat", keep, layout.length, width, axis=0)

    def bias(self, terms: FoldedTerms, queries: ir.Value, keys: ir.Value) -> ir.Value:
        """`[batch, heads, length, length]` of packed queries and keys, `[tokens, hidden_size]`."""
        add, found = self._add, []
        if terms.key is not None:
            found.append(self._term(queries, terms.key, self.falling))
        if terms.query is not None:
            found.append(add("Transpose", self._term(keys, terms.query, self.rising), perm=[0, 1, 3, 2]))
        return found[0] if len(found) == 1 else add("Add", *found)

    def _term(self, content: ir.Value, table: Tensor, rows: ir.Value) -> ir.Value:
        """The products of `content` with the rows of its distances."""
        add = self._add
        heads, _, size = table.shape
        padded = add("Reshape", add("Gather", content, self.padded), add.constant([0, 0, heads, size]))
        by_head = add("Transpose", padded, perm=[0, 2, 1, 3])
        positions = add("Gather", add.half(table.transpose(1, 2)), rows, axis=2)  # [heads, head_size, distances]
        flat = add("Reshape", add("MatMul", by_head, positions), self._flat)
        cut = add("Slice", flat, self._first, self._end, add.constant([2]))
        shifted = add("Reshape", cut, self._shape)
        return add("Slice", shifted, add.constant([0]), self.length, add.constant([3]))
