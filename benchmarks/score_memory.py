"""Memory of `bertnli score` against the number of rows: the file must be streamed, not collected in memory.

The model is tiny and random, so the memory is the pipeline's and rows are fast. Memory is counted as in `memory`.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from benchmarks import machine, work
from benchmarks.harness import Say
from benchmarks.memory import Peak, mib
from benchmarks.peers.bertnli_score import BertnliScore
from benchmarks.start_up import score_command
from benchmarks.work import Work
from benchmarks.worker import end_children
from bertnli.common.errors import RunError

TINY = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 64}


def score_memory(folder: Path, model: str, data: str, sizes: Sequence[int], say: Say) -> dict[str, Any]:
    """Score each number of rows in `sizes`: those of `data`, repeated."""
    given = work.scoring(folder, str(work.random_model(folder, model, TINY)), data, 10_000)
    BertnliScore(given).load()
    bundle = folder / "bundle-fp32"
    model_bytes = (bundle / "model.onnx").stat().st_size
    found = []
    for rows in sizes:
        say(f"{rows:,} rows")
        file, out = write_rows(given, rows, folder / f"rows-{rows}.tsv"), folder / f"scores-{rows}.tsv"
        one = {"rows": rows, "file_mib": mib(file.stat().st_size), **watched(score_command(bundle, file, out), out)}
        found.append(one | {"above_model_mib": round(one["peak_mib"]["rss"] - model_bytes / 2**20, 1)})
        for path in (file, out):
            path.unlink()
    small, large = found[0]["peak_mib"], found[-1]["peak_mib"]
    return {
        "name": "score-memory",
        "kind": "score-memory",
        **machine.describe(),
        "work": {"rows_from": data, "rows": max(sizes), "batch_size": 0, "model": {"random": TINY}},
        "model_mib": mib(model_bytes),
        "sizes": found,
        "growth": {kind: large[kind] / small[kind] for kind in large},
    }


def write_rows(given: Work, count: int, path: Path) -> Path:
    rows = [f"{row['sentence1']}\t{row['sentence2']}\n" for row in given.read()]
    with path.open("w", encoding="utf-8") as file:
        file.write("premise\thypothesis\n")
        file.writelines(islice(cycle(rows), count))
    return path


def watched(command: list[str], out: Path) -> dict[str, Any]:
    """Run it to its end; returns its peak, and the seconds until the partial output has its first bytes."""
    from bertnli_export.output_file import partial_path

    log, partial, peak = out.with_suffix(".log"), partial_path(out), Peak()
    began, first_bytes = time.perf_counter(), None
    with log.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            while process.poll() is None:
                if first_bytes is None and _size(partial):
                    first_bytes = time.perf_counter() - began
                peak.look(process.pid, time.perf_counter() - began)
            assert process.stdout is not None
            printed = process.stdout.read().decode()
        finally:
            if process.poll() is None:
                end_children(process.pid)
                process.kill()
    if process.returncode:
        raise RunError(f"bertnli score ended with exit code {process.returncode}", found=log.read_text()[-500:])
    summary = json.loads(printed.splitlines()[-1])
    return {
        "seconds_to_first_bytes": None if first_bytes is None else round(first_bytes, 2),
        "seconds": round(time.perf_counter() - began, 2),
        "rows_written": summary["rows"],
        "pairs_per_second": summary["pairs_per_second"],
        "peak_mib": peak.to_json(),
    }


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
