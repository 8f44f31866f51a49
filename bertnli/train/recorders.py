"""Where the metrics of a run go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow (`report_to`).

Tags are those of transformers' Trainer: `train/loss`, `train/learning_rate`, `eval/accuracy`. Each library decides by
its own environment variables and login which server and project it writes to. A thread of ours calls it, so that
training never waits for a server; and what fails after the start is a warning, because metrics.jsonl has everything.
"""

from __future__ import annotations

import json
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from bertnli.common import heartbeat
from bertnli.common.errors import InputError, first_line
from bertnli.common.files import write_text
from bertnli.run.config import RunConfig
from bertnli.run.folder import RunFolder

_START = 120.0  # seconds; wandb itself gives up after 90
_PATIENCE = 60.0  # seconds; how long the end of a run waits for what is not written yet
_HURRY = 10.0  # the same if a signal or an error ends it


class Recorder(Protocol):
    """One library. Its methods raise whatever the library raises."""

    def add(self, step: int, tags: Mapping[str, float]) -> None: ...

    def end(self, finished: bool) -> None:
        """finished: False if a signal or an error has ended the run, which may go on later."""


def tag(name: str) -> str:
    """The Trainer's name for a metric of metrics.jsonl: `eval/loss` for `eval_loss`, `train/loss` for `loss`."""
    return f"eval/{name[5:]}" if name.startswith("eval_") else f"train/{name}"


class TensorBoard:
    """Files in the run's folder. steps: done so far; later ones, of before a kill, are hidden."""

    def __init__(self, config: RunConfig, folder: RunFolder, steps: int):
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=steps + 1)

    def add(self, step: int, tags: Mapping[str, float]) -> None:
        for name, value in tags.items():
            self._writer.add_scalar(name, value, step)

    def end(self, finished: bool) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases. A run that goes on keeps its id, which the run's folder has, or WANDB_RUN_ID."""

    def __init__(self, config: RunConfig, folder: RunFolder, steps: int):
        wandb = import_module("wandb")
        self._run = wandb.init(
            id=os.environ.get("WANDB_RUN_ID") or _known(folder).get("wandb"),
            resume="allow",
            name=os.environ.get("WANDB_NAME") or folder.path.absolute().name,
            dir=str(folder.path),
            config=config.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),  # standard output stays as it is
        )
        _keep(folder, "wandb", self._run.id)
        # After a kill some steps come again. wandb drops a step that is not the next one; so it is a metric, as in the
        # Trainer.
        self._run.define_metric("*", step_metric="train/global_step", step_sync=True)

    def add(self, step: int, tags: Mapping[str, float]) -> None:
        self._run.log({**tags, "train/global_step": step})

    def end(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Mlflow:
    """A run of MLflow's tracking. A run that goes on keeps its id, which the run's folder has, or MLFLOW_RUN_ID."""

    def __init__(self, config: RunConfig, folder: RunFolder, steps: int):
        self._mlflow = mlflow = import_module("mlflow")
        known = os.environ.get("MLFLOW_RUN_ID") or _known(folder).get("mlflow")
        name = os.environ.get("MLFLOW_RUN_NAME") or folder.path.absolute().name
        run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=name)
        _keep(folder, "mlflow", run.info.run_id)
        if not known:  # MLflow refuses another value, which a run that goes on may have (report_to, checkpoint)
            settings = config.model_dump(mode="json")
            mlflow.log_params({key: json.dumps(value)[:500] for key, value in settings.items()})

    def add(self, step: int, tags: Mapping[str, float]) -> None:
        # It refuses names with other characters, which a data set's name may have: `eval/accuracy/café.csv`.
        named = {re.sub(r"[^\w .:/-]", "_", name, flags=re.ASCII): value for name, value in tags.items()}
        self._mlflow.log_metrics(named, step=step)

    def end(self, finished: bool) -> None:
        self._mlflow.end_run("FINISHED" if finished else "KILLED")


_RECORDERS: dict[str, Callable[[RunConfig, RunFolder, int], Recorder]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "mlflow": Mlflow,
}


class Background:
    """A recorder in a thread of its own, which makes it, too: MLflow keeps the current run of each thread.

    Raises InputError if it cannot be made. `warn` is told once of what fails later.
    """

    def __init__(self, name: str, make: Callable[[], Recorder], warn: Callable[[str], None]):
        self._name, self._make, self._warn = name, make, warn
        self._pending: queue.SimpleQueue[tuple[int, Mapping[str, float]] | bool] = queue.SimpleQueue()
        self._made = threading.Event()
        self._error: Exception | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._run, name=f"report to {name}", daemon=True)
        self._thread.start()
        with heartbeat.periodic(f"starting {name}"):
            made = self._made.wait(_START)
        if self._error is not None or not made:
            raise InputError(
                f"report_to: {name} cannot be started",
                found=_told(self._error) if made else f"no answer in {_START:.0f} s",
                do=f"set it up, as {name}'s own documentation says, or remove it from report_to",
            )

    def _run(self) -> None:
        try:
            recorder = self._make()
        except Exception as error:
            self._error = error
            return
        finally:
            self._made.set()
        while not isinstance(given := self._pending.get(), bool):
            self._try(recorder.add, *given)
        self._try(recorder.end, given)

    def _try(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            write(*arguments)
        except Exception as error:
            if not self._failed:
                self._failed = True
                self._warn(f"warning: {self._name}: {_told(error)}; the run goes on, and metrics.jsonl has all metrics")

    def add(self, step: int, tags: Mapping[str, float]) -> None:
        self._pending.put((step, tags))

    def end(self, finished: bool) -> None:
        self._pending.put(finished)

    def join(self, until: float) -> None:
        """Wait for what is not written yet, until that time of time.monotonic()."""
        with heartbeat.periodic(f"waiting for {self._name}"):
            self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive() and not self._failed:
            self._warn(f"warning: {self._name}: does not answer; its last metrics are in metrics.jsonl alone")


class Recorders:
    """All that `report_to` names, on the rank that records."""

    def __init__(self, config: RunConfig, folder: RunFolder, steps: int, warn: Callable[[str], None]):
        """steps: optimizer steps done already. Raises InputError for one that cannot be started; for a run that goes
        on, perhaps restarted where nobody looks, that is a warning."""
        self._started: list[Background] = []
        for name in config.report_to:
            kind = _RECORDERS[name]
            try:
                self._started.append(Background(name, partial(kind, config, folder, steps), warn))
            except InputError as error:
                if not steps:
                    self.end(finished=False)
                    raise
                warn(f"warning: {error}; the run goes on, and metrics.jsonl has all metrics")

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """figures: by their names in metrics.jsonl."""
        tags = {tag(name): value for name, value in figures.items()}
        for one in self._started:
            one.add(step, tags)

    def end(self, finished: bool) -> None:
        """Write what is left. The second call does nothing."""
        ending, self._started = self._started, []
        for one in ending:
            one.end(finished)
        until = time.monotonic() + (_PATIENCE if finished else _HURRY)
        for one in ending:
            one.join(until)


def _told(error: Exception | None) -> str:
    return f"{type(error).__name__}: {first_line(error)}" if error is not None else ""


def _ids(folder: RunFolder) -> Path:
    return folder.path / "report_to.json"


def _known(folder: RunFolder) -> dict[str, str]:
    """Name of a library -> the id of this run there, of before it was stopped."""
    try:
        found = json.loads(_ids(folder).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(folder: RunFolder, name: str, run_id: str) -> None:
    known = _known(folder)
    if known.get(name) != run_id:
        write_text(_ids(folder), json.dumps({**known, name: run_id}))
