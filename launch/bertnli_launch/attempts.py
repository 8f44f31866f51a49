"""One attempt at a job, from its commands to the moment when nothing of it is left on any host.

The ranks' watchers (watch/watcher.py) end a job that fails, and tell its ending on standard error. Here that is heard;
what has not ended soon after is ended over ssh, by the job's name in its processes' environment. (Never DeepSpeed's
own runner by SIGINT or SIGTERM: it then ends by pattern, on all hosts, what may be another job's.)
"""

from __future__ import annotations

import contextlib
import json
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
from typing import IO, Any

from bertnli.common.signals import heeded
from bertnli.watch.ending import Ending
from bertnli.watch.watcher import MARK
from bertnli_launch.hostfile import Hosts
from bertnli_launch.remote import Inquiry

_GRACE = 10.0  # seconds in which a job that has ended on one host ends on the others by itself
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Command:
    """A process to start on this host. files: what it reads. host: the one whose output it gives, None for all."""

    words: Sequence[str]
    environment: Mapping[str, str]
    files: Mapping[Path, str]
    host: str | None


@dataclass(frozen=True)
class _Heard:
    """That a watcher has told an ending. by: the rank that it watches; shown: rank 0 has printed the last words."""

    ending: Ending
    by: int
    shown: bool


def attempt(
    started: Sequence[Command], hosts: Hosts, environment: Mapping[str, str], name: str, say: Callable[[str], None]
) -> tuple[Ending, bool, bool]:
    """Run the commands of the job `name` to its end: how it ended, whether its last words have been shown, and whether
    a signal asked for it, be it while the job was failing by itself.

    environment: for reaching the hosts. SIGINT, SIGTERM and SIGHUP stop the job with a checkpoint kept, a second one at
    once.
    """
    events: SimpleQueue[Any] = SimpleQueue()
    processes: list[subprocess.Popen[str]] = []
    finished, over = False, threading.Event()

    def ask(number: int) -> None:
        """Rank 0's watcher, which tells the others; in a thread, as this takes a while, until there is one."""

        def insist() -> None:
            while not over.is_set() and not any(end(list(hosts)[:1], environment, name, number, rank=0).values()):
                over.wait(1)

        threading.Thread(target=insist, daemon=True).start()

    with _signals_to(events.put) as asked:
        try:
            for command in started:
                processes.append(_start(command, next(iter(hosts)), events.put))
            ending, shown = _follow(events, len(started), hosts, ask, say)
            finished = ending.code == 0
        finally:  # also after an exception: what runs on other hosts does not end with this process
            over.set()
            if not finished:
                end(list(hosts), environment, name, signal.SIGKILL)
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return ending, shown, bool(asked)


def _follow(
    events: SimpleQueue[Any], left: int, hosts: Hosts, ask: Callable[[int], None], say: Callable[[str], None]
) -> tuple[Ending, bool]:
    """Until a job of `left` commands has ended or has to be ended: how it did, and whether that has been shown.

    ask: passes a signal on to the ranks.
    """
    heard, codes, asked, deadline = [], {}, 0, None
    while left:
        try:
            event = events.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            break
        if isinstance(event, _Heard):
            heard.append(event)
        elif isinstance(event, signal.Signals):
            if asked:
                break
            asked = signal.SIGINT if event == signal.SIGINT else signal.SIGTERM
            ask(asked)
            say(f"{event.name}: the ranks are asked to keep a checkpoint and end; once more ends them at once")
        else:
            command, code = event
            left -= 1
            codes[command.host] = code
        if deadline is None and (any(one.ending.code for one in heard) or any(codes.values())):
            deadline = time.monotonic() + _GRACE
    return _outcome(heard, codes, hosts, asked)


def end(
    hosts: Sequence[str], environment: Mapping[str, str], name: str, number: int, rank: int | None = None
) -> dict[str, int]:
    """Send a signal to a job's processes on these hosts, or to the watcher of `rank` alone: how many it went to on
    each host that answers; of SIGKILL, how many it has not ended.
    """
    request = {"job": name, "number": int(number), "rank": rank}
    with Inquiry(hosts, environment) as inquiry:
        answers = inquiry.ask("end", dict.fromkeys(hosts, request))
    return {host: answer["left"] for host, answer in answers.items()}


def _outcome(heard: Sequence[_Heard], codes: Mapping[str | None, int], hosts: Hosts, asked: int) -> tuple[Ending, bool]:
    """Rank 0's word counts for most; then a rank's that has lost it; then what ssh or DeepSpeed's runner ended with."""
    for one in sorted(heard, key=lambda one: (one.by != 0, one.ending.kind == "lost")):
        if one.ending.code or one.by == 0:
            return one.ending, one.shown
    if asked:
        return Ending(0, next(iter(hosts)), 128 + asked, f"was stopped by {signal.Signals(asked).name}"), True
    for host, code in codes.items():
        if host is not None and code:
            rank = sum(len(slots) for slots in list(hosts.values())[: list(hosts).index(host)])
            how = f"is gone: its ssh connection ended with exit code {code}"
            return Ending(rank, host, code if code > 0 else 1, how, kind="lost"), False
    code = next((code for code in codes.values() if code > 0), 1)  # never 0: nobody has said that the run is finished
    return Ending(0, next(iter(hosts)), code, f"said nothing, and the launcher ended with exit code {code}"), False


def _start(command: Command, first: str, put: Callable[[Any], None]) -> subprocess.Popen[str]:
    """Start a command; its output is shown, and what it means is put among the events, its end last."""
    for path, text in command.files.items():
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    process = subprocess.Popen(
        command.words,
        env={**os.environ, **command.environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    pumps = [
        threading.Thread(target=_show, args=(source, target, command.host, first, put), daemon=True)
        for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr))
    ]

    def wait() -> None:
        for pump in pumps:
            pump.join()
        put((command, process.wait()))

    for thread in (*pumps, threading.Thread(target=wait, daemon=True)):
        thread.start()
    return process


def _show(source: IO[str], target: IO[str], host: str | None, first: str, put: Callable[[Any], None]) -> None:
    """Line by line, with the host's name before those of other hosts than `first`."""
    for line in source:
        _, mark, told = line.partition(MARK)
        if mark:
            with contextlib.suppress(ValueError):
                about = json.loads(told)
                put(_Heard(Ending(**about["ending"]), about["heard_by"], about["shown"]))
                continue
        if "] [launch.py:" in line:  # DeepSpeed's launcher on each host about what it does
            continue
        if host is None:  # pdsh has put the host's name before it
            line = line.removeprefix(f"{first}: ")
        elif host != first:
            line = f"{host}: {line}"
        with contextlib.suppress(OSError):  # the job goes on, and is heard, where nobody reads it any more
            target.write(line)
            target.flush()


@contextlib.contextmanager
def _signals_to(put: Callable[[signal.Signals], None]) -> Iterator[list[signal.Signals]]:
    """Yields the list of those that have come."""
    came: list[signal.Signals] = []

    def note(number: int, frame: object) -> None:
        came.append(signal.Signals(number))
        put(came[-1])

    before = {number: signal.signal(number, note) for number in heeded(_SIGNALS)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
