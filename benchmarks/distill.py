"""A large model teaches a small one: every second block of MiniLM, with and without the whole model as its teacher.

The teacher has learned from more pairs than the students, as one has that was made before. The two students of a seed
differ in `teacher:` alone. Training, export and scoring are the commands that a user gives.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.accuracy import evaluate
from benchmarks.evidence import exported
from benchmarks.harness import Say
from benchmarks.peers.bertnli_train import train
from benchmarks.start_up import score_command
from bertnli.common.errors import RunError

BATCH_SIZE = 32
SETTINGS = {"learning_rate": 1e-4, "global_batch_size": BATCH_SIZE, "report_to": "none"}
TEACHER = {"epochs": 1, "seed": 0}
TEACHER_PAIRS = 4  # for each pair of the students
STUDENT = {"epochs": 3, "keep_layers": [1, 3, 5]}
TAUGHT = {"temperature": 2.0, "mix": 0.9}
PRECISIONS = ("fp32", "int8")


def distill(
    folder: Path, model: str, data: str, test: str, pairs: int, seeds: Sequence[int], rounds: int, say: Say
) -> dict[str, Any]:
    """Train the teacher on TEACHER_PAIRS times `pairs` rows of `data`, and each student on the same `pairs` rows.
    Evaluate on all of `test`, and score it `rounds` times with the teacher and a student in turn."""
    given = work.sample(folder, model, data, pairs, BATCH_SIZE, seed=0)
    base = {"model": str(given.model), "data": {"train": str(given.rows)}, **SETTINGS}
    for_teacher = {"train": data, "max_train_pairs": TEACHER_PAIRS * pairs}
    say(f"training the teacher on {TEACHER_PAIRS * pairs:,} pairs")
    train({**base, "data": for_teacher, **TEACHER, "output": str(folder / "teacher")})
    models = {"teacher": folder / "teacher" / "model"}
    runs = [{"how": "teacher", "seed": 0, "accuracy": evaluate(models["teacher"], test)["accuracy"]}]
    for seed in seeds:
        for how, taught in (("taught", {"teacher": {"model": str(models["teacher"]), **TAUGHT}}), ("alone", {})):
            output = folder / f"{how}-{seed}"
            train({**base, **STUDENT, **taught, "seed": seed, "output": str(output)})
            models.setdefault(how, output / "model")
            runs.append({"how": how, "seed": seed, "accuracy": evaluate(output / "model", test)["accuracy"]})
            say(f"seed {seed}, {how}: accuracy {runs[-1]['accuracy']:.4f}")
    means = {
        how: statistics.fmean(run["accuracy"] for run in runs if run["how"] == how)
        for how in ("teacher", "taught", "alone")
    }
    rates = {one: _scoring(folder, models, given.rows, one, rounds, say) for one in PRECISIONS}
    return {
        "name": "distill",
        "kind": "distill",
        **machine.describe(),
        "work": given.to_json(data) | {"test": test, "seeds": list(seeds)},
        "options": {
            **SETTINGS,
            "teacher": TEACHER | {"max_train_pairs": TEACHER_PAIRS * pairs},
            "student": STUDENT,
            "taught": TAUGHT,
        },
        "runs": runs,
        "mean": means,
        "points_over_alone": 100 * (means["taught"] - means["alone"]),
        "scoring": rates,
        "speed_up": {precision: _speed_up(rate) for precision, rate in rates.items()},
    }


def _scoring(
    folder: Path, models: dict[str, Path], rows: Path, precision: str, rounds: int, say: Say
) -> dict[str, list[float]]:
    """Pairs per second of `bertnli score` in each round, for the teacher and the taught student in turn."""
    bundles = {
        how: exported(models[how], folder / f"bundle-{how}-{precision}", precision) for how in ("teacher", "taught")
    }
    rates: dict[str, list[float]] = {how: [] for how in bundles}
    for _ in range(rounds):
        for how, bundle in bundles.items():
            command = score_command(bundle, rows, folder / f"scores-{how}.jsonl")
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RunError(f"bertnli score ended with exit code {done.returncode}", found=done.stderr[-500:])
            rates[how].append(json.loads(done.stdout.splitlines()[-1])["pairs_per_second"])
    say(f"{precision}: {', '.join(f'{how} {statistics.median(rate):,.0f} pairs/s' for how, rate in rates.items())}")
    return rates


def _speed_up(rates: dict[str, list[float]]) -> float:
    """How many times as fast the student scores: the median of the rounds."""
    return statistics.median(mine / its for mine, its in zip(rates["taught"], rates["teacher"], strict=True))
