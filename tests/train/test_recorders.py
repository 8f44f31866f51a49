"""report_to: tags and runs in TensorBoard, Weights & Biases and MLflow; a failure there is a warning."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertnli.common.errors import InputError, Interrupted
from bertnli.run.folder import RunFolder, read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from bertnli.train import recorders, setup
from bertnli.train.recorders import Recorders, tag
from tests.conftest import ROOT
from tests.support.runs import losses, on_ranks, train, train_here


class Library:
    """Stands for wandb and for mlflow: what they are told of each run, by its id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.fails: set[str] = set()
        self.current = ""
        self.Settings = SimpleNamespace

    def _begin(self, known: str | None, **about: Any) -> str:
        self._check("start")
        self.current = known or f"run-{len(self.runs)}"
        run = self.runs.setdefault(self.current, {"points": [], "starts": [], "ends": [], "params": []})
        run["starts"].append(about)
        return self.current

    def _check(self, what: str) -> None:
        if what in self.fails:
            raise ConnectionError(f"no server\nto {what}")

    def _add(self, step: int, tags: dict[str, float]) -> None:
        self._check("add")
        self.runs[self.current]["points"].append((step, tags))

    # wandb
    def init(self, *, id: str | None, resume: str, **about: Any) -> Any:
        assert resume == "allow"
        self._begin(id, **about)
        return SimpleNamespace(
            id=self.current,
            define_metric=lambda *names, **options: None,
            log=lambda tags: self._add(tags.pop("train/global_step"), tags),
            finish=lambda exit_code: self._end(exit_code),
        )

    def _end(self, how: Any) -> None:
        self._check("end")
        self.runs[self.current]["ends"].append(how)

    # mlflow
    def start_run(self, *, run_id: str | None = None, run_name: str | None = None) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=self._begin(run_id, name=run_name)))

    def log_params(self, params: dict[str, str]) -> None:
        self.runs[self.current]["params"].append(params)

    def log_metrics(self, tags: dict[str, float], step: int) -> None:
        self._add(step, tags)

    end_run = _end


