"""The optimizer of a run: torch's AdamW with the run file's settings, at every stage of ZeRO."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from bertnli.common.errors import InputError
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.run_file import validate_run
from bertnli.train.engine import Engine
from tests.support.runs import train

RATES = (0.0, 0.02, 0.05, 0.01)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_betas_and_eps_are_those_of_torchs_adamw(ranks, stage):
    """With an eps so large that it matters."""
    settings: dict[str, Any] = {"betas": (0.6, 0.9), "eps": 1e-2}
    keys = {"model": "m", "data": {"train": "t"}, "output": "o", "epochs": 1, "max_grad_norm": 0}
    config = validate_run(keys | settings | {"weight_decay": 0.1, "zero_stage": stage}, "run.yaml")
    torch.manual_seed(0)
    ours = torch.nn.Sequential(torch.nn.Linear(7, 13), torch.nn.LayerNorm(13), torch.nn.Linear(13, 3))
    theirs = copy.deepcopy(ours)
    decayed, kept = ([one for one in theirs.parameters() if (one.dim() > 1) is many] for many in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": kept, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, **settings)
    engine = Engine(ours, deepspeed_config(config, "fp32", 1), config, ranks)
    for rate in RATES:
        inputs, labels = torch.randn(8, 7), torch.randint(3, (8,))
        engine.backward(F.cross_entropy(engine(inputs), labels))
        engine.step(rate)
        for group in adamw.param_groups:
            group["lr"] = rate
        adamw.zero_grad()
        F.cross_entropy(theirs(inputs), labels).backward()
        adamw.step()
    found = engine.weights()
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(found[name], weight, rtol=1e-6, atol=1e-7, msg=name)


def test_the_report_and_the_card_name_what_differs_from_the_defaults(tmp_path, run, ranks):
    train(run("plain", max_steps=1), ranks)
    train(run("changed", max_steps=2, schedule="cosine", warmup_steps=1, betas=[0.9, 0.98], eps=1e-6), ranks)
    named = ("schedule: cosine", "warmup_steps: 1", "betas: [0.9, 0.98]", "eps: 1e-06")
    for name, there in (("plain", False), ("changed", True)):
        folder = tmp_path / name
        report, card = (folder / "report.html").read_text(), (folder / "model" / "README.md").read_text()
        assert ("Settings" in report) == there == (", ".join(named) in report)
        for row in (r"warmup\_steps | 1", r"betas | \[0.9, 0.98\]", "eps | 1e-06", "schedule | cosine"):
            assert (f"| {row} |" in card) == there, row
        assert ("| warmup | 0.1 |" in card) != there


def test_a_run_that_would_end_in_its_warm_up_is_refused_before_it_starts(tmp_path, run, ranks):
    """With epochs the number of steps is known only when the data is."""
    path = run(max_steps=None, epochs=1, warmup_steps=21)
    with pytest.raises(InputError, match=r"warmup_steps: 21 does not go with a run of 21 steps.*set warmup_steps: 2,"):
        train(path, ranks)
    assert not (tmp_path / "run").exists()
