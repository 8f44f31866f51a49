"""How the tokens of a batch lie in memory, and attention over them: the one place that knows.

The encoder's linear layers and norms act on the last axis alone, so they do not care whether tokens come as
`[pairs, length, hidden]` with padding or end to end as `[tokens, hidden]` without. What does care is here, behind one
interface: which position a token has, which tokens see each other, and which token stands first in its pair.

`Padded` is the plain reference (and what is exported to ONNX). `Packed` has no padding: on a GPU attention runs through
the variable-length flash attention behind torch's nested tensors (Dao 2023), on a CPU over `Bucket`s of pairs of nearly
equal length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bertnli.model import dropout


class Layout(Protocol):
    """What the encoder asks of a batch. `hidden` below is `[…, hidden_size]` in this layout's own leading axes."""

    positions: Tensor
    """Position of each token in its pair, counted from 0; broadcasts to the leading axes of `input_ids`."""

    def attend(self, qkv: Tensor, dropout: float) -> Tensor:
        """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) within each pair.

        `qkv`: query, key and value, `[…, 3, heads, head_size]`; the result: `[…, heads, head_size]`. `dropout`:
        probability, 0 outside training.
        """
        ...

    def first(self, hidden: Tensor) -> Tensor:
        """The hidden state of each pair's first token ([CLS]): `[pairs, hidden_size]`."""
        ...

    def attend_first(self, query: Tensor, key_value: Tensor, dropout: float) -> Tensor:
        """`attend` of the pairs' first tokens alone.

        `query`: theirs, `[pairs, heads, head_size]`, as is the result. `key_value`: of all tokens,
        `[…, 2, heads, head_size]`.
        """
        ...


class Padded:
    """Pairs as rows, filled up to one length: `input_ids` is `[pairs, length]`, `mask` true where a token is real."""

    def __init__(self, mask: Tensor):
        length = mask.shape[1]
        self.positions = torch.arange(length, device=mask.device)
        # The full (pairs, 1, length, length) form: ONNX Runtime's Attention refuses one that would need broadcasting.
        self.mask = mask.bool()[:, None, None, :].expand(-1, 1, length, -1)

    def attend(self, qkv: Tensor, dropout: float) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in qkv.unbind(-3))  # [pairs, heads, length, head_size]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, dropout_p=dropout)
        return mixed.transpose(1, 2)

    def first(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]

    def attend_first(self, query: Tensor, key_value: Tensor, dropout: float) -> Tensor:
        key, value = (x.transpose(1, 2) for x in key_value.unbind(-3))
        mask = self.mask[:, :, :1]
        mixed = F.scaled_dot_product_attention(query[:, :, None], key, value, attn_mask=mask, dropout_p=dropout)
        return mixed[:, :, 0]


class Packed:
    """Pairs end to end without padding: `input_ids` is `[tokens]`, cut by `lengths` (tokens of each pair).

    On a CPU neighbours of like length share a call, so a batch sorted by length needs few.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu"):
        sizes = torch.as_tensor(lengths)
        offsets = F.pad(sizes.cumsum(0), (1, 0))
        self.positions = send(torch.arange(int(offsets[-1])) - offsets[:-1].repeat_interleave(sizes), device)
        self.offsets = send(offsets, device)
        mask = torch.arange(max(lengths)) < sizes[:, None]
        self._mask, self._places = send(mask, device), send(mask.flatten().nonzero().squeeze(1), device)
        self.shortest, self.longest = min(lengths), max(lengths)
        self.buckets = _buckets(lengths) if torch.device(device).type == "cpu" else []

    def attend(self, qkv: Tensor, dropout: float) -> Tensor:
        if qkv.device.type == "cpu":
            return _BucketedAttention.apply(qkv, self.buckets, dropout)
        return self._nested(qkv, dropout)

    def first(self, hidden: Tensor) -> Tensor:
        return hidden[self.offsets[:-1]]

    def attend_first(self, query: Tensor, key_value: Tensor, dropout: float) -> Tensor:
        # One query a pair: the products are so small that padding costs less than many calls.
        padded = key_value.new_zeros(self._mask.numel(), *key_value.shape[1:]).index_copy(0, self._places, key_value)
        return Padded(self._mask).attend_first(query, padded.unflatten(0, self._mask.shape), dropout)

    def _nested(self, qkv: Tensor, dropout: float) -> Tensor:
        # The lengths' bounds are given because asking the device for them would wait for it, in every layer.
        query, key, value = (
            torch.nested.nested_tensor_from_jagged(
                x.contiguous(), self.offsets, min_seqlen=self.shortest, max_seqlen=self.longest
            ).transpose(1, 2)
            for x in qkv.unbind(-3)
        )
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout).transpose(1, 2).values()


def send(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. To a GPU from pinned memory, without waiting for it or for work before."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@dataclass(frozen=True)
class Bucket:
    """Neighbouring pairs that go through one call, filled up to the length of the longest.

    tokens: where theirs stand among those of the batch. Where they are not all of one length: `places` `[tokens]`,
    where those go in the filled-up `[pairs x length]`, and `bias` `[pairs, 1, 1, length]`, minus infinity on padding.
    """

    pairs: int
    length: int
    tokens: slice
    places: Tensor | None = None
    bias: Tensor | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], start: int) -> Bucket:
        pairs, length = len(lengths), max(lengths)
        tokens = slice(start, start + sum(lengths))
        if min(lengths) == length:
            return cls(pairs, length, tokens)
        real = torch.arange(length) < torch.tensor(lengths)[:, None]
        bias = torch.zeros(real.shape).masked_fill_(~real, -torch.inf)[:, None, None, :]
        return cls(pairs, length, tokens, real.flatten().nonzero().squeeze(1), bias)

    def fill(self, x: Tensor) -> Tensor:
        """Of a batch's `[tokens, n, heads, head_size]` this bucket's, fp32 `[n, pairs x heads, length, head_size]`."""
        x = x[self.tokens]
        if self.places is not None:
            x = x.new_zeros(self.pairs * self.length, *x.shape[1:]).index_copy_(0, self.places, x)
        ordered = x.unflatten(0, (self.pairs, self.length)).permute(2, 0, 3, 1, 4)
        return ordered.to(torch.float32, memory_format=torch.contiguous_format).flatten(1, 2)

    def put(self, result: Tensor, into: Tensor) -> None:
        """Back: `[n, pairs x heads, length, head_size]` to its tokens' part of `[tokens, n, heads, head_size]`."""
        ordered = result.unflatten(1, (self.pairs, -1)).permute(1, 3, 0, 2, 4)  # [pairs, length, n, heads, head_size]
        if self.places is None:
            into[self.tokens].unflatten(0, (self.pairs, self.length)).copy_(ordered)
        else:
            ordered = ordered.to(into.dtype, memory_format=torch.contiguous_format).flatten(0, 1)
            torch.index_select(ordered, 0, self.places, out=into[self.tokens])


