"""The record of a GPU: its table and its targets; the stages of scoring."""

from __future__ import annotations

import json
import time
from pathlib import Path

from bertnli_export.scorer import Scorer

from benchmarks.scoring_stages import seconds_by_stage
from benchmarks.table import table
from benchmarks.targets import targets
from tests.support import tiny


def test_stages_of_scoring_are_each_timed(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(1500)))
    began = time.perf_counter()
    found = seconds_by_stage(Scorer(tiny.bundle(), "cpu"), rows)
    assert [*found] == ["read", "tokenise", "pad", "model", "write"]
    assert min(found.values()) > 0
    assert sum(found.values()) < time.perf_counter() - began


def _record(rates: dict[str, float]) -> dict[str, object]:
    spread = {name: {"median": rate, "min": rate, "max": rate} for name, rate in rates.items()}
    one = {"median": 1.0, "min": 1.0, "max": 1.0}
    peers = [
        {
            "name": name,
            "about": f"about {name}",
            "unit": "pairs",
            "options": {"precision": "fp16"},
            "per_second": spread[name],
            "peak_rss_mib": 1000.0,
            "labels_changed": 0.001,
            "depends_on_company": 0.001,
            "share_of_peak": {"bf16": 0.25},
            **({"seconds_by_stage": {"copy": 0.25}} if name == "bertnli" else {}),
            **({} if name == "bertnli" else {"bertnli_over_it": {**one, "median": rates["bertnli"] / rate}}),
        }
        for name, rate in rates.items()
    ]
    peak = {"name": "peak", "unit": "FLOP", "options": {"precision": "bf16"}, "per_second": {"median": 1e12}}
    skipped = {"name": "flash", "about": "flash attention", "skipped": "no wheel"}
    machine = {"cores": 16, "cpu": "a CPU", "gpus": ["NVIDIA H200"], "memory_gib": 128}
    about = {"versions": {"torch": "2.11.0"}, "commit": None, "dirty": False, "date": "2026-11-25", "command": "it"}
    work = {"rows": 65_536, "rows_from": "snli-100k", "batch_size": 0}
    head = {"name": "gpu-scoring", "kind": "gpu-scoring", "machine": machine, **about, "work": work}
    return {**head, "peers": [*peers, peak, skipped]}


def test_scoring_on_a_gpu_is_held_against_its_targets() -> None:
    met = targets(_record({"bertnli": 41_000.0, "slow": 5_000.0, "fast": 13_000.0}))  # type: ignore[arg-type]
    assert [target.met for target in met] == [True, True]
    missed = targets(_record({"bertnli": 39_000.0, "slow": 5_000.0, "fast": 13_500.0}))  # type: ignore[arg-type]
    assert [target.met for target in missed] == [False, False]


def test_the_table_says_where_the_time_goes() -> None:
    said = table(_record({"bertnli": 41_000.0, "slow": 5_000.0}))
    assert "Stages of about bertnli, each run alone: copy 0.25 s. In a real run they overlap." in said
    assert "NVIDIA H200" in said and "Skipped: flash attention: no wheel." in said
    assert "| rate over the best peer's | at least 3.00 x | 8.20 x | met |" in said
