"""A machine that others use: the loops beside a peer, its quota, and what is made of the rates."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import busy, machine
from benchmarks.busy import ALONE, InPlaces, in_places, limited, name_of, record, spinning
from benchmarks.harness import Measured
from benchmarks.peer import Run, Unavailable
from benchmarks.table import table
from benchmarks.targets import targets
from tests.conftest import environment
from tests.support.benchmarked import StandIn

ONE, TWO = name_of(1), name_of(2)
SHARES = {ALONE: 1.0, ONE: 1 / 2, TWO: 1 / 3}


def loops_of(pid: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(pid).children() if "-S" in child.cmdline()]


def test_loops_keep_cores_busy_and_end_with_their_block() -> None:
    with spinning(2):
        loops = loops_of(os.getpid())
        assert len(loops) == 2
        assert {loop.nice() for loop in loops} == {os.nice(0)}
        until = time.monotonic() + 20
        while min(sum(loop.cpu_times()[:2]) for loop in loops) < 0.05:
            assert time.monotonic() < until
            time.sleep(0.01)
    assert not any(loop.is_running() for loop in loops)


def test_loops_end_with_a_process_that_was_killed() -> None:
    program = "import time; from benchmarks.busy import spinning\nwith spinning(1): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program], env=environment(), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        loops = loops_of(process.pid)
        process.kill()
    assert len(loops) == 1
    assert not psutil.wait_procs(loops, timeout=20)[1]


def test_every_peer_runs_in_every_place_in_each_round(tmp_path: Path) -> None:
    diary, there = tmp_path / "diary", []

    def place(name: str) -> busy.Place:
        @contextmanager
        def context(pids: Sequence[int]) -> Iterator[None]:
            there.append((name, len(pids)))
            yield

        return context

    peers = [StandIn(diary, "a"), StandIn(diary, "b", fails_in="missing"), StandIn(diary, "c")]
    places = {name: place(name) for name in SHARES}
    found = in_places(peers, places, SHARES, 40, 4, 2, tmp_path / "logs", lambda line: None)
    assert there == [(name, 1) for _ in range(2) for name in SHARES for _ in "ac"]
    runs = [line.split()[:2] for line in diary.read_text().splitlines()]
    assert runs[:4] == [["a", "4"], ["c", "4"], ["a", "4"], ["c", "4"]]  # warm-ups, and runs for the amounts
    # At 2 pairs/s, in 3 seconds at the fair share: 6, 3 and 2 pairs, and always whole batches of 4.
    assert runs[4:10] == [["a", "4"], ["c", "4"]] * 3
    assert found[1].measured.skipped == "no such library here"
    assert [len(found[0].runs[name]) for name in SHARES] == [2, 2, 2]


def test_a_run_takes_the_same_time_in_every_place(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    places = {name: lambda pids: spinning(0) for name in SHARES}
    in_places([StandIn(diary)], places, SHARES, 10**6, 120, 1, tmp_path / "logs", lambda line: None)
    assert [int(line.split()[1]) for line in diary.read_text().splitlines()][2:] == [120, 120, 120]
    diary.unlink()
    in_places([StandIn(diary)], places, SHARES, 10, 1, 1, tmp_path / "logs", lambda line: None)
    assert [int(line.split()[1]) for line in diary.read_text().splitlines()][2:] == [1, 1, 1]


# --- a quota ----------------------------------------------------------------------------------------------------------


def test_a_quota_is_a_control_group_of_the_peers_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io\n")
    (tmp_path / "mine").mkdir()
    monkeypatch.setattr(busy, "_group_of", lambda pid: "mine")
    with limited([12], 1.5, tmp_path):
        (group,) = tmp_path.glob("bertnli-*")
        assert (group / "cpu.max").read_text() == "150000 100000"
        assert (group / "cgroup.procs").read_text() == "12"
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    assert (tmp_path / "mine" / "cgroup.procs").read_text() == "12"


def test_where_no_quota_can_be_set_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no quota of cgroup v2 can be set"), limited([], 1.5, tmp_path):
        pass
    (tmp_path / "cgroup.controllers").write_text("cpuset io\n")
    with pytest.raises(Unavailable, match="no cpu controller"), limited([], 1.5, tmp_path):
        pass
    assert not list(tmp_path.glob("bertnli-*"))


# --- what is kept -----------------------------------------------------------------------------------------------------


def in_rounds(folder: Path, name: str, **rates: Sequence[float]) -> InPlaces:
    runs = {place: [Run(rate, 1.0) for rate in rates[key]] for place, key in ((ALONE, "alone"), (ONE, "one"))}
    return InPlaces(Measured(StandIn(folder, name, about=f"the {name} way"), peak_rss=2**20), runs)


@pytest.fixture
def result(tmp_path: Path) -> dict[str, Any]:
    shares = {ALONE: 1.0, ONE: 0.5}
    # The machine is half as fast in the second round, which changes no ratio.
    ours = in_rounds(tmp_path, "bertnli", alone=[100, 50], one=[30, 15])
    trainer = in_rounds(tmp_path, "trainer-defaults", alone=[20, 10], one=[5, 2.5])
    scorer = in_rounds(tmp_path, "cross-encoder", alone=[40, 20], one=[20, 10])
    absent = InPlaces(Measured(StandIn(tmp_path, "trainer-best", about="the best way"), skipped="no such package"))
    tasks = {"training": [trainer, absent, ours], "scoring": [scorer, ours]}
    return {
        "name": "busy",
        "kind": "busy",
        **machine.describe(),
        "work": {"rows_from": "snli-100k", "rows": 64, "batch_size": 32},
        "rounds": 2,
        "places": shares,
        "not_measured": {"quota of 1.5 cores": "no cgroup v2"},
        "tasks": {task: {"peers": record(peers, shares)} for task, peers in tasks.items()},
    }


def test_ratios_are_of_the_same_round(result: dict[str, Any]) -> None:
    trainer, absent, ours = result["tasks"]["training"]["peers"]
    assert ours["per_second"][ONE] == {"median": 22.5, "min": 15, "max": 30}
    assert ours["of_fair_share"] == {ONE: {"median": 0.6, "min": 0.6, "max": 0.6}}
    assert trainer["bertnli_over_it"][ONE] == {"median": 6.0, "min": 6.0, "max": 6.0}
    assert "bertnli_over_it" not in ours
    assert absent["skipped"] == "no such package"


def test_the_targets_of_a_busy_machine(result: dict[str, Any]) -> None:
    verdicts = {target.what: target.met for target in targets(result)}
    assert verdicts == {
        f"training {ONE}, rate over the Trainer's with its defaults": True,
        f"training {ONE}, rate over its fair share": True,
        f"scoring {ONE}, rate over CrossEncoder.predict's": False,
        f"scoring {ONE}, rate over its fair share": True,
    }
    result["tasks"]["training"]["peers"][0] = {"name": "trainer-defaults", "about": "", "skipped": "no accelerate"}
    result["tasks"]["training"]["peers"][2]["of_fair_share"][ONE]["median"] = 0.49
    assert [target.met for target in targets(result)][:2] == [None, False]


def test_the_table_of_a_busy_machine(result: dict[str, Any]) -> None:
    lines = table(result).splitlines()
    assert lines[:3] == ["### On a machine that others use too", "", f"| training, pairs/s | alone | {ONE} |"]
    assert "| the bertnli way | 75.0 (50.0 to 100) | 22.5 (15.0 to 30.0) |" in lines
    assert "| the bertnli way |  | 0.600 (0.600 to 0.600) |" in lines
    assert "| the cross-encoder way | 2.50 (2.50 to 2.50) x | 1.50 (1.50 to 1.50) x |" in lines
    assert "Skipped: the best way: no such package." in lines
    assert "Not measurable here: quota of 1.5 cores: no cgroup v2." in lines
