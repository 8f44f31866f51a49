"""How the tokens of a batch lie in memory, and attention over them: the one place that knows.

The encoder's linear layers and norms act on the last axis alone, so they do not care whether tokens come as
`[pairs, length, hidden]` with padding or end to end as `[tokens, hidden]` without. What does care is here, behind one
interface: which position a token has, which tokens see each other, and which token stands first in its pair.

`Padded` is the plain reference (and what is exported to ONNX). `Packed` computes nothing on padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Layout(Protocol):
    """What the encoder asks of a batch. `hidden` below is `[…, hidden_size]` in this layout's own leading axes."""

    positions: Tensor
    """Position of each token in its pair, counted from 0; broadcasts to the leading axes of `input_ids`."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        """Scaled dot-product attention (Vaswani et al. 2017, section 3.2.1) within each pair.

        `query`, `key`, `value` and the result: `[…, heads, head_size]`; `dropout`: probability, 0 outside training.
        """
        ...

    def first(self, hidden: Tensor) -> Tensor:
        """The hidden state of each pair's first token ([CLS]): `[pairs, hidden_size]`."""
        ...


class Padded:
    """Pairs as rows, filled up to one length: `input_ids` is `[pairs, length]`, `mask` true where a token is real."""

    def __init__(self, mask: Tensor):
        length = mask.shape[1]
        self.positions = torch.arange(length, device=mask.device)
        # The full (pairs, 1, length, length) form: ONNX Runtime's Attention refuses one that would need broadcasting.
        self.mask = mask.bool()[:, None, None, :].expand(-1, 1, length, -1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # [pairs, heads, length, head_size]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=self.mask, dropout_p=dropout)
        return mixed.transpose(1, 2)

    def first(self, hidden: Tensor) -> Tensor:
        return hidden[:, 0]


class Packed:
    """Pairs end to end without padding: `input_ids` is `[tokens]`, cut by `lengths` (tokens of each pair).

    Neighbours of equal length share one attention call, so a batch sorted by length needs few calls and no mask.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu"):
        sizes = torch.as_tensor(lengths)
        starts = sizes.cumsum(0) - sizes
        self.positions = (torch.arange(int(sizes.sum())) - starts.repeat_interleave(sizes)).to(device)
        self.starts = starts.to(device)
        self.groups = [(len(list(run)), length) for length, run in groupby(lengths)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float) -> Tensor:
        sizes = [pairs * length for pairs, length in self.groups]
        mixed = []
        for (pairs, length), *qkv in zip(self.groups, *(x.split(sizes) for x in (query, key, value)), strict=True):
            q, k, v = (x.unflatten(0, (pairs, length)).transpose(1, 2) for x in qkv)
            mixed.append(F.scaled_dot_product_attention(q, k, v, dropout_p=dropout).transpose(1, 2).flatten(0, 1))
        return torch.cat(mixed)

    def first(self, hidden: Tensor) -> Tensor:
        return hidden[self.starts]
