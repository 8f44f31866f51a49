"""Attention of packed pairs on a CPU: neighbours of similar length are a bucket, and each bucket is one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bertnli.model import dropout
from bertnli.model.windows import in_window


@dataclass(frozen=True)
class Bucket:
    """Neighbouring pairs whose attention is one call, padded to the length of the longest.

    One call for the batch would compute much padding; one call for each pair would spend its time in calls. In a batch
    sorted by length, buckets of neighbours need little of both.

    tokens: the bucket's slice of the batch's tokens. Only if its pairs differ in length: `places` `[tokens]`, the index
    of each token in the padded `[pairs x length]`, and `bias` `[pairs, 1, 1, length]`, minus infinity at padding.
    """

    pairs: int
    length: int
    tokens: slice
    places: Tensor | None = None
    bias: Tensor | None = None
    _windowed: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, lengths: Sequence[int], start: int) -> Bucket:
        pairs, length = len(lengths), max(lengths)
        tokens = slice(start, start + sum(lengths))
        if min(lengths) == length:
            return cls(pairs, length, tokens)
        real = torch.arange(length) < torch.tensor(lengths)[:, None]
        bias = torch.zeros(real.shape).masked_fill_(~real, -torch.inf)[:, None, None, :]
        return cls(pairs, length, tokens, real.flatten().nonzero().squeeze(1), bias)

    def score_bias(self, window: int | None) -> Tensor | None:
        """What is added to the bucket's scores, `[pairs or 1, 1, length or 1, length]`: minus infinity at padding, and
        outside the window."""
        if window is None or window >= self.length - 1:
            return self.bias
        if window not in self._windowed:
            real = torch.ones(1, self.length, dtype=torch.bool) if self.bias is None else self.bias == 0
            reached = in_window(real, self.length, window)
            self._windowed[window] = torch.zeros(reached.shape).masked_fill_(~reached, -torch.inf)
        return self._windowed[window]

    def fill(self, x: Tensor) -> Tensor:
        """Gather: this bucket's part of a batch's `[tokens, n, heads, head_size]`, padded, in fp32 (or fp64 if it has
        that) `[n, pairs x heads, length, head_size]`."""
        x = x[self.tokens]
        if self.places is not None:
            x = x.new_zeros(self.pairs * self.length, *x.shape[1:]).index_copy_(0, self.places, x)
        ordered = x.unflatten(0, (self.pairs, self.length)).permute(2, 0, 3, 1, 4)
        wide = torch.promote_types(x.dtype, torch.float32)
        return ordered.to(wide, memory_format=torch.contiguous_format).flatten(1, 2)

    def put(self, result: Tensor, into: Tensor) -> None:
        """Scatter, the inverse of `fill`: write `[n, pairs x heads, length, head_size]` to this bucket's tokens in
        `[tokens, n, heads, head_size]`."""
        ordered = result.unflatten(1, (self.pairs, -1)).permute(1, 3, 0, 2, 4)  # [pairs, length, n, heads, head_size]
        if self.places is None:
            into[self.tokens].unflatten(0, (self.pairs, self.length)).copy_(ordered)
        else:
            ordered = ordered.to(into.dtype, memory_format=torch.contiguous_format).flatten(0, 1)
            torch.index_select(ordered, 0, self.places, out=into[self.tokens])


def make_buckets(lengths: Sequence[int]) -> list[Bucket]:
    """Neighbours of one length share a bucket, and so do up to eight whose lengths differ by a quarter at most.

    Within these limits a bucket saves more time in calls than its padding costs.
    """
    buckets: list[Bucket] = []
    begin = token = 0
    for end in range(1, len(lengths) + 1):
        more = lengths[begin : end + 1]
        few = end - begin < 8 and max(more) <= 1.25 * min(more)
        if end == len(lengths) or not (few or max(more) == min(more)):
            buckets.append(Bucket.of(lengths[begin:end], token))
            token, begin = buckets[-1].tokens.stop, end
    return buckets


def attend(qkv: Tensor, buckets: Sequence[Bucket], dropout: float, window: int | None) -> Tensor:
    """Scaled dot-product attention within each pair: `[tokens, 3, heads, head_size]` to `[tokens, heads, head_size]`.

    dropout: probability. window: how many tokens to each side a token attends to; None: all. Tokens behind the last
    bucket's are no pair's: their result is zero.
    """
    attended: Tensor = _BucketedAttention.apply(qkv, buckets, dropout, window)
    return attended


class _BucketedAttention(torch.autograd.Function):
    """Attention, forward and backward, one bucket after the other, computed in fp32; with a window for each token.

    torch's scaled_dot_product_attention, called for each bucket, takes several times as long in training on a CPU: it
    copies query, key and value one by one, handles rows that are fully masked, and draws dropout slowly. fp32, because
    products and softmax of such small matrices are faster there than in bf16.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, qkv: Tensor, buckets: list[Bucket], probability: float, window: int | None) -> Tensor:
        heads, size = qkv.shape[-2:]
        cells = [bucket.pairs * heads * bucket.length**2 for bucket in buckets]
        mask, ctx.dropout_scale = dropout.keep([sum(cells)], probability, torch.float32) if probability else (None, 1.0)
        mixed = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
        mixed[buckets[-1].tokens.stop :] = 0
        used = []
        for bucket, keep in zip(buckets, _split(mask, cells), strict=True):
            filled = bucket.fill(qkv)
            query, key, value = filled
            scores = _product(query, key.mT, size**-0.5)
            if (bias := bucket.score_bias(window)) is not None:
                scores.unflatten(0, (bucket.pairs, heads)).add_(bias)
            weights = scores.softmax(-1)
            bucket.put(_product(_masked(weights, keep), value, ctx.dropout_scale).unsqueeze(0), mixed.unsqueeze(1))
            used += [filled, weights]
        ctx.buckets, ctx.cells = buckets, cells
        ctx.save_for_backward(mask, *used)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        # Forward: P = softmax(Q K^T / sqrt(d)), O = (mask x P) V. So dV = (mask x P)^T dO, dP = mask x (dO V^T),
        # dS = softmax's backward of dP, dQ = dS K / sqrt(d), dK = dS^T Q / sqrt(d).
        mask, *used = ctx.saved_tensors
        heads, size = gradient.shape[1:]
        grad_qkv = gradient.new_empty(len(gradient), 3, heads, size)
        grad_qkv[ctx.buckets[-1].tokens.stop :] = 0
        scale = size**-0.5
        for bucket, keep, filled, weights in zip(
            ctx.buckets, _split(mask, ctx.cells), used[::2], used[1::2], strict=True
        ):
            query, key, value = filled
            grad_filled = torch.empty_like(filled)
            (grad_mixed,) = bucket.fill(gradient.unsqueeze(1))
            grad_weights = _masked(_product(grad_mixed, value.mT, ctx.dropout_scale), keep)
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            _product(grad_scores, key, scale, grad_filled[0])
            _product(grad_scores.mT, query, scale, grad_filled[1])
            _product(_masked(weights, keep).mT, grad_mixed, ctx.dropout_scale, grad_filled[2])
            bucket.put(grad_filled, grad_qkv)
        return grad_qkv, None, None, None


def _split(mask: Tensor | None, cells: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(cells) if mask is None else mask.split(cells)


def _masked(weights: Tensor, mask: Tensor | None) -> Tensor:
    return weights if mask is None else weights * mask.view_as(weights)


def _product(one: Tensor, other: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
    """factor x one @ other, `[batch, rows, columns]` each; the factor costs no extra pass over the result."""
    return torch.baddbmm(one.new_empty(()), one, other, beta=0, alpha=factor, out=out)
