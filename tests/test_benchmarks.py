"""The benchmarks' harness on stand-in peers, its record and table, and one tiny run of each peer of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks import harness, machine, sets, work
from benchmarks.__main__ import main
from benchmarks.harness import Measured, Peer, Run, Unavailable, difference, measure, ratios, spread
from benchmarks.peers.bertnli_train import BertnliTrain
from benchmarks.peers.peak import MatrixPeak
from benchmarks.peers.plain_loop import PlainLoop
from benchmarks.peers.scoring import BertnliScore
from benchmarks.profile import kind_of
from benchmarks.table import table, tables
from bertnli.errors import RunError
from tests import tiny
from tests.conftest import environment

# --- stand-ins -------------------------------------------------------------------------------------------------------


@dataclass
class StandIn(Peer):
    """Does nothing, and writes down that it did."""

    diary: Path
    name: str = "a"
    about: str = "a stand-in"
    figures: tuple[float, ...] = (1.0, 2.0)
    fails_in: str = ""
    tolerance: float = 0.01
    memory: int = 0  # bytes used for a moment
    starts: str = ""  # a child of its own

    def options(self) -> dict[str, Any]:
        return {"figures": list(self.figures)}

    def check(self) -> list[float]:
        return list(self.figures)

    def prepare(self) -> None:
        np.ones(self.memory, np.uint8)
        if self.starts:
            child = subprocess.Popen([self.starts, "600"])
            (self.diary.parent / "child").write_text(str(child.pid))
        if self.fails_in == "missing":
            raise Unavailable("no such library here")
        if self.fails_in == "prepare":
            raise ValueError("what went wrong")
        print("said by the peer")

    def run(self, amount: int) -> Run:
        if self.fails_in == "run":
            os._exit(7)
        with self.diary.open("a") as diary:
            diary.write(f"{self.name} {amount} {os.getpid()}\n")
        return Run(amount, 2.0)


def run(peers: list[Peer], tmp_path: Path, rounds: int = 2) -> list[Measured]:
    return measure(peers, amount=10, warm_up=3, rounds=rounds, logs=tmp_path / "logs", say=lambda line: None)


def test_rounds_are_interleaved_and_each_peer_has_a_process_of_its_own(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    found = run([StandIn(diary, "a"), StandIn(diary, "b")], tmp_path)
    entries = [line.split() for line in diary.read_text().splitlines()]
    assert [(name, int(amount)) for name, amount, _ in entries] == [
        *[("a", 3), ("b", 3)],  # warm-ups
        *[("a", 10), ("b", 10), ("a", 10), ("b", 10)],
    ]
    processes = {name: {pid for other, _, pid in entries if other == name} for name in "ab"}
    assert all(len(pids) == 1 for pids in processes.values())
    assert len({os.getpid(), *(int(*pids) for pids in processes.values())}) == 3
    assert [one.rates() for one in found] == [[5.0, 5.0], [5.0, 5.0]]
    assert all(one.difference == 0 for one in found)
    assert all(set(around) == {"load_1min", "others_cores"} for one in found for around in one.around)
    assert "said by the peer" in (tmp_path / "logs" / "a.log").read_text()


def test_memory_is_each_peers_own(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    small, large = run([StandIn(diary, "small"), StandIn(diary, "large", memory=200 * 2**20)], tmp_path, rounds=1)
    assert small.peak_rss > 5 * 2**20
    assert large.peak_rss - small.peak_rss == pytest.approx(200 * 2**20, rel=0.1)


def test_peers_that_compute_something_else_are_not_timed(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    with pytest.raises(RunError, match=r"b computes something else.*0\.02 off.*within 0\.01") as raised:
        run([StandIn(diary), StandIn(diary, "b", figures=(1.0, 2.02))], tmp_path)
    assert "expected 1.00000, 2.00000" in str(raised.value)
    assert "b" not in diary.read_text()


def test_within_its_tolerance_a_peer_is_timed(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    found = run([StandIn(diary), StandIn(diary, "b", figures=(1.0, 2.02), tolerance=0.1)], tmp_path, rounds=1)
    assert found[1].difference == pytest.approx(0.02)


@pytest.mark.parametrize("figures", [(1.0,), (float("nan"), 2.0), (float("inf"), 2.0), ()])
def test_figures_that_are_missing_or_no_numbers_do_not_agree(figures: tuple[float, ...]) -> None:
    assert difference(figures, (1.0, 2.0)) == float("inf")
    assert difference((1.0, 2.5), (1.0, 2.0)) == 0.5


def test_a_peer_that_cannot_run_is_skipped_by_name(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    found = run([StandIn(diary), StandIn(diary, "b", fails_in="missing"), StandIn(diary, "c")], tmp_path, rounds=1)
    record = sets.record(found, flop_per_pair=1.0)
    assert [peer.get("skipped") for peer in record["peers"]] == [None, "no such library here", None]
    assert "runs" not in record["peers"][1]
    assert {line.split()[0] for line in diary.read_text().splitlines()} == {"a", "c"}


def test_a_peer_that_fails_or_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"b failed in prepare: ValueError: what went wrong.*b\.log"):
        run([StandIn(tmp_path / "diary", "b", fails_in="prepare")], tmp_path)
    assert "Traceback" in (tmp_path / "logs" / "b.log").read_text()
    with pytest.raises(RunError, match=r"b died in run.*exit code 7"):
        run([StandIn(tmp_path / "diary", "b", fails_in="run")], tmp_path)


def test_a_run_that_others_disturbed_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # CPU seconds of the machine: quiet, then 3 cores of others in the first run, quiet ever after.
    busy = iter([0.0, 0.0, 0.0, 3e6])
    last = 0.0

    def seconds() -> float:
        nonlocal last
        last = next(busy, last)
        return last

    monkeypatch.setattr(harness, "_busy_seconds", seconds)
    monkeypatch.setattr(harness._Quiet, "GLANCE", 0.01)
    said: list[str] = []
    diary = tmp_path / "diary"
    (found,) = measure([StandIn(diary)], amount=10, warm_up=3, rounds=2, logs=tmp_path, say=said.append, patience=60.0)
    assert [line.split()[1] for line in diary.read_text().splitlines()] == ["3", "10", "10", "10"]
    assert len(found.runs) == 2
    assert [around["others_cores"] for around in found.around] == [0, 0]
    assert sum("once more" in line for line in said) == 1


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is never quiet is measured all the same, and the record says so."""
    monkeypatch.setattr(harness, "_busy_seconds", lambda: time.perf_counter() * 100)
    monkeypatch.setattr(harness._Quiet, "GLANCE", 0.01)
    (found,) = measure(
        [StandIn(tmp_path / "diary")],
        amount=10,
        warm_up=3,
        rounds=1,
        logs=tmp_path,
        say=lambda line: None,
        patience=0.1,
    )
    assert found.around[0]["others_cores"] > 50


