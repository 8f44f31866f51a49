"""Losses and gradients that are no numbers: fp16's scaler skips, counts, remembers and gives up; NaN stops the run.

DeepSpeed refuses fp16 on a CPU, though torch computes in it there: with that one check out of the way its own loss
scalers and wrappers run as on a GPU.
"""

from __future__ import annotations

import json

import deepspeed
import pytest
import torch
from safetensors.torch import load_file

from bertnli.common.errors import RunError
from bertnli.run.folder import read_metrics
from bertnli.train import loop as training
from bertnli.train import setup
from tests.support.runs import losses, same, train, weights

# DeepSpeed has one class for stages 1 and 2.
STAGES = pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.system), 2, 3])


@pytest.fixture
def fp16_on_cpu(monkeypatch):
    accelerator = type(deepspeed.accelerator.get_accelerator())
    monkeypatch.setattr(accelerator, "is_fp16_supported", lambda self: True)
    monkeypatch.setattr(setup, "resolve_precision", lambda precision, device: precision)


def fp16(stage: int, scale_power: int, **more) -> dict:
    scaler = {"initial_scale_power": scale_power, "hysteresis": 1, **more}
    return {"precision": "fp16", "zero_stage": stage, "deepspeed": {"fp16": scaler}, "learning_rate": 1e-4}


@STAGES
def test_fp16_skips_steps_that_overflow_and_counts_them(tmp_path, run, ranks, fp16_on_cpu, stage):
    train(run(**fp16(stage, scale_power=24), dropout=0.0), ranks)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    skipped = [row["skipped_steps"] for row in rows]
    assert skipped[0] == 1 and 1 < skipped[-1] < 12 and skipped == sorted(skipped)
    # each of them halves the scale
    assert [row["loss_scale"] for row in rows] == [2.0 ** (24 - count) for count in skipped]
    train(run("whole", precision="fp32", dropout=0.0, learning_rate=1e-4), ranks)
    updates = skipped[-1]
    assert losses(tmp_path / "run")[updates] == pytest.approx(losses(tmp_path / "whole")[updates], rel=0.1)


@STAGES
def test_fp16_stops_when_the_scale_cannot_go_lower(tmp_path, run, ranks, fp16_on_cpu, stage):
    path = run(**fp16(stage, scale_power=24, min_loss_scale=2**23))
    with pytest.raises(RunError, match=r"overflow at the smallest loss scale, 8\.38861e\+06.*bf16 or fp32"):
        train(path, ranks)
    assert len(losses(tmp_path / "run")) == 1  # the step that went from 2^24 to 2^23


@STAGES
def test_fp16_goes_on_with_the_scaler_as_it_was(tmp_path, run, ranks, fp16_on_cpu, stage, monkeypatch):
    """The scale grows again after every third good step: all of its counters matter."""
    keys = {**fp16(stage, scale_power=20, loss_scale_window=3), "checkpoint": {"every_steps": 5, "keep": 9}}
    train(run("straight", **keys), ranks)
    stopped = run("stopped", **keys)
    calls = 0
    real_accumulate = training.accumulate

    def crash(*arguments):
        nonlocal calls
        calls += 1
        if calls == 7:
            raise RuntimeError("crash")
        return real_accumulate(*arguments)

    monkeypatch.setattr(training, "accumulate", crash)
    with pytest.raises(RuntimeError, match="crash"):
        train(stopped, ranks)
    train(stopped, ranks)

    def figures(name: str) -> list[tuple[float, float, float]]:
        rows = read_metrics(tmp_path / name / "metrics.jsonl")
        return [(row["loss"], row["loss_scale"], row["skipped_steps"]) for row in rows if "loss" in row]

    assert len({scale for _, scale, _ in figures("straight")}) > 2
    assert figures("stopped") == figures("straight")
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))


@pytest.mark.parametrize("stage", [0, *(pytest.param(stage, marks=pytest.mark.system) for stage in (1, 2, 3))])
def test_fp16_rounds_nothing_that_is_frozen(tmp_path, run, ranks, fp16_on_cpu, stage):
    """DeepSpeed keeps fp32 copies of the others alone."""
    train(run(**fp16(stage, scale_power=10), freeze=1, max_steps=2, warmup_steps=0), ranks)
    found, start = weights(tmp_path / "run"), load_file(tmp_path / "start" / "model.safetensors")
    frozen = {name for name in start if name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))}
    assert {name for name in start if torch.equal(found[name], start[name])} == frozen


def test_a_loss_that_is_not_finite_stops_the_run_and_its_pairs_are_written(tmp_path, run, ranks):
    path = run(max_grad_norm=0.0, weight_decay=0.0, warmup=0.0, schedule="constant")
    with pytest.raises(RunError, match=r"step \d+: the loss is (nan|inf); its 16 pairs are in ") as raised:
        train(path, ranks, learning_rate=1e30)
    (pairs,) = (tmp_path / "run").glob("loss-*.jsonl")
    assert str(pairs) in str(raised.value)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    given = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    for row in rows:
        there = given[row["row"] - 1]
        assert row["label"] == there["gold_label"]
        assert row["tokens"][0] == "[CLS]" and row["tokens"].count("[SEP]") == 2
        assert row["tokens"][1] == there["sentence1"].split()[0].lower()
        assert len(row["ids"]) == len(row["tokens"])
    assert not (tmp_path / "run" / "model").exists()


def test_weights_that_are_not_finite_are_never_saved(tmp_path, run, ranks, monkeypatch):
    """A step's loss may be finite and its gradients not: the loss tells only in the step after."""
    path = run(max_grad_norm=0.0, checkpoint={"every_steps": 1, "keep": 9})
    step, taken = training.Engine.step, 0

    def poisoned(engine, learning_rate):
        nonlocal taken
        taken += 1
        if taken == 3:
            next(engine._engine.module.parameters()).grad.values()[0, 0] = float("inf")  # of the token embeddings
        step(engine, learning_rate)

    monkeypatch.setattr(training.Engine, "step", poisoned)
    with pytest.raises(RunError, match="step 3: the weights are no longer finite"):
        train(path, ranks)
    kept = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert kept == {"step-00000001", "step-00000002"}
