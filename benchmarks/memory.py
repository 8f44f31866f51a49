"""Memory of `bertnli train` against the number of rows: the corpus must be mapped, not loaded.

Memory is sampled from outside, from start to end. A process's own pages and pages of mapped files are counted
separately: the latter are libraries and the corpus, which the system drops when it needs memory. A page that several
processes share is divided among them (Pss); otherwise a process that has just forked would count twice.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks import machine, work
from benchmarks.harness import Say
from benchmarks.peers.bertnli_train import started
from bertnli.common.errors import RunError

_GLANCE = 0.03  # least seconds between two samples
_SHARE = 0.02  # of a core's time that sampling may take: the kernel walks all pages of a process at each sample
_BATCH, _HOLDOUT = 256, 2000
STEPS = 30
"""Steps of 256 pairs from all over the corpus: after them nearly all of it has been read and stays mapped."""


def memory(folder: Path, model: str, data: str, sizes: Sequence[int], say: Say, steps: int = STEPS) -> dict[str, Any]:
    """Train a few steps on each number of rows in `sizes`: from an empty cache, and a second time."""
    path, source = work.model_folder(folder, model)
    found = []
    for rows in sizes:
        file = write_rows(data, source.config.labels, rows, folder / f"rows-{rows}.jsonl")
        cache = folder / f"cache-{rows}"
        one: dict[str, Any] = {"rows": rows, "file_mib": mib(file.stat().st_size), "starts": {}}
        for name in ("first", "second"):
            say(f"{rows:,} rows, {name} start")
            run_file = {
                "model": str(path),
                "data": {"train": str(file), "eval": {"holdout": min(_HOLDOUT, rows // 10)}},
                "output": str(folder / f"run-{rows}-{name}"),
                "max_steps": steps,
                "global_batch_size": _BATCH,
                "report_to": "none",
            }
            one["starts"][name] = watched(run_file, cache)
        one["corpus_mib"] = mib(sum(part.stat().st_size for part in cache.rglob("*") if part.is_file()))
        found.append(one)
    given = {"rows_from": data, "rows": max(sizes), "batch_size": _BATCH, "steps": steps}
    record = {"work": given, "sizes": found, "growth": _growth(found)}
    return {"name": "memory", "kind": "memory", **machine.describe(), **record}


def write_rows(data: str, labels: Sequence[str], count: int, path: Path) -> Path:
    """`count` labelled rows as JSON lines: those of `data`, then the same again with each sentence's words shuffled.

    So a file of any length has the lengths and labels of `data`, and different premises.
    """
    from bertnli.data.labelled import read_labelled
    from bertnli.data.pairs import PairFile
    from bertnli.fetch.resolve import resolve_data

    rows = list(read_labelled(PairFile(resolve_data(data)), labels))
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row, draw = rows[number % len(rows)], random.Random(number)
            texts = [row.premise, row.hypothesis]
            if number >= len(rows):
                texts = [" ".join(draw.sample(words, len(words))) for words in map(str.split, texts)]
            cells = dict(zip(("sentence1", "sentence2"), texts, strict=True))
            file.write(json.dumps({**cells, "gold_label": labels[row.label]}) + "\n")
    return path


@dataclass
class Peak:
    """The largest sum of the proportional set sizes (Pss) of some processes, in bytes, and of its two parts."""

    rss: int = 0
    own: int = 0
    mapped: int = 0

    def look(self, process: int, age: float) -> None:
        """Take one sample of `process` and its children, then sleep so long that sampling does not slow them down.

        age: seconds since the start. A young process is sampled more often, so that a short run's peak is not missed.
        """
        began = time.perf_counter()
        self._see(family(process))
        took = time.perf_counter() - began
        time.sleep(max(_GLANCE, min(took / _SHARE, age / 20)))

    def _see(self, processes: Sequence[int]) -> None:
        own = mapped = 0
        for pid in processes:
            pages = _sizes(pid, "smaps_rollup")
            own += pages.get("Pss_Anon", 0) + pages.get("Pss_Shmem", 0)
            mapped += pages.get("Pss_File", 0)
        self.rss, self.own, self.mapped = max(self.rss, own + mapped), max(self.own, own), max(self.mapped, mapped)

    def to_json(self) -> dict[str, float]:
        return {name: mib(value) for name, value in vars(self).items()}


def watched(run_file: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Run it to its end; returns the peaks before and after the first step and of the complete run, and the seconds.

    `kernel_rss_mib` is the kernel's own maximum of the main process (VmHWM), which misses nothing between two samples.
    (ru_maxrss, which a parent can read, starts with the parent's own value.)
    """
    output = Path(run_file["output"])
    log, metrics = output.with_suffix(".log"), output / "metrics.jsonl"
    peaks = {"before_steps": Peak(), "steps": Peak()}
    began, first_step, high_water = time.perf_counter(), None, 0
    environment = {"BERTNLI_CACHE": str(cache)}
    with log.open("wb") as stream, started(run_file, environment, stdout=stream, stderr=stream) as process:
        while process.poll() is None:
            if first_step is None and metrics.exists() and metrics.stat().st_size:
                first_step = time.perf_counter() - began
            high_water = max(high_water, _sizes(process.pid, "status").get("VmHWM", 0))
            peaks["before_steps" if first_step is None else "steps"].look(process.pid, time.perf_counter() - began)
    if process.returncode or first_step is None:
        raise RunError(f"bertnli train ended with exit code {process.returncode}", found=log.read_text()[-500:])
    before, after = peaks["before_steps"], peaks["steps"]
    whole = Peak(max(before.rss, after.rss), max(before.own, after.own), max(before.mapped, after.mapped))
    return {
        "seconds_to_first_step": round(first_step, 2),
        "seconds": round(time.perf_counter() - began, 2),
        "kernel_rss_mib": mib(high_water),
        "peak_mib": {"whole": whole.to_json(), **{name: peak.to_json() for name, peak in peaks.items()}},
    }


def _growth(sizes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Every peak at the largest size, divided by the same peak at the smallest."""
    small, large = sizes[0]["starts"], sizes[-1]["starts"]
    return {
        start: {
            "kernel_rss": large[start]["kernel_rss_mib"] / small[start]["kernel_rss_mib"],
            **{
                part: {kind: value / small[start]["peak_mib"][part][kind] for kind, value in peak.items()}
                for part, peak in large[start]["peak_mib"].items()
            },
        }
        for start in large
    }


def family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def _sizes(pid: int, file: str) -> dict[str, int]:
    """The sizes in one of a process's files under /proc, in bytes (Linux, proc(5)); empty if the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def mib(size: float) -> float:
    return round(size / 2**20, 1)
