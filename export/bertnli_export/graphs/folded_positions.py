"""DeBERTa's projected positions as constants: the same model, whose blocks keep them and do not compute them.

The embeddings of distances and their projections depend on no input. So a graph needs no product for them, and takes
the rows of the distances that occur, whose number depends on the batch's length.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bertnli.model.attention import Layout, ScoreRule
from bertnli.model.blocks import SelfAttention
from bertnli.model.classifier import PairClassifier
from bertnli.model.disentangled import PositionTerms, RelativePositions, score_rule
from bertnli.model.distances import occurring


class _Rows(nn.Module):
    """`RelativePositions` that returns, of each distance, only its row in the table: `[2 x longest - 1]`, int64."""

    rows: Tensor

    def __init__(self, relative: RelativePositions):
        super().__init__()
        self.register_buffer("rows", relative.rows)

    def forward(self, layout: Layout) -> Tensor:
        return occurring(self.rows, layout.longest)


class _FoldedTerms(nn.Module):
    """`PositionTerms` with the projections of the whole table, `[heads, rows, head_size]`."""

    key: Tensor | None
    query: Tensor | None

    def __init__(self, terms: PositionTerms, table: Tensor, qkv: nn.Module):
        super().__init__()
        key, query = terms.projected(table, qkv)
        self.p2c, self.scale = terms.p2c, terms.scale
        self.register_buffer("key", None if key is None else key.contiguous())
        self.register_buffer("query", None if query is None else query.contiguous())

    def rule(self, rows: Tensor, qkv: nn.Module) -> ScoreRule:
        key = None if self.key is None else self.key[:, rows.flip(0)]
        return score_rule(key, None if self.query is None else self.query[:, rows], self.scale)


@torch.no_grad()
def with_folded_positions(model: PairClassifier) -> PairClassifier:
    """A copy of `model`, in fp32 on the CPU. It computes the same, whatever becomes of its other layers: a change of
    the layers of the contents (centering.py) does not reach the positions that shared them."""
    model = copy.deepcopy(model).float().cpu().eval()
    relative = model.relative
    if isinstance(relative, RelativePositions):
        table = relative.norm(relative.table.weight)
        for block in model.layers():
            attention = block.attention
            assert isinstance(attention.positions, PositionTerms)
            attention.positions = _FoldedTerms(attention.positions, table, attention.qkv)  # type: ignore[assignment]
        model.relative = _Rows(relative)
    return model


def reads_keys(attention: SelfAttention) -> bool:
    """Whether the rule of its scores depends on the keys, and so on their bias."""
    return attention.positions is not None and attention.positions.p2c
