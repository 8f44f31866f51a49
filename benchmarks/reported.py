"""The speed of training as each program reports it: `train_samples_per_second` of the Trainer, `pairs_per_second` of
`bertnli train`. It is the second way to measure what `training` measures from outside, between steps.

Each run is a process of its own, alone on the machine, and trains once on the same rows; the peers take turns.
"""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.harness import Say, spread
from benchmarks.peer import Unavailable
from benchmarks.peers.bertnli_train import train
from benchmarks.peers.transformers_trainer import TransformersTrainer
from benchmarks.sets import OURS
from benchmarks.work import Work
from bertnli.common.errors import InputError

BATCH = 32
PAIRS = 1920


def reported(folder: Path, model: str, data: str, pairs: int, rounds: int, say: Say) -> dict[str, Any]:
    """Train on `pairs` rows `rounds` times with each. Raises InputError if the Trainer cannot run."""
    given = work.training(folder, model, data, pairs, BATCH)
    trainers = [TransformersTrainer(given), TransformersTrainer(given, best=True)]
    rates: dict[str, list[float]] = {name: [] for name in (*(one.name for one in trainers), OURS)}
    for number in range(rounds):
        for trainer in trainers:
            rates[trainer.name].append(_trainer(trainer))
        rates[OURS].append(_bertnli(given))
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{name} {each[-1]:.4g}" for name, each in rates.items()))
    peers = [_row(trainer.name, trainer.about, trainer.options(), rates) for trainer in trainers]
    return {
        "name": f"reported-{BATCH}",
        "kind": "reported",
        **machine.describe(),
        "work": given.to_json(data),
        "rounds": rounds,
        "peers": [*peers, _row(OURS, "bertnli, ZeRO-0", _run_file(given), rates)],
    }


def _row(name: str, about: str, options: dict[str, Any], rates: dict[str, list[float]]) -> dict[str, Any]:
    mine, ours = rates[name], rates[OURS]
    options = {key: value for key, value in options.items() if key not in ("model", "data", "output")}
    row = {"name": name, "about": about, "options": options, "unit": "pairs", "runs": mine, "per_second": spread(mine)}
    if name != OURS:
        row[f"{OURS}_over_it"] = spread([a / b for a, b in zip(ours, mine, strict=True)])
    return row


def _run_file(given: Work) -> dict[str, Any]:
    return {
        "model": str(given.model),
        "data": {"train": str(given.rows)},
        "output": str(given.folder / OURS),
        "epochs": 1,
        "global_batch_size": given.batch_size,
        "learning_rate": given.learning_rate,
        "schedule": "constant",
        "warmup": 0.0,
        "report_to": "none",
    }


def _bertnli(given: Work) -> float:
    run_file = _run_file(given)
    shutil.rmtree(run_file["output"], ignore_errors=True)
    return float(train(run_file)["pairs_per_second"])


def _trainer(peer: TransformersTrainer) -> float:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_train_with_trainer, peer).result()
        except Unavailable as error:
            raise InputError(
                "benchmarks reported", found=str(error), do="install it: without it there is nothing to compare"
            ) from None


def _train_with_trainer(peer: TransformersTrainer) -> float:
    peer.prepare()
    found = peer.trainer(num_train_epochs=1, disable_tqdm=True).train()
    return float(found.metrics["train_samples_per_second"])
