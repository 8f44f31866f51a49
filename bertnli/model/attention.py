"""The layout of a batch's tokens in memory, padded or packed (varlen), and attention over each; batches to a device.

The encoder's linear layers and norms act on the last axis alone, so they take `[pairs, length, hidden]` with padding
and `[tokens, hidden]` without. All that depends on the layout is here, behind one interface: a token's position, the
tokens that it attends to, and the first token of each pair.

`Padded` is the reference, and what is exported to ONNX. `Packed` is the packed (varlen) layout: the pairs lie end to
end without padding, and `cu_seqlens` (cumulative sequence lengths) says where each starts. On a GPU its attention is
one of torch's variable-length kernels (varlen.py). On a CPU it runs over buckets of pairs of similar length
(buckets.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bertnli.data.batches import PackedBatch
from bertnli.model import buckets, varlen
from bertnli.model.buckets import Bucket, make_buckets
from bertnli.model.windows import in_window

EVAL_BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Tokens of a batch without gradients, by device; larger ones are no faster there."""


@dataclass(frozen=True)
class ScoreRule:
    """How a model's attention scores differ from `query · key / sqrt(head_size)` over all tokens of the pair.

    bias: what is added to them, from the queries `[pairs, heads, queries, head_size]`, whose positions begin at 0, and
    the keys `[pairs, heads, length, head_size]`: `[pairs or 1, heads, queries, length]`. scale: instead of
    1 / sqrt(head_size). window: how many tokens to each side a token attends to; None: all.
    """

    bias: Callable[[Tensor, Tensor], Tensor] | None = None
    scale: float | None = None
    window: int | None = None

    def within(self, length: int) -> ScoreRule:
        """The same rule for sequences of at most `length` tokens: a window that reaches all of them is none."""
        return self if self.window is None or self.window < length - 1 else replace(self, window=None)


PLAIN = ScoreRule()


