"""How cost grows: time and memory of training and scoring against rows and processes, and time against length.

Each command is run whole, as a user runs it, from its start to its end; memory is counted as in `memory`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, memory, score_memory, work
from benchmarks.harness import Say, spread, stopwatch
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.start_up import score_command

PROCESSES = (1, 2)
LENGTHS = (8, 16, 32, 64, 128)
_TOKENS = 16_384  # scored for each length, in whole pairs
_BATCH = 256


def growth(
    folder: Path, model: str, data: str, sizes: Mapping[str, Sequence[int]], rounds: int, say: Say
) -> dict[str, Any]:
    """sizes: the numbers of rows of `training` and of `scoring`. Training is one epoch on the first rows of `data`."""
    given = work.scoring(folder, model, data, 10_000)
    BertnliScore(given).load()
    bundle = folder / "bundle-fp32"
    scoring = []
    for rows in sizes["scoring"]:
        file, out = score_memory.write_rows(given, rows, folder / f"rows-{rows}.tsv"), folder / "scores.tsv"
        for processes in PROCESSES:
            say(f"scoring {rows:,} rows, {processes} processes")
            command = [*score_command(bundle, file, out), "--restart", "--workers", str(processes)]
            scoring.append({"rows": rows, "processes": processes, **score_memory.watched(command, out)})
    return {
        "name": "growth",
        "kind": "growth",
        **machine.describe(),
        "work": {"rows_from": data, "rows": max(map(max, sizes.values())), "batch_size": _BATCH},
        "scoring": scoring,
        "training": _training(folder, given.model, data, sizes["training"], say),
        "lengths": _lengths(bundle, rounds, say),
    }


def _training(folder: Path, model: Path, data: str, sizes: Sequence[int], say: Say) -> list[dict[str, Any]]:
    from bertnli.fetch.resolve import resolve
    from bertnli.model import pretrained

    labels = pretrained.load(resolve(str(model), "model"), max_length=work.MAX_LENGTH).config.labels
    found = []
    for rows in sizes:
        file = memory.write_rows(data, labels, rows, folder / f"training-{rows}.jsonl")
        for processes in PROCESSES:
            say(f"training on {rows:,} rows, {processes} processes")
            output = folder / f"run-{rows}-{processes}"
            run_file = {
                "model": str(model),
                "data": {"train": str(file)},
                "output": str(output),
                "epochs": 1,
                "global_batch_size": _BATCH,
                "tensorboard": False,
            }
            one = memory.watched(run_file, folder / "cache", processes)
            found.append({"rows": rows, "processes": processes, **one, "peak_mib": one["peak_mib"]["whole"]})
            shutil.rmtree(output)
    return found


def _lengths(bundle: Path, rounds: int, say: Say) -> list[dict[str, Any]]:
    """Seconds a pair of each length, special tokens included; the lengths interleaved, after a round that is not
    counted."""
    from bertnli import Scorer

    scorer = Scorer(bundle)
    found: dict[int, list[float]] = {length: [] for length in LENGTHS}
    for number in range(rounds + 1):
        for length, seconds_each in found.items():
            words = length - 3  # [CLS], [SEP], [SEP]; "a" is one token in every vocabulary
            pair = (" ".join("a" * (words - words // 3)), " ".join("a" * (words // 3)))
            pairs = [pair] * (_TOKENS // length)
            with stopwatch() as seconds:
                scorer.score(pairs)
            if number:
                seconds_each.append(seconds() / len(pairs))
        say(f"lengths, round {number} of {rounds}")
    return [{"tokens": length, "seconds_a_pair": spread(each)} for length, each in found.items()]
