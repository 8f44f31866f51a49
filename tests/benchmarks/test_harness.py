"""The harness on stand-in peers: which are timed, when, and what happens to those that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmarks import quiet, sets, work
from benchmarks.harness import measure
from benchmarks.peer import difference, stopwatch
from bertnli.common.errors import RunError
from tests.conftest import environment
from tests.support.benchmarked import StandIn, run


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
    with pytest.raises(
        RunError, match=r"b does not compute what the first peer does.*0\.02 off.*within 0\.01"
    ) as raised:
        run([StandIn(diary), StandIn(diary, "b", figures=(1.0, 2.04))], tmp_path)
    assert "expected 1.00000, 2.00000" in str(raised.value)
    assert "b" not in diary.read_text()


def test_within_its_tolerance_a_peer_is_timed(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    found = run([StandIn(diary), StandIn(diary, "b", figures=(1.0, 2.02), tolerance=0.1)], tmp_path, rounds=1)
    assert found[1].difference == pytest.approx(0.01)  # of 2


@pytest.mark.parametrize("figures", [(1.0,), (float("nan"), 2.0), (float("inf"), 2.0), ()])
def test_figures_that_are_missing_or_no_numbers_do_not_agree(figures: tuple[float, ...]) -> None:
    assert difference(figures, (1.0, 2.0)) == float("inf")
    assert difference((1.0, 2.5), (1.0, 2.0)) == 0.25  # relative above 1
    assert difference((0.5, 23.2), (0.25, 23.2)) == 0.25


def test_a_peer_that_cannot_run_is_skipped_by_name(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    peers = [
        StandIn(diary, name, fails_in=how) for name, how in zip("abcd", ("", "missing", "", "memory"), strict=True)
    ]
    found = run(peers, tmp_path, rounds=1)
    record = sets.record(found, work.Work(tmp_path, tmp_path, tmp_path / "rows.jsonl", 1, 1.0, 1.0, 1.0, 1))
    killed = "the system killed it, as it does when memory runs out"
    assert [peer.get("skipped") for peer in record["peers"]] == [None, "no such library here", None, killed]
    assert "runs" not in record["peers"][1]
    assert {line.split()[0] for line in diary.read_text().splitlines()} == {"a", "c"}


def test_a_peer_that_fails_or_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"b failed in prepare: ValueError: what went wrong.*b\.log"):
        run([StandIn(tmp_path / "diary", "b", fails_in="prepare")], tmp_path)
    assert "Traceback" in (tmp_path / "logs" / "b.log").read_text()
    with pytest.raises(RunError, match=r"b died in run.*exit code 7"):
        run([StandIn(tmp_path / "diary", "b", fails_in="run")], tmp_path)


def test_a_run_that_others_disturbed_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # CPU seconds of the machine: quiet, then 3 cores of other programs in the first run, then quiet again.
    busy = iter([0.0, 0.0, 0.0, 3e6])
    last = 0.0

    def seconds() -> float:
        nonlocal last
        last = next(busy, last)
        return last

    monkeypatch.setattr(quiet, "_busy_seconds", seconds)
    monkeypatch.setattr(quiet.Quiet, "GLANCE", 0.01)
    said: list[str] = []
    diary = tmp_path / "diary"
    (found,) = measure([StandIn(diary)], amount=10, warm_up=3, rounds=2, logs=tmp_path, say=said.append, patience=60.0)
    assert [line.split()[1] for line in diary.read_text().splitlines()] == ["3", "10", "10", "10"]
    assert len(found.runs) == 2
    assert [around["others_cores"] for around in found.around] == [0, 0]
    assert sum("repeated" in line for line in said) == 1


def test_patience_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is never quiet is measured nevertheless, and the record shows it."""
    monkeypatch.setattr(quiet, "_busy_seconds", lambda: time.perf_counter() * 100)
    monkeypatch.setattr(quiet.Quiet, "GLANCE", 0.01)
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
        "from pathlib import Path; from tests.support import benchmarked as t; "
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
    with stopwatch() as seconds:
        time.sleep(0.05)
    after = seconds()
    time.sleep(0.05)
    assert 0.05 <= after < 5
    assert seconds() == after
