"""Accuracy of `bertnli train` and of the transformers Trainer after the same pairs, measured by `bertnli eval`.

For each seed both start from the same model folder, classifier included, and see the same rows once, in batches of the
same size with the same schedule. They differ in how they batch and how they compute.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.harness import Say
from benchmarks.peer import Unavailable, stopwatch
from benchmarks.peers.bertnli_train import train
from benchmarks.peers.transformers_trainer import TransformersTrainer
from benchmarks.work import Work
from bertnli.common.errors import InputError, RunError

BATCH_SIZE = 32
SETTINGS = {"learning_rate": 1e-4, "warmup": 0.1, "schedule": "linear", "weight_decay": 0.01, "precision": "bf16"}


def accuracy(
    folder: Path, model: str, data: str, test: str, pairs: int, seeds: Sequence[int], say: Say
) -> dict[str, Any]:
    """Train both on `pairs` rows of `data` for each seed, and evaluate them on all of `test`."""
    runs, given = [], None
    for seed in seeds:
        place = folder / f"seed-{seed}"
        place.mkdir()
        given = work.sample(place, model, data, pairs, BATCH_SIZE, seed)
        for name, training in (("bertnli", _bertnli), ("trainer-best", _trainer)):
            with stopwatch() as seconds:
                trained = training(given, seed)
            found = evaluate(trained, test)
            say(f"seed {seed}, {name}: accuracy {found['accuracy']:.4f}")
            run = {"how": name, "seed": seed, "accuracy": found["accuracy"], "rows": found["rows"]}
            runs.append(run | {"seconds": round(seconds(), 1)})
    assert given is not None
    means = {
        how: statistics.fmean(run["accuracy"] for run in runs if run["how"] == how)
        for how in dict.fromkeys(run["how"] for run in runs)
    }
    return {
        "name": "accuracy",
        "kind": "accuracy",
        **machine.describe(),
        "work": given.to_json(data) | {"test": test, "seeds": list(seeds)},
        "options": {**SETTINGS, "trainer": TransformersTrainer(given, best=True).options() | _trainer_settings(0)},
        "runs": runs,
        "mean": means,
        "points_over_trainer": 100 * (means["bertnli"] - means["trainer-best"]),
    }


def evaluate(model: Path, data: str, *options: str) -> dict[str, Any]:
    """What `bertnli eval MODEL DATA --json` prints, with more options."""
    script = "from bertnli.cli import main; main()"
    command = [sys.executable, "-c", script, "eval", str(model), data, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"bertnli eval ended with exit code {done.returncode}", found=done.stderr[-500:])
    return json.loads(done.stdout.splitlines()[-1])


def _bertnli(given: Work, seed: int) -> Path:
    output = given.folder / "bertnli"
    run_file = {
        "model": str(given.model),
        "data": {"train": str(given.rows)},
        "output": str(output),
        "epochs": 1,
        "global_batch_size": given.batch_size,
        "seed": seed,
        **SETTINGS,
    }
    train(run_file)
    return output / "model"


def _trainer(given: Work, seed: int) -> Path:
    """In a process of its own, so that one run leaves nothing in the next."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_train_with_trainer, given, seed).result()
        except Unavailable as error:
            raise InputError(
                "benchmarks accuracy", found=str(error), do="install it: without it there is nothing to compare"
            ) from None


def _train_with_trainer(given: Work, seed: int) -> Path:
    peer = TransformersTrainer(given, best=True)
    peer.prepare()
    trainer = peer.trainer(**_trainer_settings(seed))
    trainer.train()
    path = given.folder / "trainer-model"
    trainer.save_model(str(path))
    return path


def _trainer_settings(seed: int) -> dict[str, Any]:
    """The differences from the timed Trainer: one epoch, with rows grouped by length by the Trainer itself."""
    return {
        "num_train_epochs": 1,
        "disable_tqdm": True,
        "seed": seed,
        "train_sampling_strategy": "group_by_length",
        "lr_scheduler_type": SETTINGS["schedule"],
        "warmup_steps": SETTINGS["warmup"],
        "learning_rate": SETTINGS["learning_rate"],
        "weight_decay": SETTINGS["weight_decay"],
    }
