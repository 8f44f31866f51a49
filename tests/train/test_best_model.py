"""keep_best and early_stopping: the model of the best evaluation is the result, also after a kill."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from bertnli.train.checkpoint import TrainerState
from bertnli.train.inputs import load_run_model
from tests.support.runs import run_files, same, train

ACCURACIES = {2: 0.5, 4: 0.7, 6: 0.6, 8: 0.7, 10: 0.4, 12: 0.3}  # by step; the best comes first at step 4
LOG_LOSSES = {2: 3.0, 4: 2.5, 6: 2.1, 8: 2.2, 10: 2.1, 12: 4.0}  # the lowest comes first at step 6
# At a constant rate the first steps of a run do not depend on how many there will be.
KEYS = {"eval_every_steps": 2, "checkpoint": {"every_steps": 3, "keep": 1}, "schedule": "constant", "warmup": 0.0}


@pytest.fixture(scope="module", autouse=True)
def scored() -> Iterator[None]:
    """Every evaluation finds what ACCURACIES and LOG_LOSSES have for the step of the last update."""
    step = 0
    real_step, real_load, real_evaluate = training.Engine.step, training.Engine.load_state, training.evaluate

    def count(engine, learning_rate):
        nonlocal step
        step = engine.updates = getattr(engine, "updates", 0) + 1
        real_step(engine, learning_rate)

    def load(engine, state, steps):
        nonlocal step
        step = engine.updates = steps
        real_load(engine, state, steps)

    def evaluate(engine, ranks, data, outputs, loss, batch_tokens) -> ClassificationMetrics:
        real_evaluate(engine, ranks, data, outputs, loss, batch_tokens)
        found = ClassificationMetrics(outputs.names)
        right = round(100 * ACCURACIES[step])
        found.confusion[0, :2] = right, 100 - right
        found.log_loss = 100 * LOG_LOSSES[step]
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Engine, "step", count)
        patch.setattr(training.Engine, "load_state", load)
        patch.setattr(training, "evaluate", evaluate)
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Writes run files of this module: see `run_files`."""
    return run_files(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def straight(files: Any, ranks: Any) -> Path:
    """A run of 12 steps that keeps no best and all checkpoints: the weights that the others have to end with."""
    path = files("straight", **{**KEYS, "checkpoint": {"every_steps": 1, "keep": 12}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTNLI_CACHE", str(path.parent / "cache"))
        summary = train(path, ranks)
    assert "best_step" not in summary and summary["eval_accuracy"] == 0.3
    assert same(weights(path.with_suffix("")), weights(path.with_suffix(""), 12))
    return path.with_suffix("")


def weights(run: Path, step: int | None = None) -> Any:
    """Of the result, or of the checkpoint after `step` steps."""
    path = run if step is None else run / "checkpoints" / f"step-{step:08d}"
    return load_run_model(path, pytest.fail).build().state_dict()


def test_the_best_model_is_the_result(straight, files, ranks):
    summary = train(files("best", **KEYS, keep_best=True), ranks)
    assert (summary["steps"], summary["best_step"], summary["eval_accuracy"]) == (12, 4, 0.7)
    best = straight.with_name("best")
    assert same(weights(best), weights(straight, 4)) and not same(weights(best), weights(straight))
    # the newest, and the best one, which `keep: 1` would not keep
    assert {path.name for path in (best / "checkpoints").iterdir()} == {"step-00000004", "step-00000012"}


def test_another_metric_decides_in_its_own_direction(straight, files, ranks):
    keys = {**KEYS, "keep_best": True, "early_stopping": 3, "metric_for_best": "log_loss"}
    summary = train(files("by-log-loss", **keys), ranks)
    assert (summary["steps"], summary["best_step"], summary["eval_log_loss"]) == (12, 6, pytest.approx(2.1))
    folder = straight.with_name("by-log-loss")
    assert same(weights(folder), weights(straight, 6))
    found = [row["eval_log_loss"] for row in read_metrics(folder / "metrics.jsonl") if "eval_log_loss" in row]
    assert found == pytest.approx(list(LOG_LOSSES.values()))


@pytest.mark.parametrize("keep_best", [True, False])
def test_early_stopping_ends_after_evaluations_that_are_no_better(straight, files, ranks, keep_best):
    summary = train(files(f"early-{keep_best}", **KEYS, early_stopping=2, keep_best=keep_best), ranks)
    assert summary["steps"] == 8  # 6 is worse, 8 only as good
    assert summary["eval_accuracy"] == 0.7
    assert same(weights(straight.with_name(f"early-{keep_best}")), weights(straight, 4 if keep_best else 8))


@pytest.mark.parametrize("killed_after", [4, 6, 9])
def test_a_resumed_run_remembers_the_best(straight, files, ranks, killed_after):
    """From the checkpoints that such a run has: that of the best step, and the newest."""
    path = files(f"killed-{killed_after}", **KEYS, keep_best=True, early_stopping=3)
    folder = path.with_suffix("")
    kept = {f"step-{step:08d}" for step in (4, killed_after)}
    later = shutil.ignore_patterns(
        "model", *(f"step-{step:08d}" for step in range(13) if f"step-{step:08d}" not in kept)
    )
    shutil.copytree(straight, folder, ignore=later)
    (folder / "run.yaml").write_text(load_run(path).to_yaml())
    summary = train(path, ranks)
    assert (summary["steps"], summary["best_step"]) == (10, 4)
    assert same(weights(folder), weights(straight, 4))
    found = [row["eval_accuracy"] for row in read_metrics(folder / "metrics.jsonl") if "eval_accuracy" in row]
    assert found == [0.5, 0.7, 0.6, 0.7, 0.4]


def test_an_older_checkpoint_has_the_best_accuracy_under_its_old_name():
    state = TrainerState.of(4, {"best_accuracy": 0.7, "best_step": 2, "not_better": 1})
    assert not state.record_evaluation(0.7) and not state.record_evaluation(float("nan"))
    assert (state.best_step, state.not_better) == (2, 3)
    assert state.record_evaluation(0.71) and "best_accuracy" not in state.to_json()