@pytest.fixture(params=["wandb", "mlflow"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Library]:
    found = Library()
    monkeypatch.setitem(sys.modules, request.param, found)
    monkeypatch.setattr(setup, "check_installed", lambda config: None)
    for name in ("WANDB_RUN_ID", "WANDB_NAME", "MLFLOW_RUN_ID", "MLFLOW_RUN_NAME"):
        monkeypatch.delenv(name, raising=False)
    return request.param, found


def test_tags_are_the_trainers() -> None:
    names = ["loss", "learning_rate", "eval_loss", "eval_accuracy", "pairs_per_second"]
    assert [*map(tag, names)] == [
        *("train/loss", "train/learning_rate", "eval/loss", "eval/accuracy", "train/pairs_per_second")
    ]


def test_a_run_that_goes_on_is_the_same_run_there(tmp_path, run, ranks, library, monkeypatch):
    name, there = library
    path = run(report_to=[name], max_steps=6, eval_every_steps=3, checkpoint={"every_steps": 2})

    def stopped(*arguments: Any) -> None:
        raise Interrupted(15, "stopped")

    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(training, "evaluate", stopped)
        train(path, ranks)
    train(path, ranks)
    [found] = there.runs.values()
    assert [step for step, tags in found["points"] if "train/loss" in tags] == [1, 2, 3, 3, 4, 5, 6]
    assert [step for step, tags in found["points"] if {"eval/accuracy", "eval/loss"} <= tags.keys()] == [3, 6]
    by_step = {step: tags["train/loss"] for step, tags in found["points"] if "train/loss" in tags}
    assert [*by_step.values()] == losses(tmp_path / "run")
    assert found["ends"] == {"wandb": [1, 0], "mlflow": ["KILLED", "FINISHED"]}[name]
    assert found["starts"][0]["name"] == "run" and len(found["starts"]) == 2
    if name == "wandb":
        assert found["starts"][0]["config"]["global_batch_size"] == 16
        assert found["starts"][0]["dir"] == str(tmp_path / "run")
    else:
        [params] = found["params"]  # not again, because it refuses another value
        assert json.loads(params["global_batch_size"]) == 16
    assert json.loads((tmp_path / "run" / "report_to.json").read_text()) == {name: "run-0"}


@pytest.mark.parametrize("fails", ["add", "end"])
def test_a_failure_later_is_one_warning(tmp_path, run, ranks, library, fails):
    name, there = library
    there.fails = {fails}
    lines: list[str] = []
    training.train(load_run(run(report_to=name, max_steps=5)), ranks, lines.append)
    [warning] = [line for line in lines if "warning" in line]
    assert warning == (
        f"warning: {name}: ConnectionError: no server; the run goes on, and metrics.jsonl has all metrics"
    )
    assert len([row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "loss" in row]) == 5


def test_a_failure_at_the_start_ends_a_new_run_and_not_one_that_goes_on(tmp_path, run, library):
    name, there = library
    folder, config = RunFolder(tmp_path / "run"), load_run(run(report_to=["tensorboard", name]))
    folder.claim(config)
    there.fails = {"start"}
    with pytest.raises(InputError, match=f"report_to: {name} cannot be started; found ConnectionError: no server; set"):
        Recorders(config, folder, 0, print)
    lines: list[str] = []
    Recorders(config, folder, 3, lines.append).end(finished=True)
    [line] = lines
    assert "cannot be started" in line and line.endswith("the run goes on, and metrics.jsonl has all metrics")


def test_a_server_that_does_not_answer_holds_nothing_up(tmp_path, run, library, monkeypatch):
    name, there = library
    monkeypatch.setattr(recorders, "_HURRY", 0.2)
    folder, config, lines, over = RunFolder(tmp_path / "run"), load_run(run(report_to=name)), [], threading.Event()
    folder.claim(config)
    monkeypatch.setattr(there, "_add", lambda step, tags: over.wait(30))
    found = Recorders(config, folder, 0, lines.append)
    for step in range(100):
        found.add(step, {"loss": 1.0})
    found.end(finished=False)
    over.set()
    assert lines == [f"warning: {name}: does not answer; its last metrics are in metrics.jsonl alone"]
    monkeypatch.setattr(recorders, "_START", 0.2)
    monkeypatch.setattr(there, "_begin", lambda *_, **__: threading.Event().wait(2))
    with pytest.raises(InputError, match=f"{name} cannot be started; found no answer in"):
        Recorders(config, folder, 0, print)


def recorded_here(path: Path) -> None:
    """A rank's training, in a process of its own; what it records goes to a file of the rank's number."""
    there = Library()
    sys.modules["wandb"] = there  # type: ignore[assignment]
    setup.check_installed = lambda config: None
    train_here(path)
    if there.runs:
        path.with_name(f"{os.environ['RANK']}.txt").write_text(str(there.runs))


@pytest.mark.system
def test_the_first_rank_records_alone(tmp_path, run):
    on_ranks(2, recorded_here, run(report_to="wandb", max_steps=3))
    [written] = tmp_path.glob("*.txt")
    assert written.name == "0.txt" and written.read_text().count("'train/loss'") == 3


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both libraries, and what MLflow needs to write into a file."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder)]
    libraries = ["wandb==0.31.0", "mlflow-skinny==3.17.2", "alembic", "sqlalchemy"]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), *libraries], check=True)
    return folder


@pytest.mark.system
@pytest.mark.timeout(600)  # it installs packages
@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_with_the_library_itself_a_run_goes_on(tmp_path, run, name, monkeypatch, site):
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    monkeypatch.setenv("PYTHONPATH", str(site))  # for the processes that they start
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder, config, lines = RunFolder(tmp_path / "run"), load_run(run(report_to=name)), list[str]()
    folder.claim(config)
    for steps in (0, 2):
        begun = int(time.time())
        found = Recorders(config, folder, steps, lines.append)
        found.add(steps + 1, {"loss": 0.5, "eval_accuracy": 0.75, "eval_accuracy/my café (1).csv": 0.25})
        found.end(finished=steps > 0)
        while int(time.time()) == begun:  # wandb names the folder of a start by its second
            time.sleep(0.05)
    assert lines == []
    known = json.loads((folder.path / "report_to.json").read_text())[name]
    if name == "wandb":
        assert len([*folder.path.glob(f"wandb/offline-run-*-{known}/run-{known}.wandb")]) == 2
        return
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store:
        assert store.execute("select run_uuid, name, status from runs").fetchall() == [(known, "run", "FINISHED")]
        points = store.execute("select key, step, value from metrics order by key, step").fetchall()
    figures = {"eval/accuracy": 0.75, "eval/accuracy/my caf_ _1_.csv": 0.25, "train/loss": 0.5}
    assert points == [(key, step, value) for key, value in figures.items() for step in (1, 3)]
