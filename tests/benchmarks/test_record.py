"""From a measurement to what is kept: ratios, record, table, targets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine, sets, work
from benchmarks.__main__ import main
from benchmarks.harness import Measured, ratios, spread
from benchmarks.peer import Run
from benchmarks.peers import peak
from benchmarks.peers.bertnli_train import BertnliTrain
from benchmarks.peers.peak import MatrixPeak, onnxruntime_peak
from benchmarks.table import table, tables
from benchmarks.targets import Target, targets
from tests.support.benchmarked import StandIn, measured


def test_ratios_are_taken_inside_a_round(tmp_path: Path) -> None:
    # The machine slowed down to a tenth in the second round: rates fell, ratios did not.
    ours, theirs = measured("bertnli", [30, 3, 31], tmp_path), measured("b", [10, 1, 10], tmp_path)
    assert ratios(ours, theirs) == pytest.approx({"median": 3.0, "min": 3.0, "max": 3.1})
    assert spread([4, 1, 2]) == {"median": 2, "min": 1, "max": 4}


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    given = work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 640, 25.0, 1.25e9, 1e9, batch_size=32)
    given.rows.write_text("{}\n")
    peak = MatrixPeak(given, "bf16")
    found = [
        measured("b", [10, 20, 12], tmp_path),
        measured("bertnli", [100, 120, 110], tmp_path),
        Measured(peak, [Run(4e11, 2.0)] * 3, [{}] * 3, peak_rss=2**20),
        Measured(StandIn(tmp_path, "c", about="the c way"), skipped="no GPU"),
    ]
    found[1].peer.whole_last_block = False  # as our own are
    head = {"name": "training-32", "kind": "training", **machine.describe(), "work": given.to_json("snli-100k")}
    return head | sets.record(found, given)


@pytest.mark.parametrize(("precision", "found"), [("fp32", 3e11), ("bf16", 2e11)])
def test_the_peak_is_that_of_the_faster_library(tmp_path: Path, monkeypatch: Any, precision: str, found: float) -> None:
    """ONNX Runtime has products in fp32 alone."""
    monkeypatch.setattr("bertnli.train.flops.matmul_peak", lambda *_: 2e11)
    monkeypatch.setattr(peak, "onnxruntime_peak", lambda *_: 3e11)
    given = work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 640, 25.0, 1.25e9, 1e9, batch_size=32)
    one = MatrixPeak(given, precision)
    one._sizes = 64, 128
    assert one.run(1).done == found


def test_onnxruntime_multiplies() -> None:
    assert onnxruntime_peak([(64, 32, 32), (64, 64, 64)], seconds=0.01) > 1e6


def test_the_record_says_what_was_measured_where_and_with_what(result: dict[str, Any], tmp_path: Path) -> None:
    path = sets.save(result, tmp_path / "results")
    assert path.name == "training-32.json"
    read = json.loads(path.read_text())
    assert {"name", "kind", "date", "command", "commit", "dirty", "machine", "versions", "work", "rounds", "peers"} == {
        *read
    }
    assert {"cpu", "cores", "memory_gib"} <= {*read["machine"]}
    assert {"python", "torch", "deepspeed"} <= {*read["versions"]}
    assert read["work"]["rows"] == 640
    assert len(read["work"]["rows_sha256"]) == 64
    theirs, ours, peak, _ = read["peers"]
    assert theirs["per_second"] == {"median": 12, "min": 10, "max": 20}
    assert theirs["peak_rss_mib"] == 3.0
    assert theirs["runs"][1] == {
        "done": 40.0,
        "seconds": 2.0,
        "per_second": 20.0,
        "load_1min": 0.5,
        "others_cores": 0.1,
    }
    assert theirs["bertnli_over_it"] == pytest.approx({"median": 110 / 12, "min": 6.0, "max": 10.0})
    assert theirs["bertnli_memory_over_it"] == 1.0
    assert "bertnli_over_it" not in ours
    assert ours["share_of_peak"] == pytest.approx({"bf16": 110 * 1e9 / 2e11})  # pairs/s x FLOP a pair / peak
    assert theirs["share_of_peak"] == pytest.approx({"bf16": 12 * 1.25e9 / 2e11})  # whole blocks
    assert "share_of_peak" not in peak


def test_the_record_names_no_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", "busy", "--results", "/home/me/found", "--full", "--from=/mnt/x"])
    assert machine.describe()["command"] == "python -m benchmarks busy --full"


def test_the_table_is_made_of_the_record(result: dict[str, Any], tmp_path: Path) -> None:
    lines = table(result).splitlines()
    end = lines.index("| target | wanted | measured |  |")
    assert "640 rows of snli-100k, 25.0 tokens a pair, batch 32; 3 rounds" in lines[end - 2]
    assert lines[: end - 2] == [
        "### Training, batch 32",
        "",
        "| how | pairs/s, median (min to max) | speed-up by bertnli | MFU, of the bf16 peak | peak memory |",
        "| --- | --- | --- | --- | --- |",
        "| the b way | 12.0 (10.0 to 20.0) | 9.17 (6.00 to 10.0) x | 8% | 3 MiB |",
        "| the bertnli way | 110 (100 to 120) |  | 55% | 3 MiB |",
        "",
        "Matmul peak measured in the same rounds, GFLOP/s: bf16 200.",
        "",
        "Skipped: the c way: no GPU.",
        "",
    ]
    assert table(result, with_targets=False).splitlines() == lines[: end - 1]
    assert lines[end + 2 :] == [
        "| rate over the Trainer's with its defaults | at least 3.00 x |  | not measured |",
        "| rate over the Trainer's with its best settings | at least 1.50 x |  | not measured |",
        "| rate over the book's loop | at least 7.00 x |  | not measured |",
        "| MFU, of the measured bf16 peak | at least 50.0% | 55.0% | met |",
        "| peak memory over the Trainer's with its best settings | at most 1.00 x |  | not measured |",
    ]
    sets.save(result, tmp_path / "results")
    assert tables(tmp_path / "results") == table(result)


def test_the_engines_cost_and_memory_stand_beside_the_peers(tmp_path: Path) -> None:
    given = work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 640, 25.0, 1.25e9, 1e9, batch_size=256)
    given.rows.write_text("{}\n")

    def ours(rates: list[float], stage: int, mib: int) -> Measured:
        name = "bertnli" if stage == 0 else f"bertnli-zero{stage}"
        found = measured(name, rates, tmp_path)
        return replace(found, peer=BertnliTrain(given, name=name, zero_stage=stage), peak_rss=mib * 2**20)

    trainer = replace(measured("trainer-best", [50, 5, 50], tmp_path), peak_rss=400 * 2**20)
    found = [measured("plain-loop", [110, 11, 120], tmp_path), trainer, ours([100, 10, 100], 0, 300)]
    found += [ours([50, 5, 50], stage, 500) for stage in (1, 2, 3)]
    head = {"name": "training-256", "kind": "training", **machine.describe(), "work": given.to_json("snli-100k")}
    result = head | sets.record(found, given)
    peers = {peer["name"]: peer for peer in result["peers"]}
    assert peers["bertnli"]["time_over_plain_loop"] == pytest.approx({"median": 1.1, "min": 1.1, "max": 1.2})
    assert peers["bertnli-zero3"]["time_over_plain_loop"]["median"] == pytest.approx(2.2)
    assert "time_over_plain_loop" not in peers["trainer-best"]
    assert peers["trainer-best"]["bertnli_memory_over_it"] == 0.75
    lines = table(result)
    each = ["ZeRO-0 1.10 (1.10 to 1.20)", *(f"ZeRO-{stage} 2.20 (2.20 to 2.40)" for stage in (1, 2, 3))]
    assert f"\nTime of bertnli's step over the plain loop's: {'; '.join(each)}.\n" in lines
    verdicts = {
        line.split("|")[1].strip(): line.split("|")[-2].strip() for line in lines.split("| target |")[1].split("\n")
    }
    assert verdicts["rate over the Trainer's with its best settings"] == "met"
    assert verdicts["peak memory over the Trainer's with its best settings"] == "met"
    assert verdicts["time of a step over the plain loop's, ZeRO-0"] == "met"  # 1.1 to the last digit
    assert verdicts["MFU, of the measured bf16 peak"] == "not measured"


@pytest.mark.parametrize("batch_size", [32, 256])
def test_the_short_set_has_every_peer_that_a_target_needs(tmp_path: Path, batch_size: int) -> None:
    given = work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 640, 25.0, 1.25e9, 1e9, batch_size=batch_size)
    given.rows.write_text("{}\n")
    short, every = ([peer.name for peer in sets.training_peers(given, every=every)] for every in (False, True))
    assert [name for name in every if name not in short] == [
        "deepspeed-engine",
        *(f"bertnli-zero{stage}" for stage in (1, 2, 3)),
    ]
    peers = [*sets.training_peers(given, every=False), MatrixPeak(given, "bf16")]
    found = [Measured(peer, [Run(4e11, 2.0)], [{}], peak_rss=2**20) for peer in peers]
    result = {"kind": "training", "work": given.to_json("snli-100k"), **sets.record(found, given)}
    assert [target.what for target in targets(result) if target.met is None] == []


def test_a_target_is_met_missed_or_not_measured() -> None:
    assert [Target("", found, 2.0).met for found in (2.0, 1.99, None, float("nan"))] == [True, False, None, False]
    assert [Target("", found, 2.0, at_most=True).met for found in (2.0, 2.01, None)] == [True, False, None]
    assert Target("speed", 1.234, 3.0).row() == "| speed | at least 3.00 x | 1.23 x | not met |"
    assert Target("time", 9.0, 10.0, "{:.1f} s", at_most=True).row() == "| time | at most 10.0 s | 9.0 s | met |"


def test_the_command_prints_the_tables(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets.save(result, tmp_path / "results")
    assert main(["table", "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.strip() == table(result)
    with pytest.raises(SystemExit, match="2"):
        main(["trainning"])


def test_results_that_are_kept_have_a_table() -> None:
    """Every JSON file in benchmarks/results has a table."""
    folder = Path(sets.__file__).parent / "results"
    assert tables(folder).count("### ") == len(list(folder.glob("*.json")))
