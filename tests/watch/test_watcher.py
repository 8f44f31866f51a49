"""Jobs of stand-in training processes under real watchers: however a rank ends, all end, and the cause is named."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bertnli.common import heartbeat, locks
from bertnli.common.errors import InputError, RunError
from bertnli.common.network import free_port
from bertnli.train import process as ranks
from bertnli.train.process import main
from bertnli.watch.child import ChildProcess
from bertnli.watch.link import Hub
from bertnli.watch.rank_env import Rank, watch_port
from tests.conftest import environment
from tests.support.watched import HOST, MOVES, WAITS, Job, wait_until


@pytest.fixture
def job(tmp_path):
    made: list[Job] = []

    def make(*scripts: str, **options: Any) -> Job:
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(Job(folder, list(scripts), **options))
        return made[-1]

    yield make
    for one in made:
        for process in one.processes():
            process.kill()


def test_a_job_that_finishes(job):
    made = job("print('out 0'); print('err 0', file=sys.stderr)", "time.sleep(0.5); print('out 1')")
    codes, said = made.ends()
    assert codes == [0, 0], said
    assert made.out == ["out 0\n", ""] and "err 0" in said[0] and said[1] == ""
    assert "out 0" in (made.logs / "rank-0.log").read_text() and "out 1" in (made.logs / "rank-1.log").read_text()


def test_an_exception_ends_all_with_its_traceback_last(job):
    """The processes that the ranks have started end, too."""
    made = job(
        "child = subprocess.Popen(['sleep', '1000']); print('started', file=sys.stderr, flush=True)\n" + MOVES,
        "wait_for('logs/rank-0.log', 'started')\ndef load_rows():\n    raise ValueError('no such row')\nload_rows()",
        MOVES,
    )
    codes, said = made.ends()
    assert codes == [1, 1, 1]
    last = said[0][said[0].index("bertnli train: rank") :]
    assert last.startswith(
        f"bertnli train: rank 1 on {HOST} ended with exit code 1\nTraceback (most recent call last):"
    )
    assert "in load_rows" in last and "ValueError: no such row" in last and str(made.logs) in last
    assert said[1] == said[2] == ""


def test_a_killed_rank_is_named_although_another_complains_first(job):
    complains = "meet(); raise RuntimeError('[gloo/transport/tcp/pair.cc] Connection closed by peer')"
    killed = "wait_for('logs/rank-0.log', '--- .* ended with'); time.sleep(0.6); os.kill(os.getpid(), signal.SIGKILL)"
    codes, said = job(complains, killed, MOVES).ends()
    assert codes == [137, 137, 137]
    assert f"bertnli train: rank 1 on {HOST} was killed by SIGKILL (by a user, or by the kernel" in said[0]


def test_a_complaint_about_a_peer_counts_where_nothing_else_comes(job):
    codes, said = job("raise RuntimeError('Connection reset by peer')", MOVES).ends()
    assert codes == [1, 1] and "Connection reset by peer" in said[0]


def test_a_suspended_rank(job):
    waits = "beat('step 3', waiting=True)\n" + WAITS
    made = job(waits, "while True: beat('step 3'); time.sleep(0.1)\n", waits, stalls=True)
    made.linked()
    made.training(1).suspend()
    codes, said = made.ends()
    assert codes == [1, 1, 1]
    assert f"rank 1 on {HOST} made no progress for {made.stall:g} s, in step 3; it was suspended" in said[0]


def test_a_rank_that_hangs_while_others_wait_shows_where(job):
    hangs = "def hanging_here():\n    " + WAITS + "beat('step 7')\nhanging_here()\n"
    made = job("beat('step 7', waiting=True)\n" + WAITS, hangs, stalls=True)
    codes, said = made.ends()
    assert codes == [1, 1] and f"rank 1 on {HOST} made no progress for {made.stall:g} s, in step 7" in said[0]
    assert "hanging_here" in (made.logs / "rank-1.log").read_text()


def test_no_stall_while_one_rank_moves(job):
    made = job(
        "while not Path(os.environ['BERTNLI_TEST'], 'over').exists(): beat('tokenising'); time.sleep(0.1)",
        "beat('waiting', waiting=True); wait_for('over')",
        stalls=True,
    )
    made.linked()
    time.sleep(1.6 * made.stall)
    (made.folder / "over").touch()
    assert made.ends()[0] == [0, 0]


def test_a_rank_that_never_comes(job):
    made = job(WAITS, stalls=True, world=2)
    codes, said = made.ends()
    assert codes == [1] and f"rank 1 on an unknown host has not joined the others for {made.stall:g} s" in said[0]


def test_a_job_that_was_suspended_as_a_whole_goes_on(job):
    """As Slurm suspends a job: no watcher could send anything."""
    counts = "while not Path(os.environ['BERTNLI_TEST'], 'over').exists(): beat('step'); time.sleep(0.05)\n"
    made = job(counts, counts, counts, stalls=True)
    made.linked()
    processes = made.processes()
    for process in processes:
        process.suspend()
    time.sleep(made.stall + 2 * made.heartbeat)
    for process in processes:
        process.resume()
    time.sleep(6 * made.heartbeat)  # the watchers' allowance for a job that was suspended is 5
    (made.folder / "over").touch()
    codes, said = made.ends()
    assert codes == [0, 0, 0], said


@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_watcher_takes_its_training_process_with_it_and_ends_the_job(job, who):
    made = job(MOVES, MOVES)
    made.linked()
    made.watchers[who].kill()
    codes, said = made.ends()
    assert codes[who] == -9 and codes[1 - who] == 1
    assert f"bertnli train: rank {who} on " in said[1 - who] and "is gone" in said[1 - who]


@pytest.mark.parametrize("who", [0, 1])
def test_a_silent_watcher_is_lost(job, who):
    """As if a network cable is pulled: the connection stays open, and no message comes."""
    made = job(MOVES, MOVES, stalls=True)
    made.linked()
    made.watchers[who].send_signal(signal.SIGSTOP)
    other = made.watchers[1 - who]
    try:
        _, said = other.communicate(timeout=45)
    finally:
        made.watchers[who].send_signal(signal.SIGCONT)
    assert other.returncode == 1 and f"rank {who} on " in said and f"sent nothing for {made.stall:g} s" in said
    assert made.ends()[0] == [1, 1]


def test_a_watcher_that_cannot_reach_rank_0_ends_by_itself(tmp_path):
    made = Job(tmp_path, [], stalls=True, world=2)
    made.watchers = [made.start(1, MOVES)]
    codes, said = made.ends()
    address = f"127.0.0.1:{made.variables['BERTNLI_WATCH_PORT']}"
    assert codes == [1] and f"was not reached at {address} for {made.stall:g} s" in said[0]
    assert "choose another with BERTNLI_WATCH_PORT" in said[0]


STOPS = (  # as the training loop does
    "def note(number, frame):\n"
    "    print('bertnli train: stopped after step 3', file=sys.stderr, flush=True)\n"
    "    time.sleep(0.5)\n"
    "    sys.exit(128 + number)\n"
    "signal.signal(signal.SIGINT, note); signal.signal(signal.SIGTERM, note)\n"
    "print('now it can stop', file=sys.stderr, flush=True)\n"
)


@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143), (signal.SIGHUP, 143)],
    ids=lambda x: str(x),
)
def test_a_signal_reaches_the_training_process_and_the_job_ends_as_stopped(job, sent, code):
    """In the real loop rank 1 gets the request from rank 0. Here it ends a moment after rank 0."""
    made = job(STOPS + MOVES, "wait_for('logs/rank-0.log', '--- .* was stopped by'); time.sleep(0.5); sys.exit(143)")
    made.linked()
    made.training(0, "now it can stop")
    made.watchers[0].send_signal(sent)
    if sent != signal.SIGINT:
        made.training(0, "bertnli train: stopped after step 3")
        made.watchers[0].send_signal(sent)  # DeepSpeed's launcher and Slurm send it more than once
    codes, said = made.ends()
    assert codes == [code, code]
    assert said[0].count("bertnli train: stopped after step 3") == 1 and "last checkpoint" not in said[0]


def test_a_second_ctrl_c_does_not_wait(job):
    note = "lambda *_: print('one came', file=sys.stderr, flush=True)"
    made = job(f"signal.signal(signal.SIGINT, {note})\nprint('now it can stop', file=sys.stderr)\n" + MOVES)
    made.training(0, "now it can stop")
    made.watchers[0].send_signal(signal.SIGINT)
    made.training(0, "one came")
    made.watchers[0].send_signal(signal.SIGINT)
    assert made.ends()[0] == [130]


def test_a_refused_input_is_told_once_by_whoever_finds_it(job):
    silent = "sys.exit(2)"
    speaks = "print('bertnli train: key model is missing', file=sys.stderr); sys.exit(2)"
    codes, said = job(silent, speaks, silent).ends()
    assert codes == [2, 2, 2]
    assert (
        said[0].count("key model is missing") == 1 and "Traceback" not in said[0] and "last checkpoint" not in said[0]
    )


def test_a_stranger_at_the_port_is_ignored(job):
    made = job("wait_for('over')", "wait_for('over')")
    made.linked()
    for line in (b"GET / HTTP/1.1\r\n\r\n", b'{"token": "of another job", "rank": 1, "host": "x"}\n', b"\xff\n"):
        with socket.create_connection(("127.0.0.1", int(made.variables["BERTNLI_WATCH_PORT"]))) as link:
            link.sendall(line)
            assert link.recv(100) == b""  # nothing is sent, and the connection is closed
    (made.folder / "over").touch()
    assert made.ends()[0] == [0, 0]


OVER = "wait_for('over')"


@pytest.mark.parametrize("here", [True, False], ids=["ranks of one host", "one port for both"])
def test_two_jobs_on_one_master_port_both_finish(job, here):
    """Where all ranks are on one host their watchers choose a port. Otherwise the second job waits for that port."""
    port = None if here else str(free_port())
    same = {"LOCAL_WORLD_SIZE": "2" if here else "1", "BERTNLI_WATCH_PORT": port}
    first = job(OVER, OVER, variables=same)
    for rank in (0, 1):
        first.training(rank)
    second = job(OVER, OVER, variables=same)
    for rank in (0, 1) if here else (1,):
        second.training(rank)
    time.sleep(4 * first.heartbeat)
    for made in (first, second):
        (made.folder / "over").touch()
        codes, said = made.ends()
        assert codes == [0, 0], said


def test_a_thousand_idle_connections_shut_no_rank_out(job):
    """Rank 0's watcher may have 1,024 files open."""
    needed, (soft, hard) = 1300, resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip(f"this user may open only {hard} files")

    made = job(OVER, world=2)
    resource.prlimit(made.watchers[0].pid, resource.RLIMIT_NOFILE, (1024, 1024))
    made.training(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        with contextlib.ExitStack() as idle:
            address = ("127.0.0.1", int(made.variables["BERTNLI_WATCH_PORT"]))
            for _ in range(1100):
                idle.enter_context(socket.create_connection(address))
            made.watchers.append(made.start(1, OVER))
            made.linked()
            (made.folder / "over").touch()
            codes, said = made.ends()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert codes == [0, 0] and said == ["ready\n", ""]


def test_last_words_of_many_bytes_end_every_rank(job):
    codes, said = job("raise SystemExit('bertnli train: ' + chr(0x1F600) * 6000)", MOVES).ends()
    assert codes == [1, 1] and said[0].endswith("continues from the last checkpoint\n")


def test_the_key_is_in_no_command_line_and_no_environment(job):
    made = job(OVER, OVER)
    made.linked()
    (key,) = made.logs.glob(".key-*")
    secret = json.loads(key.read_text())["secret"]
    assert len(made.processes()) == 4
    for process in made.processes():
        assert secret not in " ".join(process.cmdline()) and secret not in process.environ().values()
    (made.folder / "over").touch()
    assert made.ends()[0] == [0, 0] and not key.exists()


def test_a_taken_port_is_an_error_with_its_fix(monkeypatch):
    monkeypatch.setattr("bertnli.watch.link.GRACE_PERIOD", 0.0)
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        variables = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}

        async def open_hub() -> None:
            await Hub(Rank({**variables, "BERTNLI_WATCH_PORT": str(port)}), 60, ChildProcess(0, HOST)).open()

        with pytest.raises(InputError, match=rf"port {port}, where rank 0 .*in use; set BERTNLI_WATCH_PORT"):
            asyncio.run(open_hub())