class Layout(Protocol):
    """What the encoder needs of a batch. `…` below stands for the layout's own leading axes: `hidden` is
    `[…, hidden_size]`."""

    positions: Tensor
    """Position of each token in its pair, counted from 0; broadcasts to the leading axes of `input_ids`."""

    longest: int
    """Tokens of the longest pair, or more."""

    def attend(self, qkv: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) within each pair.

        `qkv`: query, key and value, `[…, 3, heads, head_size]`. `dropout`: probability, 0 outside training. Returns
        `[…, heads, head_size]`.
        """
        ...

    def first(self, hidden: Tensor) -> Tensor:
        """The hidden state of each pair's first token ([CLS], <s>): `[pairs, hidden_size]`."""
        ...

    def mean(self, hidden: Tensor) -> Tensor:
        """The mean of each pair's hidden states: `[pairs, hidden_size]`."""
        ...

    def neighbours(self, hidden: Tensor, width: int) -> Tensor:
        """The hidden states around each token, `[…, width, hidden_size]`: its own in the middle, and zeros beyond the
        pair. `width` is odd."""
        ...

    def attend_first(self, query: Tensor, key_value: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        """`attend` for the first token of each pair alone: it attends to all tokens of its pair.

        `query`: of the first tokens, `[pairs, heads, head_size]`. `key_value`: of all tokens,
        `[…, 2, heads, head_size]`. Returns `[pairs, heads, head_size]`.
        """
        ...


class Padded:
    """Pairs as rows, padded to one length: `input_ids` is `[pairs, length]`, `mask` is true at real tokens."""

    def __init__(self, mask: Tensor):
        self.longest = length = mask.shape[1]
        self.positions = torch.arange(length, device=mask.device)
        # Expanded to (pairs, 1, length, length): ONNX Runtime's Attention refuses a mask that needs broadcasting.
        self.mask = mask.bool()[:, None, None, :].expand(-1, 1, length, -1)

    def attend(self, qkv: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in qkv.unbind(-3))  # [pairs, heads, length, head_size]
        return self.mix(query, key, value, dropout, rule).transpose(1, 2)

    def first(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]

    def mean(self, hidden: Tensor) -> Tensor:
        real = self.mask[:, 0, 0, :, None]
        return hidden.where(real, 0).sum(1) / real.sum(1)

    def neighbours(self, hidden: Tensor, width: int) -> Tensor:
        wider = F.pad(hidden.where(self.mask[:, 0, 0, :, None], 0), (0, 0, width // 2, width // 2))
        return torch.stack([wider[:, shift : shift + hidden.shape[1]] for shift in range(width)], 2)

    def attend_first(self, query: Tensor, key_value: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        key, value = (x.transpose(1, 2) for x in key_value.unbind(-3))
        return self.mix(query[:, :, None], key, value, dropout, rule)[:, :, 0]

    def mix(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, rule: ScoreRule) -> Tensor:
        """Of `[pairs, heads, queries, head_size]` and `[pairs, heads, length, head_size]` each: as the queries."""
        queries, length = query.shape[2], key.shape[2]
        rule = rule.within(length)
        if rule.window is not None and rule.bias is None and queries > _QUERIES:
            return self._mix_in_parts(query, key, value, dropout, rule)
        plain = rule.window is None and rule.bias is None
        mask = self.mask[:, :, :1] if plain else self.scores_mask(query, key, rule)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout, scale=rule.scale)

    def scores_mask(self, query: Tensor, key: Tensor, rule: ScoreRule) -> Tensor:
        """What scaled_dot_product_attention takes as `attn_mask`, `[pairs, 1 or heads, queries, length]`: true where a
        query attends to a key; or, where the rule has a bias, the bias, and minus infinity elsewhere."""
        mask = self.mask[:, :, : query.shape[2]]
        if rule.window is not None:
            mask = in_window(mask, query.shape[2], rule.window)
        return mask if rule.bias is None else rule.bias(query, key).to(query.dtype).masked_fill(~mask, -torch.inf)

    def _mix_in_parts(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, rule: ScoreRule) -> Tensor:
        """`mix` with a window: _QUERIES queries at a time, with the keys that they reach. Time and memory grow with the
        length, and not with its square."""
        length, window, parts = query.shape[2], rule.window, []
        assert window is not None
        for begin in range(0, length, _QUERIES):
            end = min(begin + _QUERIES, length)
            first, last = max(begin - window, 0), min(end + window, length)
            mask = in_window(self.mask[:, :, :1, first:last], end - begin, window, begin - first)
            near = (key[:, :, first:last], value[:, :, first:last])
            parts.append(
                F.scaled_dot_product_attention(
                    query[:, :, begin:end], *near, attn_mask=mask, dropout_p=dropout, scale=rule.scale
                )
            )
        return torch.cat(parts, 2)


_QUERIES = 512
"""Queries of a part of windowed attention; fewer would spend their time in calls."""


class Packed:
    """The packed (varlen) layout: `input_ids` is `[tokens]`, the pairs end to end without padding.

    lengths: tokens of each pair. On a CPU neighbours of similar length share a call, so a batch sorted by length needs
    few calls. cu_seqlens: int32 `[pairs + 1]`, 0 and the cumulative lengths, as varlen kernels take them: pair i has
    the tokens cu_seqlens[i] to cu_seqlens[i + 1] - 1. max_seqlen: the longest of `lengths`. spare: so many tokens
    behind the last pair's are no pair's, and nothing attends to them.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu", spare: int = 0):
        sizes = torch.as_tensor(lengths)
        cu_seqlens = F.pad(sizes.cumsum(0), (1, 0))
        starts = cu_seqlens[:-1].repeat_interleave(sizes)
        self.positions = copy_async(F.pad(torch.arange(int(cu_seqlens[-1])) - starts, (0, spare)), device)
        self.spare = spare
        self.cu_seqlens = copy_async(cu_seqlens.int(), device)
        self.max_seqlen = self.longest = max(lengths)
        self._sizes, self._device = sizes, device
        self.buckets = make_buckets(lengths) if torch.device(device).type == "cpu" else []

    def attend(self, qkv: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        rule = rule.within(self.max_seqlen)
        only_window = rule == ScoreRule(window=rule.window)
        if only_window and varlen.has_kernel(qkv, rule.window):
            query, key, value = qkv.unbind(-3)
            cu_seqlens, longest = self.cu_seqlens, self.max_seqlen
            return varlen.attention(query, key, value, cu_seqlens, cu_seqlens, longest, longest, dropout, rule.window)
        if qkv.device.type != "cpu":
            return self._attend_padded(qkv, dropout, rule)
        if only_window and self.max_seqlen <= _LONG:
            return buckets.attend(qkv, self.buckets, dropout, rule.window)
        with torch.autocast("cpu", enabled=False):
            return self._with_spare(torch.cat([_attend_bucket(qkv, bucket, dropout, rule) for bucket in self.buckets]))

    def _attend_padded(self, qkv: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        mask, places = self._padding
        return self._with_spare(Padded(mask).attend(self._pad(qkv), dropout, rule).flatten(0, 1)[places])

    def first(self, hidden: Tensor) -> Tensor:
        return hidden[self.cu_seqlens[:-1]]

    def mean(self, hidden: Tensor) -> Tensor:
        # Over the padded layout: index_add_ would add on a GPU in another order each time.
        return self._pad(hidden).sum(1) / copy_async(self._sizes[:, None], hidden.device)

    def neighbours(self, hidden: Tensor, width: int) -> Tensor:
        mask, places = self._padding
        return self._with_spare(Padded(mask).neighbours(self._pad(hidden), width).flatten(0, 1)[places])

    def attend_first(self, query: Tensor, key_value: Tensor, dropout: float, rule: ScoreRule = PLAIN) -> Tensor:
        rule = rule.within(self.max_seqlen)
        if rule == PLAIN and varlen.has_kernel(query):  # one query for each pair
            each = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
            key, value = key_value.unbind(-3)
            return varlen.attention(query, key, value, each, self.cu_seqlens, 1, self.max_seqlen, dropout)
        # On a CPU these products are so small that padding costs less than many calls.
        return Padded(self._padding[0]).attend_first(query, self._pad(key_value), dropout, rule)

    def prepare_padding(self) -> None:
        """Compute what attention with a bias needs of the padded layout: a compiled block cannot."""
        _ = self._padding

    @cached_property
    def _padding(self) -> tuple[Tensor, Tensor]:
        """The padded layout's mask, `[pairs, length]`, and each token's index in it, flattened."""
        mask = torch.arange(self.max_seqlen) < self._sizes[:, None]
        places = mask.flatten().nonzero().squeeze(1)  # found on the host: on a device it would be waited for
        return copy_async(mask, self._device), copy_async(places, self._device)

    def _pad(self, x: Tensor) -> Tensor:
        """`[tokens, …]` to `[pairs, length, …]`, zero at padding."""
        mask, places = self._padding
        x = x[: len(x) - self.spare]
        return x.new_zeros(mask.numel(), *x.shape[1:]).index_copy(0, places, x).unflatten(0, mask.shape)

    def _with_spare(self, x: Tensor) -> Tensor:
        """`[tokens of the pairs, …]` to `[tokens, …]`, zero at the spare ones."""
        return F.pad(x, (*(0, 0) * (x.dim() - 1), 0, self.spare)) if self.spare else x


def to_device(batch: PackedBatch, device: torch.device) -> tuple[Tensor, Tensor, Packed]:
    """The model's three inputs for a packed batch. The copy to a GPU overlaps with its work on earlier batches.

    On a CPU up to 31 spare tokens, of id 0, round the number of tokens up.
    """
    spare = -len(batch.input_ids) % _CPU_MULTIPLE if device.type == "cpu" else 0
    ids, types = (torch.from_numpy(each) for each in (batch.input_ids, batch.token_type_ids))
    if spare:
        ids, types = F.pad(ids, (0, spare)), F.pad(types, (0, spare))
    return copy_async(ids, device), copy_async(types, device), Packed(batch.lengths.tolist(), device, spare)


_CPU_MULTIPLE = 32
"""The number of tokens on a CPU is a multiple of it. oneDNN makes a kernel for each number of rows of each product, and
without rounding nearly every step has another number of tokens."""


def copy_async(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`. A GPU is not waited for: pinned memory lets it copy while earlier work goes on."""
    if torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


_LONG = 1024
"""Tokens. Attention over longer pairs on a CPU is torch's own, which keeps no scores."""


def _attend_bucket(qkv: Tensor, bucket: Bucket, dropout: float, rule: ScoreRule) -> Tensor:
    """`Layout.attend` for one bucket, in fp32: `[tokens of the bucket, heads, head_size]`."""
    query, key, value = bucket.fill(qkv).unflatten(1, (bucket.pairs, -1))  # [pairs, heads, length, head_size]
    mask = torch.ones(bucket.pairs, bucket.length) if bucket.bias is None else bucket.bias[:, 0, 0] == 0
    mixed = Padded(mask).mix(query, key, value, dropout, rule).transpose(1, 2).flatten(0, 1)
    return (mixed if bucket.places is None else mixed[bucket.places]).to(qkv.dtype)
