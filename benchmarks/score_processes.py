"""CPU time of the processes of `bertnli score` for each pair, when the model takes none.

One main process feeds the workers of all devices, so its rate bounds them together; a worker's rate bounds one device.
The model is tiny and random, and the workers' sessions answer at once (stub_scoring_worker.py). Chunks are those of a
GPU. CPU time depends little on what else the machine does.
"""

from __future__ import annotations

import csv
import gc
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil  # type: ignore[import-untyped]

from benchmarks import machine, work
from benchmarks.harness import Say
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.score_memory import TINY
from benchmarks.work import Work

FORMATS = ("jsonl", "tsv", "csv", "parquet")
ROWS = 25 * 8192
_WORKERS = 2


def score_processes(folder: Path, model: str, data: str, rows: int, say: Say) -> dict[str, Any]:
    """Score `rows` rows, those of `data` repeated, in each format."""
    given = work.scoring(folder, str(work.random_model(folder, model, TINY)), data, 10_000)
    BertnliScore(given).load()
    found = []
    for kind in FORMATS:
        say(f"{rows:,} rows of {kind}")
        file = write_rows(given, rows, folder / f"rows.{kind}")
        found.append({"format": kind, **cpu_seconds(folder / "bundle-fp32", file, folder / f"scores.{kind}")})
        file.unlink()
    return {
        "name": "score-processes",
        "kind": "score-processes",
        **machine.describe(),
        "work": {"rows_from": data, "rows": rows, "batch_size": 0, "model": {"random": TINY}},
        "workers": _WORKERS,
        "formats": found,
    }


def cpu_seconds(bundle: Path, rows: Path, out: Path) -> dict[str, float]:
    """CPU seconds for a million pairs, of this process and of all workers, between the first chunk and the last."""
    from bertnli_export import pool
    from bertnli_export.score import score_file
    from bertnli_export.scorer import CHUNK

    marks: list[tuple[int, float, float]] = []

    def mark(done: int, note: str) -> None:
        children = sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children())
        marks.append((done, time.process_time(), children))

    with (
        patch.object(pool, "_WORKER", "benchmarks.stub_scoring_worker"),
        patch.dict(CHUNK, cpu=CHUNK["cuda"]),
    ):
        # The garbage collector would walk through torch, which the benchmark has loaded and the command has not.
        gc.collect()
        gc.freeze()
        score_file(bundle, rows, out, device="cpu", workers=_WORKERS, restart=True, progress=mark)
        gc.unfreeze()
    out.unlink()
    pairs, main, workers = (last - first for first, last in zip(marks[0], marks[-1], strict=True))
    return {
        "main_seconds": 1e6 * main / pairs,
        "worker_seconds": 1e6 * workers / pairs,
        "main_pairs_per_second": pairs / main,
    }


def write_rows(given: Work, count: int, path: Path) -> Path:
    """The rows of `given`, repeated, in the format that the name of `path` says."""
    rows = list(islice(cycle(given.read()), count))
    names = list(rows[0])
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        with given.rows.open(encoding="utf-8") as source, path.open("w", encoding="utf-8") as file:
            file.writelines(islice(cycle(list(source)), count))
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix == ".tsv":
                file.writelines("\t".join(cells) + "\n" for cells in [names, *map(dict.values, rows)])
            else:
                csv.writer(file, lineterminator="\n").writerows([names, *map(dict.values, rows)])
    return path