def test_what_a_peer_started_is_ended_with_it(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    run([StandIn(diary, starts="sleep")], tmp_path, rounds=1)
    assert wait_until(lambda: ended(tmp_path / "child"))


def test_nothing_is_left_behind_by_a_harness_that_was_killed(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from tests import test_benchmarks as t; "
        "t.run([t.StandIn(Path('diary'), starts='sleep')], Path('.'), rounds=10**9)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL) as killed:
        wait_until(lambda: (tmp_path / "diary").exists())
        killed.kill()
    assert wait_until(lambda: ended(tmp_path / "child"))


def ended(pid_file: Path) -> bool:
    try:
        return psutil.Process(int(pid_file.read_text())).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def test_the_stopwatch_times_its_block() -> None:
    with harness.stopwatch() as seconds:
        time.sleep(0.05)
    after = seconds()
    time.sleep(0.05)
    assert 0.05 <= after < 5
    assert seconds() == after


# --- arithmetic, record, table ---------------------------------------------------------------------------------------


def measured(name: str, rates: list[float], tmp_path: Path) -> Measured:
    runs = [Run(rate * 2, 2.0) for rate in rates]
    around = [{"load_1min": 0.5, "others_cores": 0.1} for _ in rates]
    return Measured(StandIn(tmp_path, name, about=f"the {name} way"), runs, around, difference=0.0, peak_rss=3 * 2**20)


def test_ratios_are_taken_inside_a_round(tmp_path: Path) -> None:
    # The machine slowed down to a tenth in the second round: rates fell, ratios did not.
    ours, theirs = measured("bertnli", [30, 3, 31], tmp_path), measured("b", [10, 1, 10], tmp_path)
    assert ratios(ours, theirs) == pytest.approx({"median": 3.0, "min": 3.0, "max": 3.1})
    assert spread([4, 1, 2]) == {"median": 2, "min": 1, "max": 4}


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    given = work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 640, 25.0, flop_per_pair=1e9, batch_size=32)
    given.rows.write_text("{}\n")
    peak = MatrixPeak(given, "bf16")
    found = [
        measured("b", [10, 20, 12], tmp_path),
        measured("bertnli", [100, 120, 110], tmp_path),
        Measured(peak, [Run(4e11, 2.0)] * 3, [{}] * 3, peak_rss=2**20),
        Measured(StandIn(tmp_path, "c", about="the c way"), skipped="no GPU"),
    ]
    head = {"name": "training-32", "kind": "training", **machine.describe(), "work": given.to_json("snli-100k")}
    return head | sets.record(found, given.flop_per_pair)


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
    assert "bertnli_over_it" not in ours
    assert ours["share_of_peak"] == pytest.approx({"bf16": 110 * 1e9 / 2e11})  # pairs/s x FLOP a pair / peak
    assert "share_of_peak" not in peak


def test_the_table_is_made_of_the_record(result: dict[str, Any], tmp_path: Path) -> None:
    lines = table(result).splitlines()
    assert lines[0] == "### training-32"
    assert "640 rows of snli-100k, 25.0 tokens a pair, batch 32; 3 rounds" in lines[2]
    assert lines[-7:] == [
        "| --- | --- | --- | --- | --- |",
        "| the b way | 12.0 (10.0 to 20.0) | 9.17 (6.00 to 10.0) x | 6% | 3 MiB |",
        "| the bertnli way | 110 (100 to 120) |  | 55% | 3 MiB |",
        "",
        "Matrix peak in the same rounds, GFLOP/s: bf16 200.",
        "",
        "Skipped: the c way: no GPU.",
    ]
    sets.save(result, tmp_path / "results")
    assert tables(tmp_path / "results") == table(result)


def test_the_command_prints_the_tables(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets.save(result, tmp_path / "results")
    assert main(["table", "--results", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.strip() == table(result)
    with pytest.raises(SystemExit, match="2"):
        main(["trainning"])


def test_results_that_are_kept_have_a_table() -> None:
    """Every JSON under benchmarks/results is one of ours."""
    folder = Path(sets.__file__).parent / "results"
    assert tables(folder).count("### ") == len(list(folder.glob("*.json")))


def test_operators_are_told_apart_by_kind() -> None:
    kinds = {
        "mkldnn::_linear_pointwise": "other",
        "aten::addmm": "matrix products",
        "aten::mkldnn_linear": "matrix products",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
        "aten::bernoulli_": "dropout",
        "aten::copy_": "copies and casts",
        "aten::gelu_backward": "GELU",
        "aten::native_layer_norm": "norms",
        "aten::_fused_adamw_": "optimizer",
        "aten::fill_": "filling and sums",
    }
    assert {operator: kind_of(operator) for operator in kinds} == kinds


# --- the work, and our own peers on it -------------------------------------------------------------------------------


@pytest.fixture
def given(tmp_path: Path) -> work.Work:
    """Work of 64 rows at batch 32, with a tiny model."""
    model = tiny.hf_folder(tmp_path / "tiny", max_positions=128)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(400)))
    return work.training(tmp_path, str(model), str(data), pairs=64, batch_size=32)


def test_training_rows_stand_in_micro_batches_of_one_length(given: work.Work, tmp_path: Path) -> None:
    from bertnli import pretrained

    rows = given.read()
    assert len(rows) == given.pairs == 64
    source = pretrained.load(given.model, max_length=work.MAX_LENGTH)
    lengths = source.tokenizer.encode([r["sentence1"] for r in rows], [r["sentence2"] for r in rows]).lengths
    assert lengths.mean() == pytest.approx(given.tokens_per_pair)
    short, long = sorted(lengths.reshape(-1, work.MICRO_BATCH), key=np.mean)
    assert (np.diff(short) <= 0).all()  # as the Trainer's sampler leaves them
    assert (np.diff(long) <= 0).all()
    assert short.max() < long.mean()
    again = work.training(tmp_path, str(given.model), str(tmp_path / "data.jsonl"), pairs=64, batch_size=32)
    assert again.read() == rows
    assert given.head(5).read_text().splitlines() == given.rows.read_text().splitlines()[:5]


def test_flop_are_counted_from_the_config(given: work.Work) -> None:
    from bertnli import pretrained

    model = pretrained.load(given.model, max_length=work.MAX_LENGTH).build()
    weights = sum(p.numel() for p in model.blocks.parameters() if p.dim() == 2)
    assert work.block_weights(model.config) == weights
    assert given.flop_per_pair == pytest.approx(6 * weights * given.tokens_per_pair)


def test_the_plain_loop_computes_what_bertnli_train_computes(given: work.Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "check_steps", 4)
    choices: dict[str, Any] = {"precision": "fp32", "micro_batch_tokens": 256}  # several micro-batches a step
    plain, ours = PlainLoop(given, **choices), BertnliTrain(given, **choices)
    try:
        expected = plain.check()
        assert expected[0] != pytest.approx(expected[1], abs=1e-3)  # a step was taken
        assert ours.check() == pytest.approx(expected, abs=1e-5)
        plain.prepare()
        assert plain.run(64).done == 64
        ours.prepare()
        for _ in range(2):
            found = ours.run(64)
            assert found.done == 64
            assert found.seconds > 0
            (pid,) = ours.processes()
            deadline = time.monotonic() + 10  # the signal takes a moment
            while "T (stopped)" not in Path(f"/proc/{pid}/status").read_text():
                assert time.monotonic() < deadline
    finally:
        for pid in ours.processes():
            os.kill(pid, signal.SIGKILL)


def test_bertnli_scores_the_rows(given: work.Work) -> None:
    scorer = BertnliScore(replace(given, batch_size=0))
    probabilities = np.array(scorer.check()).reshape(-1, 3)
    assert probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-5)  # they are written to six digits
    scorer.prepare()
    out, written = given.folder / "bertnli.jsonl", set()
    for _ in range(2):  # the second starts over, rather than find the first one's output finished
        found = scorer.run(48)
        assert found.done == 48
        assert found.seconds > 0
        assert len(out.read_text().splitlines()) == 48
        written.add(out.stat().st_mtime_ns)
    assert len(written) == 2
