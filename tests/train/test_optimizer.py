"""The optimizer of a run: torch's AdamW with the run file's settings, at every stage of ZeRO."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from bertnli.common.errors import InputError
from bertnli.families.config import ModelConfig
from bertnli.model.attention import Packed
from bertnli.model.classifier import PairClassifier
from bertnli.run.config import RunConfig
from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.run.run_file import load_run, validate_run
from bertnli.train import loop as training
from bertnli.train.engine import Engine, ProcessGroup
from bertnli.train.parameter_groups import freeze
from tests.model.test_families import lively
from tests.support.runs import on_ranks, same, train, weights

RATES = (0.0, 0.02, 0.05, 0.01)
SETTINGS: dict[str, dict[str, Any]] = {
    "betas and eps": {"betas": [0.6, 0.9], "eps": 1e-2},  # an eps so large that it matters
    "layer-wise decay": {"layer_decay": 0.5},
    "frozen embeddings": {"freeze": "embeddings"},
    "frozen blocks, and all the rest": {
        "freeze": 1,
        "layer_decay": 0.5,
        "betas": [0.6, 0.9],
        "gradient_checkpointing": True,
    },
}
BERT = ModelConfig(
    labels=("a", "b", "c"), vocab_size=50, hidden_size=12, num_layers=3, num_heads=2, intermediate_size=20
).without_dropout()
DEPTHS = ("embeddings.", "blocks.0.", "blocks.1.", "blocks.2.", "")  # beginnings of names, the head's last


def run_of(settings: dict[str, Any], stage: int) -> RunConfig:
    """Clipped, with a weight decay that is seen. A larger eps, because without it AdamW makes steps of rounding errors:
    the gradient of the keys' bias is 0."""
    keys = {"model": "m", "data": {"train": "t"}, "output": "o", "epochs": 1, "max_grad_norm": 0.3}
    return validate_run({**keys, "weight_decay": 0.5, "eps": 1e-3, "zero_stage": stage, **settings}, "run.yaml")


def model_of(config: RunConfig) -> PairClassifier:
    torch.manual_seed(0)
    model = lively(PairClassifier(BERT)).train()
    freeze(model, config.frozen_blocks)
    model.gradient_checkpointing = config.gradient_checkpointing
    return model


def inputs(step: int) -> tuple[tuple[Tensor, Tensor, Packed], Tensor]:
    draw = torch.Generator().manual_seed(step)
    lengths = [5, 9, 12]
    ids = torch.randint(50, (sum(lengths),), generator=draw)
    return (ids, ids % 2, Packed(lengths)), torch.randint(3, (3,), generator=draw)


def of_torch(config: RunConfig) -> tuple[PairClassifier, list[dict[str, Tensor]]]:
    """torch's AdamW, which has a group for each parameter here: the model, and its weights after each step."""
    model = model_of(config)
    scales = [config.layer_decay ** (4 - depth) for depth in range(5)]
    groups = []
    for name, parameter in model.named_parameters():
        depth = next(depth for depth, start in enumerate(DEPTHS) if name.startswith(start))
        if config.frozen_blocks is None or depth > config.frozen_blocks:
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            groups.append({"params": [parameter], "weight_decay": decay, "scale": scales[depth]})
    adamw = torch.optim.AdamW(groups, betas=config.betas, eps=config.eps)
    every, steps = [group["params"][0] for group in groups], []
    for step, rate in enumerate(RATES):
        given, labels = inputs(step)
        adamw.zero_grad()
        F.cross_entropy(model(*given), labels).backward()
        assert nn.utils.clip_grad_norm_(every, config.max_grad_norm) > config.max_grad_norm
        for group in adamw.param_groups:
            group["lr"] = rate * group["scale"]
        adamw.step()
        steps.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    return model, steps


def take(engine: Engine, steps: range) -> None:
    for step in steps:
        given, labels = inputs(step)
        engine.backward(F.cross_entropy(engine(*given), labels) / engine.group.world)
        engine.step(RATES[step])


