"""Attention over packed tokens on a GPU: torch's two variable-length kernels, called directly.

torch reaches them through nested tensors too, at 180 dispatches in Python for each layer: BERT-base then keeps the host
busy for 110 ms in a step that takes a GPU some 13 ms. `torch.nn.attention.varlen.varlen_attn` has no dropout and takes
16 bits only. The operators are private to torch, so tests/model/test_varlen.py holds their signatures.
"""

from __future__ import annotations

import torch
from torch import Tensor


def has_kernel(x: Tensor, window: int | None = None) -> bool:
    """Whether a kernel takes heads as wide as the last axis of `x`, in its dtype: a row is a multiple of 16 bytes.

    window: see `attention`. Only FlashAttention-2 has one to both sides.
    """
    fits = x.device.type != "cpu" and x.shape[-1] * x.element_size() % 16 == 0 and x.shape[-1] <= 256
    return fits and (window is None or _runs_flash(x))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout: float,
    window: int | None = None,
) -> Tensor:
    """Scaled dot-product attention of each query sequence over the key sequence of the same number.

    `query`: `[queries, heads, head_size]`, as is the result; `key`, `value`: `[keys, heads, head_size]`.
    `cu_seqlens_…`: int32 `[sequences + 1]` on the same device: where each sequence begins, and the end of the last.
    `max_seqlen_…`: the length of the longest, which the host knows; asking the device would wait for it.
    `dropout`: probability, 0 outside training. `window`: how many keys to each side a query attends to; None: all.

    16 bits: FlashAttention-2 (Dao 2023), from sm80 on. fp32, and 16 bits on older GPUs: the memory-efficient kernel
    (Rabe and Staats 2021), whose rows are as exact as the dtype's products.
    """
    if _runs_flash(query):
        return torch.ops.aten._flash_attention_forward(
            query,
            key,
            value,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q,
            max_seqlen_k,
            dropout,
            False,  # is_causal
            False,  # return_debug_mask
            window_size_left=window,
            window_size_right=window,
        )[0]
    assert window is None
    mixed = torch.ops.aten._efficient_attention_forward(
        query.unsqueeze(0),
        key.unsqueeze(0),
        value.unsqueeze(0),
        None,  # bias
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout,
        0,  # custom_mask_type: none, so not causal
        compute_log_sumexp=torch.is_grad_enabled(),  # what the backward pass reads
    )[0]
    return mixed.squeeze(0)


def _runs_flash(x: Tensor) -> bool:
    return x.element_size() == 2 and _is_ampere(x.device)


def _is_ampere(device: torch.device) -> bool:
    """Whether the GPU is of sm80 or later."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
