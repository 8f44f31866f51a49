"""AdamW without torch._dynamo, whose import takes longer than all of DeepSpeed's.

torch wraps an optimizer's methods so that torch.compile can tell where an optimizer begins and ends, and these wrappers
import torch._dynamo when they are first called. Nothing here compiles an optimizer (model/compiled.py compiles blocks).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch.optim import AdamW


def eager_adamw(groups: Sequence[dict[str, Any]], **options: Any) -> AdamW:
    """`torch.optim.AdamW(groups, **options)`, of just that class, which DeepSpeed asks for.

    Its methods are the same, without torch's wrappers; so a hook of theirs (`register_step_pre_hook`) is not called.
    """
    optimizer = AdamW.__new__(AdamW)
    # On the object itself, not on its class, as other optimizers stay as they are; the constructor calls the first one.
    optimizer.add_param_group = _unwrapped(optimizer, "add_param_group")  # type: ignore[method-assign]
    optimizer.zero_grad = _unwrapped(optimizer, "zero_grad")  # type: ignore[method-assign]
    optimizer.step = torch.no_grad()(_unwrapped(optimizer, "step"))  # type: ignore[method-assign]
    optimizer.__init__(groups, **options)  # type: ignore[misc]
    return optimizer


def _unwrapped(optimizer: AdamW, name: str) -> Any:
    """The method as it is written; all of torch's wrappers are made by functools.wraps."""
    return MethodType(inspect.unwrap(getattr(AdamW, name)), optimizer)
