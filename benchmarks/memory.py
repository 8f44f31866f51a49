"""Memory of `bertnli train` against the number of rows it trains on: the corpus is to be mapped, not loaded.

Memory is looked at from outside, from start to end, a process's own pages and those of mapped files apart: the latter
are libraries and the corpus, which the system drops when it needs the room. A page that processes share is divided
among them (Pss): one that has just forked a helper would count twice.
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

_GLANCE = 0.03  # seconds between two looks, at the least
_SHARE = 0.02  # of a core's time that looking may take: the kernel walks all pages of a process at each look
_BATCH, _HOLDOUT = 256, 2000
STEPS = 30
"""Of 256 pairs, drawn from all of the corpus: by then about every stretch of it has been touched and stays mapped."""


def memory(folder: Path, model: str, data: str, sizes: Sequence[int], say: Say, steps: int = STEPS) -> dict[str, Any]:
    """Train a few steps on as many rows as each of `sizes` says: from an empty cache, and a second time."""
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
                "tensorboard": False,
            }
            one["starts"][name] = watched(run_file, cache)
        one["corpus_mib"] = mib(sum(part.stat().st_size for part in cache.rglob("*") if part.is_file()))
        found.append(one)
    given = {"rows_from": data, "rows": max(sizes), "batch_size": _BATCH, "steps": steps}
    record = {"work": given, "sizes": found, "growth": _growth(found)}
    return {"name": "memory", "kind": "memory", **machine.describe(), **record}


def write_rows(data: str, labels: Sequence[str], count: int, path: Path) -> Path:
    """`count` labelled rows as JSON lines: those of `data`, and then they again with each sentence's words shuffled.

    So a file of any length has the lengths and labels of `data`, and its premises are as many and as different.
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
    """The largest proportional set of some processes together, in bytes, and the largest of its two parts."""

    rss: int = 0
    own: int = 0
    mapped: int = 0

    def look(self, process: int, age: float) -> None:
        """See `process` and its children once, and rest so long that looking does not slow them down.

        `age`: seconds since its start. A young one is seen more often, or a short one's peak would be missed.
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
    """Run it to its end; the peaks before and after the first step, of the whole run, and the seconds of each part.

    `kernel_rss` is the kernel's own account (VmHWM) of the main process, which forgets nothing between two glances; the
    one that a parent is given (ru_maxrss) begins with the parent's own.
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
    """Every peak at the largest size over the same one at the smallest."""
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
    """Bytes of the sizes in one of a process's files under /proc (Linux, proc(5)); none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def mib(size: float) -> float:
    return round(size / 2**20, 1)
