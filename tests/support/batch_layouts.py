"""A random batch of ids, and the ways in which the model takes one: padded, and packed on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertnli.model import varlen
from bertnli.model.attention import Packed, Padded
from bertnli.model.classifier import PairClassifier


def batch(
    lengths: Sequence[int], vocab_size: int = 50, width: int | None = None, types: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, segments and mask, padded on the right to `width` (default: the longest); the padding holds noise."""
    torch.manual_seed(1)
    sizes = torch.tensor(lengths)
    shape = (len(lengths), width or max(lengths))
    ids, segments = torch.randint(vocab_size, shape), torch.randint(types, shape)
    return ids, segments, torch.arange(shape[1]) < sizes[:, None]


def padded(model: PairClassifier, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    return model(ids, segments, Padded(mask))


def packed(model: PairClassifier, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    return model(ids[mask], segments[mask], Packed(mask.sum(1).tolist()))


def rounded(model: PairClassifier, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    """Packed, with spare tokens behind the last pair, as `to_device` adds them on a CPU."""
    spare = (F.pad(x[mask], (0, 5), value=1) for x in (ids, segments))
    return model(*spare, Packed(mask.sum(1).tolist(), spare=5))


def varlen_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    max_q: int,
    max_k: int,
    dropout: float,
    window: int | None = None,
) -> Tensor:
    """What `varlen.attention`'s kernels compute on a GPU, one sequence after the other."""
    assert cu_q.dtype == cu_k.dtype == torch.int32  # the kernels read nothing else
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    mixed = []
    for (q_from, q_to), (k_from, k_to) in zip(pairwise(cu_q.tolist()), pairwise(cu_k.tolist()), strict=True):
        parts = (query[q_from:q_to], key[k_from:k_to], value[k_from:k_to])
        queries, keys = torch.arange(q_to - q_from)[:, None], torch.arange(k_to - k_from)
        mask = None if window is None else (queries - keys).abs() <= window
        mixed.append(F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts), mask, dropout))
    return torch.cat([part.transpose(0, 1) for part in mixed])


def on_a_gpu(model: PairClassifier, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    """Packed as on a GPU whose kernels take the heads' size."""
    with (
        mock.patch.object(varlen, "has_kernel", lambda x, window=None: True),
        mock.patch.object(varlen, "attention", varlen_reference),
    ):
        return packed(model, ids, segments, mask)


def without_a_kernel(model: PairClassifier, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    """Packed as on a GPU whose kernels do not take the heads' size."""
    with mock.patch.object(Packed, "attend", Packed._attend_padded):
        return packed(model, ids, segments, mask)


ALL = (padded, packed, rounded, on_a_gpu, without_a_kernel)
LAYOUTS = pytest.mark.parametrize("layout", ALL)
