"""A GPU's host launches a step before it knows the loss of the one before. On a CPU, which is told to do so here."""

from __future__ import annotations

import json
import signal
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bertnli.common.errors import Interrupted, RunError
from bertnli.data.batches import Stream
from bertnli.run.folder import read_metrics
from bertnli.train import loop as training
from bertnli.train import setup
from bertnli.train.steps import Step, Steps
from tests.support.runs import losses, on_ranks, same, train, train_here, weights

CPU = torch.device("cpu")
FIGURES = ("step", "loss", "accuracy", "learning_rate", "eval_accuracy", "eval_loss")
KEYS = {"max_steps": 12, "checkpoint": {"every_steps": 5, "keep": 9}, "eval_every_steps": 4}


@pytest.fixture
def ahead(monkeypatch):
    monkeypatch.setattr(training, "STEPS_AHEAD", {"cpu": 1})


def figures(folder):
    rows = read_metrics(folder / "metrics.jsonl")
    return [{name: row[name] for name in FIGURES if name in row} for row in rows]


def at_step(monkeypatch, number, do):
    """Calls `do` when the work of step `number` is launched, counted from 1."""
    launched, accumulate = 0, training.accumulate

    def look(engine, step, *loss):
        nonlocal launched
        launched += 1
        sums = accumulate(engine, step, *loss)
        return do(sums) if launched == number else sums

    monkeypatch.setattr(training, "accumulate", look)


def checkpoints(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/*"))


def test_the_run_is_the_same(tmp_path, run, ranks, monkeypatch):
    train(run("at once", **KEYS), ranks)
    monkeypatch.setattr(training, "STEPS_AHEAD", {"cpu": 1})
    threads = set()
    monkeypatch.setattr(training, "pack", lambda *a: pytest.fail("the loop itself makes no batch"))
    monkeypatch.setattr(training, "evaluate", _evaluate_with_pack(training.evaluate, monkeypatch))
    made = Step.of

    def note(*arguments):
        threads.add(threading.current_thread().name)
        return made(*arguments)

    monkeypatch.setattr(Step, "of", note)
    summary = train(run("ahead", **KEYS), ranks)
    assert len(threads) == 2 and threading.current_thread().name in threads  # only the first step was waited for
    assert figures(tmp_path / "ahead") == figures(tmp_path / "at once")
    assert same(weights(tmp_path / "ahead"), weights(tmp_path / "at once"))
    assert checkpoints(tmp_path / "ahead") == checkpoints(tmp_path / "at once") == [5, 10, 12]
    assert summary["pairs_per_second"] > 0


def _evaluate_with_pack(evaluate, monkeypatch):
    from bertnli.data.batches import pack

    def with_pack(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(training, "pack", pack)
            return evaluate(*arguments)

    return with_pack


def test_a_signal_stops_it_after_the_next_step_and_it_goes_on(tmp_path, run, ranks, monkeypatch, ahead):
    train(run("straight", **KEYS), ranks)
    path, folder = run("stopped", **KEYS), tmp_path / "stopped"

    def stop(sums):
        signal.raise_signal(signal.SIGTERM)
        return sums

    with monkeypatch.context() as patch:
        at_step(patch, 2, stop)
        with pytest.raises(Interrupted, match="stopped after step 3 of 12; a checkpoint is in"):
            train(path, ranks)
    assert checkpoints(folder) == [3] and len(losses(folder)) == 3
    train(path, ranks)
    assert figures(folder) == figures(tmp_path / "straight")
    assert same(weights(folder), weights(tmp_path / "straight"))


@pytest.mark.parametrize(
    ("number", "saved"), [(3, []), (5, []), (6, [5])], ids=["between", "at a checkpoint", "after one"]
)
def test_a_loss_that_is_not_finite_is_reported_with_its_own_pairs(
    tmp_path, run, ranks, monkeypatch, ahead, number, saved
):
    """Although the next step is under way by then; and no checkpoint has its weights."""
    path, folder = run(**KEYS), tmp_path / "run"
    at_step(monkeypatch, number, lambda sums: sums * float("nan"))
    with pytest.raises(RunError, match=rf"step {number}: the loss is nan; its 16 pairs are in "):
        train(path, ranks)
    assert checkpoints(folder) == saved and len(losses(folder)) == number - 1
    (pairs,) = folder.glob("loss-*.jsonl")
    rows = {json.loads(line)["row"] for line in pairs.read_text().splitlines()}
    assert rows == rows_of_step(tmp_path, run, ranks, monkeypatch, number)


def rows_of_step(tmp_path, run, ranks, monkeypatch, number):
    """The data file's rows of a step, from the run file alone: what its seed and the held-out rows decide."""
    seen = {}
    real = setup.load_data

    def note(*arguments):
        seen["data"] = real(*arguments)
        return seen["data"]

    with monkeypatch.context() as patch:
        patch.setattr(setup, "load_data", note)
        patch.setattr(training, "accumulate", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(run("again", **KEYS), ranks)
    data = seen["data"]
    chosen = data.train[Stream(len(data.train), 16, 0).step(number - 1)]
    return set(data.corpus.rows[chosen].tolist())


def test_two_ranks_stop_after_the_same_step(tmp_path, run):
    path = run(**KEYS)
    with pytest.raises(AssertionError, match="stopped after step 3 of 12"):
        on_ranks(2, train_ahead_and_stop, path)
    assert checkpoints(tmp_path / "run") == [3]


def train_ahead_and_stop(path):
    """On each rank; only the second gets a signal."""
    import os

    training.STEPS_AHEAD = {"cpu": 1}
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1":
            at_step(patch, 2, lambda sums: (signal.raise_signal(signal.SIGTERM), sums)[1])
        return train_here(path)


def test_steps_come_in_order_and_a_fault_comes_where_its_step_is_asked_for():
    def make(number):
        if number == 4:
            raise OSError("the disk failed")
        return number

    for ahead in (False, True):
        with Steps(make, CPU, ahead) as steps:
            assert [steps[number] for number in (1, 2, 3)] == [1, 2, 3]
            with pytest.raises(OSError, match="the disk failed"):
                steps[4]
            assert steps[7] == 7  # another than the next


def test_a_rank_without_pairs_takes_one_that_does_not_count():
    corpus = SimpleNamespace(
        lengths=np.array([6, 4], np.uint16),
        offsets=np.array([0, 6]),
        ids=np.arange(10, dtype=np.uint16),
        first_segment=np.array([3, 2], np.uint16),
        labels=np.array([1, 2], np.int8),
    )
    step = Step.of(corpus, np.array([1, 0]), rank=2, world=3, micro_tokens=100, device=CPU)
    (micro_batch,) = step.micro_batches
    assert not micro_batch.counts and micro_batch.labels.tolist() == [2]
    assert micro_batch.inputs[0][:5].tolist() == [6, 7, 8, 9, 0]  # and more spare tokens
