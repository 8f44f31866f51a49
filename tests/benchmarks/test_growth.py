"""How cost grows: the commands are really run, at sizes that take seconds; the plot shows what the record holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import RESULTS
from benchmarks.growth import LENGTHS, growth
from benchmarks.plots import drawn_from, plots
from benchmarks.table import table
from bertnli.common.files import write_text
from tests.support import tiny


def record(**more: object) -> dict[str, object]:
    rows = [
        {
            "rows": rows,
            "processes": processes,
            "seconds": rows / processes / 100,
            "pairs_per_second": 100.0 * processes,
            "peak_mib": {"rss": 700.0},
        }
        for rows in (1000, 10_000)
        for processes in (1, 2)
    ]
    lengths = [{"tokens": n, "seconds_a_pair": {"median": n / 1e4, "min": n / 2e4, "max": n / 5e3}} for n in LENGTHS]
    about = {"versions": {}, "commit": None, "dirty": False, "date": "2026-11-25", "command": "it"}
    head = {"name": "growth", "kind": "growth", "machine": {"cores": 2, "cpu": "a CPU"}, **about}
    given = {"rows": 10_000, "rows_from": "snli-100k", "batch_size": 256}
    return {**head, "work": given, "scoring": rows, "training": rows, "lengths": lengths, **more}


def test_plots_are_drawn_beside_the_results_that_have_some(tmp_path: Path) -> None:
    write_text(tmp_path / "growth.json", json.dumps(record()))
    write_text(tmp_path / "other.json", json.dumps({"kind": "start-up"}))
    assert plots(tmp_path) == [tmp_path / "growth.svg"]
    drawn = (tmp_path / "growth.svg").read_text()
    for said in ("Time of the command", "training, 2 processes", "scoring, 1 process<", "MiB", "milliseconds"):
        assert said in drawn, said
    plots(tmp_path)
    assert (tmp_path / "growth.svg").read_text() == drawn  # the same bytes each time
    write_text(tmp_path / "growth.json", json.dumps(record(training=[])))
    plots(tmp_path)
    assert (tmp_path / "growth.svg").read_text() != drawn


def test_kept_plots_show_the_kept_records() -> None:
    kept = [path for path in RESULTS.glob("*.json") if json.loads(path.read_bytes())["kind"] == "growth"]
    assert kept
    for path in kept:
        assert drawn_from(path.name, path.read_bytes()) in path.with_suffix(".svg").read_text(), "run: benchmarks plots"


def test_the_table_has_a_row_for_each_run() -> None:
    said = table(record())
    assert said.count("| training |") == said.count("| scoring |") == 4
    assert "| scoring | 10,000 | 2 | 50 | 200 | 700 MiB |" in said
    assert "| 128 | 12.8 (6.40 to 25.6) |" in said


@pytest.mark.system
@pytest.mark.timeout(600)
def test_growth_is_measured_on_whole_commands(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(600)))
    model = tiny.hf_folder(tmp_path / "model", max_positions=128)
    (tmp_path / "work").mkdir()
    sizes = {"training": (300, 600), "scoring": (100, 400)}
    found = growth(tmp_path / "work", str(model), str(rows), sizes, 1, lambda line: None)
    for kind in ("training", "scoring"):
        assert [(row["rows"], row["processes"]) for row in found[kind]] == [
            (size, processes) for size in sizes[kind] for processes in (1, 2)
        ]
        for row in found[kind]:
            assert row["seconds"] > 0 < row["pairs_per_second"]
            assert row["peak_mib"]["rss"] > 50
        one, two = found[kind][:2]
        assert two["peak_mib"]["own"] > one["peak_mib"]["own"]  # two processes are there
    assert [row["rows_written"] for row in found["scoring"]] == [100, 100, 400, 400]
    assert [row["tokens"] for row in found["lengths"]] == list(LENGTHS)
    assert table(found)
