"""The benchmarks' harness on stand-in peers, its record and table, and one tiny run of each peer of our own."""

from __future__ import annotations

import json
import os
import shutil
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

from benchmarks import accuracy, gpu, gpu_checks, harness, machine, memory, ranks, sets, work
from benchmarks.__main__ import main
from benchmarks.harness import Measured, Peer, Run, Unavailable, difference, measure, ratios, spread
from benchmarks.peers.bertnli_train import BertnliTrain
from benchmarks.peers.peak import MatrixPeak
from benchmarks.peers.plain_loop import PlainLoop
from benchmarks.profile import kind_of
from benchmarks.table import table, tables
from benchmarks.targets import Target, targets
from benchmarks.tokenise import CorpusPreparation, TransformersTokenizer, tokenising
from bertnli.batches import Deal
from bertnli.errors import InputError, RunError
from bertnli.peak import block_weights
from export import verify
from tests import tiny
from tests.conftest import environment
from tests.cuda_operators import no_gpu, stand_in_gpu

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
    check_memory: int = 0  # likewise, while it is checked
    starts: str = ""  # a child of its own

    def options(self) -> dict[str, Any]:
        return {"figures": list(self.figures)}

    def check(self) -> list[float]:
        np.ones(self.check_memory, np.uint8)
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
    much = 200 * 2**20
    small, large = run([StandIn(diary, "small", check_memory=much), StandIn(diary, "large", memory=much)], tmp_path, 1)
    assert small.peak_rss > 5 * 2**20
    assert large.peak_rss - small.peak_rss == pytest.approx(much, rel=0.1)


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
    record = sets.record(found, work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 1, 1.0, 1.0, 1.0, 1))
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


