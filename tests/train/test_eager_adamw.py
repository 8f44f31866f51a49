"""AdamW without torch._dynamo: torch's own results, and a training process that starts without what it does not use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from bertnli.train import loop as training
from bertnli.train.eager_adamw import eager_adamw
from tests.support.runs import on_ranks, run_files, train

# What torch.compile needs, and what DeepSpeed compiles its operators with.
UNUSED = ("torch._dynamo", "torch._inductor", "sympy", "torch.distributed.tensor", "setuptools", "distutils")
NOT_AT_THE_START = ("jinja2", "huggingface_hub", "onnx", "onnxruntime", "pandas", "transformers", "tensorboard")


def steps_of(make: Any) -> tuple[list[Tensor], AdamW]:
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(3))]
    groups = [
        {"params": weights[:1], "weight_decay": 0.1, "lr_scale": 0.5},
        {"params": weights[1:], "weight_decay": 0.0},
    ]
    adamw = make(groups, lr=0.01, betas=(0.8, 0.9), eps=1e-6, fused=True)
    rows = torch.randn(7, 5)
    for _ in range(3):
        (rows @ weights[0] + weights[1]).square().sum().backward()
        adamw.step()
        adamw.zero_grad()
    return [weight.detach() for weight in weights], adamw


def test_it_takes_the_steps_of_torchs_own() -> None:
    (found, adamw), (expected, theirs) = steps_of(eager_adamw), steps_of(AdamW)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert type(adamw) is AdamW  # DeepSpeed knows an optimizer by its class
    assert adamw.param_groups[0]["lr_scale"] == 0.5
    assert adamw.defaults == theirs.defaults
    states = zip(adamw.state_dict()["state"].values(), theirs.state_dict()["state"].values(), strict=True)
    assert all(torch.equal(one[name], other[name]) for one, other in states for name in other)


def test_its_gradients_are_let_go() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    adamw = eager_adamw([{"params": [weight]}], lr=0.1)
    weight.grad = torch.ones(2)
    adamw.step()
    assert weight.grad is not None and weight.requires_grad
    adamw.zero_grad()
    assert weight.grad is None


def test_a_run_does_not_load_what_it_does_not_use(tmp_path: Path) -> None:
    """torch._dynamo alone would take a third of the time to the first step. (At ZeRO-1 to 3 DeepSpeed loads it.)"""
    assert on_ranks(1, loaded_by_a_run, tmp_path) == []


def loaded_by_a_run(folder: Path) -> list[str]:
    """Which of the modules that it does not use a run has loaded, in a process of its own."""
    too_early = [name for name in NOT_AT_THE_START if name in sys.modules]
    train(run_files(folder)(max_steps=2), training.ProcessGroup())
    return too_early + [name for name in UNUSED if name in sys.modules]
