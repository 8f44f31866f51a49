"""The watcher: a small parent of each rank's training process. It makes sure that a job never hangs.

Only a parent learns that a process was killed, and a process that is suspended or hangs cannot report it. So each rank
starts as its watcher, which does not load torch. The watcher starts the training process (child.py) and connects to the
watchers of the other ranks (link.py). When a rank dies, when no rank makes progress for `stall_timeout` seconds, or
when one sends nothing for as long, they agree on one outcome of the job. Then each ends its training process and
itself.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.common.progress import say_lines
from bertnli.watch.child import ChildProcess
from bertnli.watch.ending import PREFIX, Ending
from bertnli.watch.key import Key
from bertnli.watch.link import GRACE_PERIOD, Hub, Link, Spoke
from bertnli.watch.rank_env import Rank
from bertnli.watch.report import Report, to_line


def watch(rank: Rank, command: Sequence[str], logs: Path, stall_timeout: float) -> int:
    """Run `command`, the training process of `rank`, until the job has ended on every host. Returns the exit code.

    logs: a folder that all ranks share; the process's output goes to rank-N.log in it. stall_timeout: in seconds.
    """
    return asyncio.run(_watch(rank, command, logs, stall_timeout))


def refuse(rank: Rank, error: InputError) -> int:
    """End a rank that cannot start. Returns the exit code.

    It does not know the run's folder, or cannot write there, so it has no key and is on no link. As all ranks read the
    same run file, each ends by itself; the first one of each host prints why.
    """
    if rank.local == 0:
        say_lines(f"{PREFIX}{error}")
    return error.exit_code


async def _watch(rank: Rank, command: Sequence[str], logs: Path, stall_timeout: float) -> int:
    child = ChildProcess(rank.number, rank.host)
    link: Link = (Spoke if rank.number else Hub)(rank, stall_timeout, child, logs)
    try:
        await link.open()
        own = await _run_child(child, command, logs / f"rank-{rank.number}.log", link)
        outcome = await link.finish(own)
        _report(rank, outcome, logs, link.key, shown=child.started and rank.number == outcome.rank == 0)
        return outcome.code
    except InputError as error:  # of the link itself
        print(f"{PREFIX}{error}", file=sys.stderr)
        return error.exit_code
    finally:
        await child.kill()
        await link.close()


async def _run_child(child: ChildProcess, command: Sequence[str], log: Path, link: Link) -> Ending | None:
    """How the training process ended; None if the job ended first and the process had to be killed."""
    own = asyncio.ensure_future(child.run(command, log))
    await asyncio.wait({own, link.outcome}, return_when=asyncio.FIRST_COMPLETED)
    if own.done():
        return own.result()
    if not link.outcome.result().failed:  # the other ranks have stopped; this one should stop at any moment
        await asyncio.wait({own}, timeout=GRACE_PERIOD)
        if own.done():
            return own.result()
    if link.outcome.result().kind == "stalled":
        await child.print_stacks()
    own.cancel()
    await asyncio.wait({own})
    return None


def _report(rank: Rank, outcome: Ending, logs: Path, key: Key | None, *, shown: bool) -> None:
    """Print how the job ended: on rank 0, or on a rank that has lost it. `shown`: the error is on the terminal already.

    Under `bertnli launch` every rank that has the job's key prints a line for it to read instead.
    """
    if rank.job is not None and key is not None:
        print(to_line(Report(outcome, rank.number, shown), key.secret), file=sys.stderr, flush=True)
        return
    if outcome.code == 0 or (rank.number != 0 and not (outcome.rank == 0 and outcome.kind == "lost")):
        return
    for line in describe(outcome, logs, shown=shown):
        say_lines(line)


def describe(outcome: Ending, logs: Path, *, shown: bool) -> list[str]:
    """Lines for the user: which rank ended the job and how, its error, and where its output is."""
    lines = [] if shown or not outcome.text else [outcome.text]
    if outcome.failed:
        lines.insert(0, f"{PREFIX}{outcome}")
        lines.append(f"{PREFIX}the ranks' output is in {logs}; the same command continues from the last checkpoint")
    elif outcome.code != 2 and not outcome.text.startswith(PREFIX):
        lines = [f"{PREFIX}{outcome} before its first step; the same command starts it again"]
    return lines