def test_the_table_is_made_of_the_record(result: dict[str, Any], tmp_path: Path) -> None:
    lines = table(result).splitlines()
    assert lines[0] == "### training-32"
    assert "640 rows of snli-100k, 25.0 tokens a pair, batch 32; 3 rounds" in lines[2]
    end = lines.index("| target | wanted | measured |  |")
    assert lines[end - 8 : end] == [
        "| --- | --- | --- | --- | --- |",
        "| the b way | 12.0 (10.0 to 20.0) | 9.17 (6.00 to 10.0) x | 8% | 3 MiB |",
        "| the bertnli way | 110 (100 to 120) |  | 55% | 3 MiB |",
        "",
        "Matrix peak in the same rounds, GFLOP/s: bf16 200.",
        "",
        "Skipped: the c way: no GPU.",
        "",
    ]
    assert lines[end + 2 :] == [
        "| rate over the Trainer's at its defaults | at least 3.00 x |  | not measured |",
        "| rate over the Trainer's at its best | at least 1.25 x |  | not measured |",
        "| rate over the book's loop | at least 7.00 x |  | not measured |",
        "| share of the bf16 matrix peak | at least 50.0% | 55.0% | met |",
        "| peak memory over the Trainer's at its best | at most 1.00 x |  | not measured |",
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
    assert verdicts["rate over the Trainer's at its best"] == "met"
    assert verdicts["peak memory over the Trainer's at its best"] == "met"
    assert verdicts["time of a step over the plain loop's, ZeRO-0"] == "met"  # 1.1 to the last digit
    assert verdicts["share of the bf16 matrix peak"] == "not measured"


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
    """Every JSON under benchmarks/results is one of ours."""
    folder = Path(sets.__file__).parent / "results"
    assert tables(folder).count("### ") == len(list(folder.glob("*.json")))


def test_operators_are_told_apart_by_kind() -> None:
    kinds = {
        "mkldnn::_linear_pointwise": "other",
        "aten::addmm": "matrix products",
        "aten::mkldnn_linear": "matrix products",
        "aten::_scaled_dot_product_flash_attention_for_cpu_backward": "attention",
        "aten::baddbmm": "attention",
        "aten::bernoulli_": "dropout",
        "aten::ge": "dropout",
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
    assert block_weights(model.config) == weights
    assert given.flop_per_pair == pytest.approx(6 * weights * given.tokens_per_pair)
    assert 0.5 * given.flop_per_pair < given.needed_flop_per_pair < 0.9 * given.flop_per_pair


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
            os.waitpid(pid, 0)


# --- sets with an idea of their own ----------------------------------------------------------------------------------


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "snli.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(400)))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.hf_folder(tmp_path / "tiny", max_positions=128)


def test_tokenisers_agree_and_begin_where_they_say(rows: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    given = tokenising(folder, str(model), str(rows))
    labelled = [row for row in map(json.loads, rows.open()) if row["gold_label"] != "-"]
    assert given.pairs == len(labelled) < 400
    peers = [TransformersTokenizer(given), CorpusPreparation(given), CorpusPreparation(given, again=True)]
    expected, *others = (peer.check() for peer in peers)
    assert len(expected) == round(given.tokens_per_pair * given.pairs)
    assert others == [expected, expected]

    def corpora(peer: CorpusPreparation) -> list[int]:
        return [
            path.stat().st_mtime_ns for path in (folder / f"{peer.name}-cache" / "corpora").iterdir() if path.is_dir()
        ]

    for peer in peers:
        peer.prepare()  # each has a cache of its own, named in the environment of its own process
        assert peer.run(given.pairs).done == given.pairs
        if isinstance(peer, CorpusPreparation):
            before = corpora(peer)
            assert peer.run(given.pairs).done == given.pairs
            assert (corpora(peer) == before) == peer.again
            assert len(before) == 1 or peer.again  # an empty cache is empty of the shorter file, too
    assert peers[1].run(100).done < 100  # rows without a gold label
    assert rows.parent.joinpath("snli-100.jsonl").exists() is False


def test_imbalance_is_counted_over_every_step(
    rows: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ranks.ranks(tmp_path, str(model), str(rows), lambda line: None)
    assert [(row["batch_size"], row["ranks"]) for row in real["imbalance"]] == [
        (batch, world) for batch in (32, 256) for world in (2, 4, 8)
    ]
    pairs = real["work"]["rows"]
    assert [row["steps"] for row in real["imbalance"]] == [-(-pairs // 32)] * 3 + [-(-pairs // 256)] * 3
    assert all(0 <= row["excess"]["median"] <= row["excess"]["worst"] for row in real["imbalance"])
    # One rank that gets all in the first step has `world` times the mean.
    calls: list[int] = []

    def unfair(step: Any, lengths: Any, world: int) -> Deal:
        calls.append(world)
        tokens = [1000, 0, 0, 0] if len(calls) == 1 else [250] * 4
        return Deal(step, step, step, np.array(tokens))

    monkeypatch.setattr("bertnli.batches.deal", unfair)
    monkeypatch.setattr(ranks, "WORLDS", (4,))
    monkeypatch.setattr(ranks, "BATCH_SIZES", (32,))
    (row,) = ranks.ranks(tmp_path, str(model), str(rows), lambda line: None)["imbalance"]
    assert row["excess"] == {"median": 0.0, "mean": pytest.approx(3 / row["steps"]), "worst": 3.0}
    (target,) = targets({"kind": "ranks", "imbalance": [row]})
    assert target.met is True


def test_rows_are_repeated_with_their_words_in_another_order(rows: Path, tmp_path: Path) -> None:
    path = memory.write_rows(str(rows), tiny.SNLI_LABELS, 1000, tmp_path / "many.jsonl")
    labelled = [row for row in map(json.loads, rows.open()) if row["gold_label"] != "-"]
    found = [json.loads(line) for line in path.open()]
    assert len(found) == 1000
    names = ("sentence1", "sentence2", "gold_label")
    assert found[: len(labelled)] == [{name: row[name] for name in names} for row in labelled]
    again = found[len(labelled) : 2 * len(labelled)]
    for one, other in zip(labelled, again, strict=True):
        assert one["gold_label"] == other["gold_label"]
        assert sorted(one["sentence1"].split()) == sorted(other["sentence1"].split())
    assert sum(one["sentence1"] != other["sentence1"] for one, other in zip(labelled, again, strict=True)) > 300
    assert memory.write_rows(str(rows), tiny.SNLI_LABELS, 1000, tmp_path / "b.jsonl").read_text() == path.read_text()


TRAINER = """
import json, mmap, pathlib, sys, time
held = bytearray(b"x") * (60 << 20)
time.sleep(0.3)
output = pathlib.Path(sys.argv[1])
output.mkdir()
(output / "metrics.jsonl").write_text('{"step": 1}\\n')
more = bytearray(b"x") * (100 << 20)
with open(sys.argv[2], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
touched = sum(mapped[place] for place in range(0, len(mapped), 4096))
time.sleep(0.3)
print(json.dumps({"pairs_per_second": 7.5}))
sys.exit(int(sys.argv[3]))
"""


def test_memory_is_told_apart_by_kind_and_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that holds 60 MiB, logs a step, takes 100 MiB more of its own and maps a file of 40."""
    (tmp_path / "file").write_bytes(bytes(40 << 20))
    (tmp_path / "trainer.py").write_text(TRAINER)
    code = "0"

    def stand_in(run_file: Any, environment: Any, ranks: int, **streams: Any) -> subprocess.Popen[bytes]:
        script = [sys.executable, str(tmp_path / "trainer.py"), run_file["output"], str(tmp_path / "file"), code]
        return subprocess.Popen(script, **streams)

    monkeypatch.setattr("benchmarks.peers.bertnli_train.start", stand_in)
    found = memory.watched({"output": str(tmp_path / "run")}, tmp_path / "cache")
    before, after, whole = (found["peak_mib"][name] for name in ("before_steps", "steps", "whole"))
    assert after["own"] - before["own"] == pytest.approx(100, abs=10)
    assert after["mapped"] - before["mapped"] == pytest.approx(40, abs=10)
    assert whole == after
    assert after["rss"] == pytest.approx(after["own"] + after["mapped"], abs=1)
    assert found["kernel_rss_mib"] == pytest.approx(after["rss"], abs=15)
    assert 0.3 < found["seconds_to_first_step"] < found["seconds"] - 0.3
    assert found["pairs_per_second"] == 7.5
    code = "3"
    with pytest.raises(RunError, match="exit code 3"):
        memory.watched({"output": str(tmp_path / "failed")}, tmp_path / "cache")


def test_growth_is_of_the_largest_over_the_smallest() -> None:
    def size(rows: int, rss: float, own: float) -> dict[str, Any]:
        peak = {part: {"rss": rss, "own": own, "mapped": rss - own} for part in ("whole", "before_steps", "steps")}
        start = {"kernel_rss_mib": rss, "peak_mib": peak, "seconds_to_first_step": 1.0}
        return {"rows": rows, "corpus_mib": 5.0, "starts": {"first": start, "second": start}}

    sizes = [size(100_000, 1000, 900), size(1_000_000, 1300, 990)]
    head = {"name": "memory", "kind": "memory", **machine.describe()}
    given = {"rows_from": "snli-100k", "rows": 1_000_000, "batch_size": 256}
    result = head | {"work": given, "sizes": sizes, "growth": memory._growth(sizes)}
    assert result["growth"]["first"]["whole"] == pytest.approx({"rss": 1.3, "own": 1.1, "mapped": 3.1})
    wanted = "| resident memory, first start, 1,000,000 rows over 100,000 | at most 1.10 x | 1.30 x | not met |"
    assert wanted in table(result)
    assert "Growth from the fewest rows to the most, second start: before steps: own 1.10, mapped 3.10" in table(result)


def test_accuracy_is_compared_by_its_mean_over_seeds(
    rows: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[tuple[bytes, bytes]]] = {"bertnli": [], "trainer": []}

    def training(name: str) -> Callable[[work.Work, int], Path]:
        def train(given: work.Work, seed: int) -> Path:
            seen[name].append((given.rows.read_bytes(), (given.model / "model.safetensors").read_bytes()))
            return Path(f"{name}-{seed}")

        return train

    figures = {"bertnli-0": 0.70, "bertnli-1": 0.80, "trainer-0": 0.75, "trainer-1": 0.764}
    monkeypatch.setattr(accuracy, "_bertnli", training("bertnli"))
    monkeypatch.setattr(accuracy, "_trainer", training("trainer"))
    monkeypatch.setattr(accuracy, "evaluate", lambda path, data: {"accuracy": figures[str(path)], "rows": 9824})
    encoder = tiny.hf_folder(tmp_path / "encoder", max_positions=128, labels=None)
    result = accuracy.accuracy(tmp_path, str(encoder), str(rows), "snli-test", 64, range(2), lambda line: None)
    assert result["mean"] == pytest.approx({"bertnli": 0.75, "trainer-best": 0.757})
    assert result["points_over_trainer"] == pytest.approx(-0.7)
    assert seen["bertnli"] == seen["trainer"]  # the same rows and weights for both
    assert all(one != other for one, other in zip(*seen["bertnli"], strict=True))  # others for each seed
    lines = table(result)
    assert "| bertnli | 0.7000 | 0.8000 | 0.7500 |" in lines
    enough = result | {"work": result["work"] | {"rows": 8000, "seeds": [0, 1, 2]}}
    for too_few in ({"rows": 64}, {"seeds": [0, 1]}):
        assert targets(enough | {"work": enough["work"] | too_few}) == []
    wanted = "8,000 pairs, mean of 3 seeds | at least -0.50 points | -0.70 points | not met |"
    assert [wanted in target.row() for target in targets(enough)] == [True]


# --- GPU -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def inputs(rows: Path, model: Path) -> gpu.Inputs:
    return gpu.Inputs(model, rows, rows, {"model": "tiny", "train": "tiny rows", "test": "tiny rows"})


def test_what_a_machine_without_network_needs_is_carried(inputs: gpu.Inputs, tmp_path: Path) -> None:
    from bertnli import pretrained
    from bertnli.pairs import PairFile

    gpu.carry(inputs, tmp_path / "carried")
    there = gpu.carried(tmp_path / "carried")
    size = (there.model / "model.safetensors").stat().st_size / (inputs.model / "model.safetensors").stat().st_size
    assert size < 0.6
    before, after = (pretrained.load(path).state for path in (inputs.model, there.model))
    assert before.keys() == after.keys()
    assert all(np.allclose(before[name], after[name], rtol=2e-3, atol=1e-6) for name in before)
    texts = [
        [(row.premise, row.hypothesis, row.label) for row in PairFile(file).rows()]
        for file in (inputs.train, there.train)
    ]
    assert texts[0] == texts[1]
    assert there.source["train"] == "tiny rows"
    assert there.source["weights"] == "carried in fp16"
    assert there.source["commit"] == machine.commit()["commit"]
    (there.test).unlink()
    with pytest.raises(InputError, match=r"no test\.jsonl\.gz"):
        gpu.carried(tmp_path / "carried")


def test_without_a_gpu_nothing_is_made_up(
    inputs: gpu.Inputs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    gpu.carry(inputs, tmp_path / "carried")
    assert main(["gpu", "--from", str(tmp_path / "carried"), "--results", str(tmp_path / "results")]) == 2
    assert "no GPU that torch can use" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_nothing_is_timed_on_a_gpu_that_computes_something_else(
    inputs: gpu.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTNLI_CACHE", "")  # the set sets its own
    checks = [gpu_checks.Check("this", 1e-6, 1e-5, True), gpu_checks.Check("that", 1.0, 1e-5, False)]
    monkeypatch.setattr(gpu, "_checks", lambda *given: [*checks, gpu_checks.Check("a third", skipped="no GPU")])
    parts = gpu.gpu(tmp_path, inputs, gpu.REHEARSAL, lambda line: None, rehearsal=True)
    result = next(parts)
    assert [line.split("|")[-2].strip() for line in table(result).splitlines()[-3:]] == [
        "right",
        "WRONG",
        "skipped: no GPU",
    ]
    with pytest.raises(RunError, match=r"computes something else; found that;"):
        next(parts)


@pytest.fixture
def checked(inputs: gpu.Inputs, tmp_path: Path) -> work.Work:
    folder = tmp_path / "checked"
    folder.mkdir()
    return work.sample(folder, str(inputs.model), str(inputs.train), 32, 32, seed=0)


def test_the_checks_hold_here(checked: work.Work) -> None:
    found = gpu_checks.attention(checked) + gpu_checks.reduced_precision(checked)
    assert [(one.what, one.right) for one in found if not one.right] == []
    assert found[2].found > 1e-4  # it was bf16


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_attention_that_is_wrong_does_not_pass(
    checked: work.Work, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bertnli.attention import Packed

    right = Packed.attend
    monkeypatch.setattr(Packed, "attend", lambda *given: right(*given) * (1 + error))
    assert not any(one.right for one in gpu_checks.attention(checked))


def test_losses_that_differ_and_skips_that_are_not_counted_do_not_pass(
    checked: work.Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = {"check-here": [1.1, 1.0, 0.9], "check-cpu": [1.1, 1.0, 0.902], "check-fp16": [1.1, 1.1, 1.0, 0.9]}
    ran: list[tuple[dict[str, Any], str | None]] = []
    monkeypatch.setattr(gpu_checks, "train", lambda run, env: ran.append((run, env.get("CUDA_VISIBLE_DEVICES"))))
    monkeypatch.setattr(gpu_checks, "steps_of", lambda output: [{"loss": loss} for loss in logged[output.name]])
    (found,) = gpu_checks.losses(checked, 3)
    assert found.found == pytest.approx(0.002 / 0.902)
    assert not found.right
    assert ran[1][1] == ""  # the CPU's run sees no GPU
    assert [run["precision"] for run, _ in ran] == ["fp32", "fp32"]
    not_counted, skipped, _ = gpu_checks.fp16(checked, 1, there=True)
    assert (not_counted.right, skipped.right) == (False, True)
    rows = [{"loss": 1.0, "skipped_steps": min(number, 3)} for number in range(9)]
    monkeypatch.setattr(gpu_checks, "steps_of", lambda output: rows)
    assert [one.right for one in gpu_checks.fp16(checked, 3, there=True)] == [True, True, True]


def test_the_fp16_bundle_is_checked_where_there_is_a_gpu(
    inputs: gpu.Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = work.scoring(tmp_path, str(inputs.model), str(inputs.test), 32)
    assert [one.skipped for one in gpu_checks.fp16_bundle(checked, there=False)] == ["its graph is for CUDA"]
    no_gpu(monkeypatch)  # torch has one, and ONNX Runtime cannot use it
    (unusable,) = gpu_checks.fp16_bundle(checked, there=True)
    assert not unusable.right
    assert "no NVIDIA GPU" in unusable.what
    (checked.folder / "bundle-fp16").rename(checked.folder / "unusable")
    stand_in_gpu(monkeypatch)
    monkeypatch.setattr(gpu_checks, "left_to_the_cpu", lambda *_: ["NonZero"])
    # The classifier's weights are multiplied by 20, and so are the differences.
    monkeypatch.setitem(
        verify.LIMITS, "fp16", replace(verify.LIMITS["fp16"], logit_difference=0.2, own_label_flips=0.1)
    )
    found = gpu_checks.fp16_bundle(checked, there=True)
    assert len(found) == 3, found
    logits, labels, nodes = found
    assert (logits.right, labels.right, nodes.right) == (True, True, False)
    assert 0 < logits.found < logits.limit == 0.2


def test_nodes_on_the_cpu_are_found(tmp_path: Path) -> None:
    graph = shutil.copy(tiny.bundle() / "model.onnx", tmp_path / "model.onnx")
    found = gpu_checks.left_to_the_cpu(graph, "CPU")
    assert "Attention" in found
    assert "Shape" not in found