@pytest.mark.parametrize(
    ("variables", "port"),
    [
        ({"MASTER_PORT": "29500"}, 19500),
        ({"MASTER_PORT": "6000"}, 16000),
        ({"MASTER_PORT": "29500", "BERTNLI_WATCH_PORT": "7"}, 7),
    ],
)
def test_the_watchers_port(variables, port):
    assert watch_port(variables) == port


@pytest.mark.parametrize("named", ["abc", "0", "65536", "-1"])
def test_a_watchers_port_that_is_not_a_port(named):
    with pytest.raises(InputError, match=f"BERTNLI_WATCH_PORT; found '{named}'; expected a port, 1 to 65535"):
        watch_port({"MASTER_PORT": "29500", "BERTNLI_WATCH_PORT": named})


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"RANK": "0"}, "bertnli train: WORLD_SIZE is not set, but the launcher's other variables are"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1", "BERTNLI_WATCH_PORT": "x"},
            "bertnli train: BERTNLI_WATCH_PORT; found 'x'",
        ),
    ],
)
def test_a_ranks_variables_that_are_wrong_are_one_message(monkeypatch, capsys, variables, said):
    for name in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main(["run.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(said) and len(err.splitlines()) == 1


def test_a_process_without_a_watcher_sends_no_heartbeats():
    script = "from bertnli.common import heartbeat; heartbeat.start(); heartbeat.beat('step'); print('fine')"
    variables = {name: value for name, value in environment().items() if name != "BERTNLI_HEARTBEAT"}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True)
    assert done.stdout == "fine\n", done.stderr


def test_training_does_not_wait_for_a_watcher_that_does_not_read():
    reading, writing = os.pipe()
    script = (
        "from bertnli.common import heartbeat; heartbeat.start()\n"
        "for _ in range(20_000): heartbeat.beat('a step with many words to fill the pipe')\nprint('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment(BERTNLI_HEARTBEAT=f"{writing}:{os.getpid()}"),
        pass_fds=[writing],
        capture_output=True,
        text=True,
        timeout=30,
    )
    os.close(reading)
    os.close(writing)
    assert done.stdout == "done\n", done.stderr


def test_waiting_for_another_process_is_not_a_stall(tmp_path, monkeypatch):
    """Waiting for a library's transfer, or for the lock of another process that fetches or tokenises the same."""
    phases = []
    monkeypatch.setattr(heartbeat, "beat", phases.append)
    monkeypatch.setattr(heartbeat, "_INTERVAL", 0.01)
    monkeypatch.setattr(locks, "_INTERVAL", 0.02)
    with heartbeat.periodic("fetching org/name"):
        wait_until(lambda: len(phases) > 1)
    beats = len(phases)
    assert set(phases) == {"fetching org/name"}
    time.sleep(0.1)
    assert len(phases) == beats
    said = []
    with locks.held(tmp_path / "lock", "theirs"):
        waiting = threading.Thread(target=lambda: locks.held(tmp_path / "lock", "wait", said.append).__enter__())
        waiting.start()
        wait_until(lambda: phases.count("wait") > 1)
    waiting.join()
    assert said == ["wait"] and "theirs" not in phases


def test_a_ranks_error_is_told_where_its_log_cannot_be_written():
    command = [sys.executable, "-c", "raise SystemExit('bertnli train: no room')"]
    ending = asyncio.run(ChildProcess(1, HOST).run(command, Path("/dev/full")))
    assert (ending.code, ending.text) == (1, "bertnli train: no room")


def test_what_failed_besides_is_told_too(monkeypatch, capsys, tmp_path):
    """For example, a checkpoint that was being written when the run ended with another error."""
    error = RunError("the first")
    error.add_note("checkpoint: the second")

    def fails(*_, **__):
        raise error

    monkeypatch.setattr(ranks, "run_of_job", fails)
    monkeypatch.chdir(tmp_path)
    assert ranks._train(ranks.parser().parse_args(["run.yaml"])) == 1
    assert capsys.readouterr().err == "bertnli train: the first\ncheckpoint: the second\n"
