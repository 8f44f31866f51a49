"""keep_best and early_stopping: the model of the best evaluation is the result, whatever came after it or died."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bertnli.common.errors import InputError
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.run.folder import read_metrics
from bertnli.train import loop as training
from tests.support.runs import same, train, weights

ACCURACIES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.4, 12: 0.3}  # by step; the best comes first at step 4
# At a constant rate the first steps of a run do not depend on how many there will be.
KEYS = {"eval_every_steps": 2, "checkpoint": {"every_steps": 3, "keep": 1}, "schedule": "constant", "warmup": 0.0}


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every evaluation finds the accuracy that ACCURACIES has for the step of the last update."""
    step, real_step, real = 0, training.Engine.step, training.evaluate

    def count(engine, learning_rate):
        nonlocal step
        step = engine.updates = getattr(engine, "updates", 0) + 1
        real_step(engine, learning_rate)

    def load(engine, state, steps):
        nonlocal step
        step = engine.updates = steps
        real_load(engine, state, steps)

    def judge(engine, ranks, data, labels) -> ClassificationMetrics:
        real(engine, ranks, data, labels)
        tally = ClassificationMetrics(labels)
        right = round(100 * ACCURACIES[step])
        tally.confusion[0, :2] = right, 100 - right
        return tally

    real_load = training.Engine.load_state
    monkeypatch.setattr(training.Engine, "step", count)
    monkeypatch.setattr(training.Engine, "load_state", load)
    monkeypatch.setattr(training, "evaluate", judge)
    yield


def test_the_best_model_is_the_result(tmp_path, run, ranks, judged):
    train(run("four", **KEYS, max_steps=4), ranks)
    summary = train(run("best", **KEYS, keep_best=True), ranks)
    assert (summary["steps"], summary["best_step"], summary["eval_accuracy"]) == (12, 4, 0.7)
    assert same(weights(tmp_path / "best"), weights(tmp_path / "four"))
    # the newest, and the best one, which `keep: 1` would not keep
    assert {path.name for path in (tmp_path / "best" / "checkpoints").iterdir()} == {"step-00000004", "step-00000012"}
    summary = train(run("last", **KEYS), ranks)
    assert "best_step" not in summary and summary["eval_accuracy"] == 0.3
    assert not same(weights(tmp_path / "last"), weights(tmp_path / "four"))


@pytest.mark.parametrize("keep_best", [True, False])
def test_early_stopping_ends_after_evaluations_that_are_no_better(tmp_path, run, ranks, judged, keep_best):
    summary = train(run(**KEYS, early_stopping=2, keep_best=keep_best), ranks)
    assert summary["steps"] == 8  # 6 is worse, 8 only as good
    assert summary["eval_accuracy"] == 0.7
    train(run("short", **KEYS, max_steps=4 if keep_best else 8), ranks)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "short"))


@pytest.mark.parametrize("killed_in_step", [5, 8, 9])
def test_a_resumed_run_remembers_the_best(tmp_path, run, ranks, judged, monkeypatch, killed_in_step):
    train(run("straight", **KEYS, keep_best=True, early_stopping=3), ranks)
    path = run("stopped", **KEYS, keep_best=True, early_stopping=3)
    real_assign, begun = training.assign_to_ranks, 0

    def crash(*arguments):
        nonlocal begun
        begun += 1
        if begun == killed_in_step:
            raise RuntimeError("crash")
        return real_assign(*arguments)

    monkeypatch.setattr(training, "assign_to_ranks", crash)
    with pytest.raises(RuntimeError, match="crash"):
        train(path, ranks)
    summary = train(path, ranks)
    assert (summary["steps"], summary["best_step"]) == (10, 4)
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))
    found = [
        [row["eval_accuracy"] for row in read_metrics(tmp_path / name / "metrics.jsonl") if "eval_accuracy" in row]
        for name in ("straight", "stopped")
    ]
    assert found[0] == found[1] == [0.5, 0.7, 0.6, 0.7, 0.4]


@pytest.mark.parametrize("keys", [{"keep_best": True}, {"early_stopping": 2}])
def test_both_need_something_to_evaluate_on(tmp_path, run, ranks, keys):
    with pytest.raises(InputError, match=rf"{next(iter(keys))} needs data\.eval"):
        train(run(data={"train": str(tmp_path / "train.jsonl")}, **keys), ranks)