def check(settings: dict[str, Any], stage: int, group: ProcessGroup) -> None:
    """The engine's weights are torch's; it goes on from its state in a new engine, to the same weights."""
    config = run_of(settings, stage)
    start = {name: tensor.clone() for name, tensor in model_of(config).state_dict().items()}

    def engine() -> Engine:
        return Engine(model_of(config), deepspeed_config(config, "fp32", group.world), config, group)

    straight = engine()
    take(straight, range(2))
    half = straight.state()
    take(straight, range(2, 4))
    found = straight.weights()
    theirs, expected = of_torch(config)
    frozen = {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
    assert found.keys() == start.keys()  # the whole model
    for name, weight in expected[-1].items():
        if name in frozen:
            assert torch.equal(found[name], start[name]), name
        else:
            torch.testing.assert_close(found[name], weight, rtol=2e-5, atol=2e-6, msg=name)
    assert {name.partition("/")[2] for name in half if name.startswith("weight/")} == start.keys()
    assert {name.partition("/")[2] for name in half if name.startswith("exp_avg/")} == start.keys() - frozen

    resumed = engine()
    resumed.load_state(half, 2)
    take(resumed, range(2, 4))
    assert same(resumed.weights(), found)


@pytest.mark.parametrize(
    ("settings", "stage"),
    [*((name, 0) for name in SETTINGS), *(("frozen blocks, and all the rest", stage) for stage in (1, 2, 3))],
)
def test_the_optimizer_is_torchs_adamw(ranks, settings, stage):
    check(SETTINGS[settings], stage, ranks)


def check_on_this_rank() -> None:
    group = ProcessGroup()
    for stage in range(4):
        check(SETTINGS["frozen blocks, and all the rest"], stage, group)
    group.barrier()


@pytest.mark.system
def test_the_optimizer_is_torchs_adamw_on_two_ranks():
    on_ranks(2, check_on_this_rank)


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


def test_a_run_with_frozen_blocks_says_so_and_goes_on(tmp_path, run, ranks):
    keys = {"freeze": 1, "layer_decay": 0.8, "max_steps": 4, "checkpoint": {"every_steps": 2, "keep": 9}}
    path, folder, lines = run(**keys), tmp_path / "run", []
    training.train(load_run(path), ranks, lines.append)
    found, start = weights(folder), load_file(tmp_path / "start" / "model.safetensors")
    frozen = {name for name in start if name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))}
    moved = {name for name in start if not torch.equal(found[name], start[name])}
    assert moved == start.keys() - frozen
    trained = sum(start[name].numel() for name in moved)
    (said,) = (line for line in lines if line.startswith("freeze: the embeddings and the first 1 of 2 blocks stay"))
    assert f"{trained:,} of " in said
    for text in ("layer_decay: 0.8, freeze: 1", "| freeze | 1 |"):
        assert any(text in (folder / file).read_text() for file in ("report.html", "model/README.md"))
    for later in ("model", "checkpoints/step-00000004"):
        shutil.rmtree(folder / later)
    training.train(load_run(path), ranks, lines.append)
    assert "going on from step 2 of 4" in lines and same(weights(folder), found)


def test_a_model_that_has_fewer_blocks_is_refused_before_the_run_starts(tmp_path, run, ranks):
    with pytest.raises(InputError, match="freeze: 3; found a model of 2 blocks; set freeze: 2 or less"):
        train(run(freeze=3), ranks)
    assert not (tmp_path / "run").exists()


def test_a_run_that_would_end_in_its_warm_up_is_refused_before_it_starts(tmp_path, run, ranks):
    """With epochs the number of steps is known only when the data is."""
    path = run(max_steps=None, epochs=1, warmup_steps=21)
    with pytest.raises(InputError, match=r"warmup_steps: 21 does not go with a run of 21 steps.*set warmup_steps: 2,"):
        train(path, ranks)
    assert not (tmp_path / "run").exists()
