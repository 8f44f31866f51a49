"""One attempt at a job: start its commands, wait for its end, and make sure that nothing of it is left on any host.

The ranks' watchers (watch/watcher.py) end a job that fails, and report how on standard error, which is read here. A
report is signed with the job's key, which no output contains (watch/report.py). What is still running after a grace
period is killed over ssh, by the job's name in its processes' environment. (DeepSpeed's own runner never gets SIGINT or
SIGTERM: it would kill processes by a pattern, on all hosts, also those of another job.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, TextIO

from bertnli.common.encodings import with_escapes
from bertnli.common.errors import RunError
from bertnli.common.signals import SIGNALS, meaning, not_ignored
from bertnli.watch.ending import Ending
from bertnli.watch.report import Report, from_line
from bertnli_launch.hostfile import Hosts
from bertnli_launch.remote import RemoteHosts

_GRACE_PERIOD = 10.0  # seconds; once a job has ended on one host, the other hosts have this time to end it themselves
_REFUSED = 2  # the exit code of ranks that were refused before they had the job's key, and have printed why


@dataclass(frozen=True)
class Command:
    """A process to start on this host. files: what it reads. host: whose output it prints (None: that of all hosts)."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    files: Mapping[Path, str]
    host: str | None


def run_attempt(
    commands: Sequence[Command],
    hosts: Hosts,
    environment: Mapping[str, str],
    name: str,
    secret: bytes,
    say: Callable[[str], None],
) -> tuple[Ending, bool, bool]:
    """Run the commands of the job `name` to its end. Returns (ending, error already shown, stopped by a signal).

    The last is true also if the signal came while the job was already failing. environment: for reaching the hosts.
    secret: of the job's key, which its watchers have, too.
    SIGINT, SIGTERM and SIGHUP stop the job with a checkpoint; a second one kills it.
    """
    events: SimpleQueue[Any] = SimpleQueue()
    processes: list[subprocess.Popen[str]] = []
    finished, over = False, threading.Event()

    def stop(number: int) -> None:
        """Send a signal to rank 0's watcher, whose rank tells the others. In a thread: it may not exist yet."""

        def keep_trying() -> None:
            first = list(hosts)[:1]
            while not over.is_set() and not any(signal_job(first, environment, name, number, rank=0).values()):
                over.wait(1)

        threading.Thread(target=keep_trying, daemon=True).start()

    with _signals_to(events.put) as received:
        try:
            for command in commands:
                processes.append(_start(command, next(iter(hosts)), secret, events.put))
            ending, shown = _wait(events, len(commands), hosts, stop, say)
            finished = ending.code == 0
        finally:  # also after an exception: processes on other hosts do not end with this one
            over.set()
            if not finished:
                signal_job(list(hosts), environment, name, signal.SIGKILL)
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return ending, shown, bool(received)


def _wait(
    events: SimpleQueue[Any], running: int, hosts: Hosts, stop: Callable[[int], None], say: Callable[[str], None]
) -> tuple[Ending, bool]:
    """Wait until a job of `running` commands has ended or has to be killed. Returns (ending, error already shown).

    stop: passes a signal on to the ranks.
    """
    reports, codes, stopped_by, deadline = [], {}, 0, None
    while running:
        try:
            event = events.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        if isinstance(event, Report):
            reports.append(event)
        elif isinstance(event, signal.Signals):
            if stopped_by:
                break
            stopped_by = meaning(event)
            stop(stopped_by)
            say(f"{event.name}: the ranks are told to save a checkpoint and end; a second signal kills them")
        else:
            command, code = event
            running -= 1
            codes[command.host] = code
        if deadline is None and (any(report.ending.code for report in reports) or any(codes.values())):
            deadline = time.monotonic() + _GRACE_PERIOD
    return _outcome(reports, codes, hosts, stopped_by)


def signal_job(
    hosts: Sequence[str], environment: Mapping[str, str], name: str, number: int, rank: int | None = None
) -> dict[str, int]:
    """Send a signal to a job's processes on these hosts, or only to the watcher of `rank`.

    Returns for each host that answers how many processes got it; for SIGKILL, how many are still alive.
    """
    request = {"job": name, "number": int(number), "rank": rank}
    with RemoteHosts(hosts, environment) as remotes:
        answers = remotes.ask("signal_job", dict.fromkeys(hosts, request))
    return {host: answer["left"] for host, answer in answers.items()}


def _outcome(
    reports: Sequence[Report], codes: Mapping[str | None, int], hosts: Hosts, stopped_by: int
) -> tuple[Ending, bool]:
    """Rank 0's report counts first, then that of a rank that has lost it, then the exit code of ssh or DeepSpeed."""
    for report in sorted(reports, key=lambda report: (report.rank != 0, report.ending.kind == "lost")):
        if report.ending.code or report.rank == 0:
            return report.ending, report.shown
    if stopped_by:
        return Ending(0, next(iter(hosts)), 128 + stopped_by, f"was stopped by {signal.Signals(stopped_by).name}"), True
    for host, code in codes.items():
        if host is not None and code:
            rank = sum(len(slots) for slots in list(hosts.values())[: list(hosts).index(host)])
            how = f"is gone: its ssh connection ended with exit code {code}"
            return Ending(rank, host, code if code > 0 else 1, how, kind="lost"), code == _REFUSED
    code = next((code for code in codes.values() if code > 0), 1)  # never 0: no rank has reported that the run finished
    how = f"reported nothing, and the launcher ended with exit code {code}"
    return Ending(0, next(iter(hosts)), code, how), code == _REFUSED


def _start(command: Command, first: str, secret: bytes, put: Callable[[Any], None]) -> subprocess.Popen[str]:
    """Start a command. Threads print its output and put reports, and at last its end, into the queue of events."""
    try:
        for path, text in command.files.items():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        problem = f"{path}: cannot be written: {error.strerror}"
        raise RunError(problem, do="make room, or set TMPDIR to another folder") from None
    process = subprocess.Popen(
        command.argv,
        env={**os.environ, **command.environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # so that Ctrl-C on a terminal reaches it only through us
    )
    readers = [
        threading.Thread(target=_read_output, args=(source, target, command.host, first, secret, put), daemon=True)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]

    def wait() -> None:
        for reader in readers:
            reader.join()
        put((command, process.wait()))

    for thread in (*readers, threading.Thread(target=wait, daemon=True)):
        thread.start()
    return process


def _read_output(
    source: IO[str], target: TextIO, host: str | None, first: str, secret: bytes, put: Callable[[Any], None]
) -> None:
    """Print output line by line, with the host's name before lines of other hosts than `first`; pick out reports."""
    for line in source:
        if report := from_line(line, secret):
            put(report)
            continue
        if "] [launch.py:" in line:  # log lines of DeepSpeed's per-host launcher
            continue
        if host is None:  # pdsh has put the host's name before the line
            line = line.removeprefix(f"{first}: ")
        elif host != first:
            line = f"{host}: {line}"
        # The job runs, and reports are read, when nobody reads our output any more.
        with contextlib.suppress(OSError, ValueError):
            target.write(with_escapes(line, target.encoding or "utf-8"))
            target.flush()


@contextlib.contextmanager
def _signals_to(put: Callable[[signal.Signals], None]) -> Iterator[list[signal.Signals]]:
    """Pass the signals that this process gets to `put` instead. Yields the list of those that have come."""
    received: list[signal.Signals] = []

    def note(number: int, frame: object) -> None:
        received.append(signal.Signals(number))
        put(received[-1])

    previous = {number: signal.signal(number, note) for number in not_ignored(SIGNALS)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