def _buckets(lengths: Sequence[int]) -> list[Bucket]:
    """Neighbours together while that saves more calls than it costs padding: eight pairs, or a quarter in length."""
    buckets: list[Bucket] = []
    begin = token = 0
    for end in range(1, len(lengths) + 1):
        more = lengths[begin : end + 1]
        few = end - begin < 8 and max(more) <= 1.25 * min(more)
        if end == len(lengths) or not (few or max(more) == min(more)):
            buckets.append(Bucket.of(lengths[begin:end], token))
            token, begin = buckets[-1].tokens.stop, end
    return buckets


class _BucketedAttention(torch.autograd.Function):
    """Attention bucket by bucket; within, everything is fp32.

    Written out because torch's own, called for each bucket, costs several times as much in training on a CPU: it copies
    query, key and value one by one, guards against rows that are masked whole, and draws dropout slowly; and its
    products and softmax of such small matrices are faster in fp32 than in bf16.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, qkv: Tensor, buckets: list[Bucket], probability: float) -> Tensor:
        heads, size = qkv.shape[-2:]
        cells = [bucket.pairs * heads * bucket.length**2 for bucket in buckets]
        mask, ctx.kept = dropout.keep([sum(cells)], probability, torch.float32) if probability else (None, 1.0)
        mixed = torch.empty_like(qkv[:, 0], memory_format=torch.contiguous_format)
        used = []
        for bucket, keep in zip(buckets, _cut(mask, cells), strict=True):
            filled = bucket.fill(qkv)
            query, key, value = filled
            scores = _product(query, key.mT, size**-0.5)
            if bucket.bias is not None:
                scores.unflatten(0, (bucket.pairs, heads)).add_(bucket.bias)
            weights = scores.softmax(-1)
            bucket.put(_product(_masked(weights, keep), value, ctx.kept).unsqueeze(0), mixed.unsqueeze(1))
            used += [filled, weights]
        ctx.buckets, ctx.cells = buckets, cells
        ctx.save_for_backward(mask, *used)
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        mask, *used = ctx.saved_tensors
        heads, size = gradient.shape[1:]
        into = gradient.new_empty(len(gradient), 3, heads, size)
        scale = size**-0.5
        for bucket, keep, filled, weights in zip(
            ctx.buckets, _cut(mask, ctx.cells), used[::2], used[1::2], strict=True
        ):
            query, key, value = filled
            found = torch.empty_like(filled)
            (mixed,) = bucket.fill(gradient.unsqueeze(1))
            by_weights = _masked(_product(mixed, value.mT, ctx.kept), keep)
            scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
            _product(scores, key, scale, found[0])
            _product(scores.mT, query, scale, found[1])
            _product(_masked(weights, keep).mT, mixed, ctx.kept, found[2])
            bucket.put(found, into)
        return into, None, None


def _cut(mask: Tensor | None, cells: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(cells) if mask is None else mask.split(cells)


def _masked(weights: Tensor, mask: Tensor | None) -> Tensor:
    return weights if mask is None else weights * mask.view_as(weights)


def _product(one: Tensor, other: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
    """factor x one @ other, `[batch, rows, columns]` each, without a pass for the factor."""
    return torch.baddbmm(one.new_empty(()), one, other, beta=0, alpha=factor, out=out)
