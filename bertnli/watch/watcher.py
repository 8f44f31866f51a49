"""The watcher: a small parent of each rank's training process, which sees to it that a job never hangs.

Only a parent learns that a process was killed, and a process that is stopped or hangs cannot say so. So a rank starts
as its watcher (there is no torch in it), which starts the trainer (child.py) and links up with the other
ranks' watchers (link.py). When a rank dies, when none makes progress for `stall_timeout` or one gives no sign
for as long, they agree on the job's one ending, and each of them ends its trainer and itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.watch.child import Trainer
from bertnli.watch.ending import Ending
from bertnli.watch.link import PATIENCE, Hub, Link, Spoke
from bertnli.watch.rank_env import Rank

MARK = "bertnli-ending: "
"""Begins the line of standard error by which a watcher tells `bertnli launch` how the job ended: a JSON object."""


def watch(
    rank: Rank, command: Sequence[str], logs: Path | None, stall_timeout: float, refused: InputError | None = None
) -> int:
    """Run `command`, the trainer of `rank`, until the job has ended on every host; the job's exit code.

    logs: a folder; the trainer's output goes to rank-N.log in it. stall_timeout: in seconds. refused: why the rank
    cannot start, in place of `logs`; the job ends so.
    """
    return asyncio.run(_watch(rank, command, logs, stall_timeout, refused))


async def _watch(
    rank: Rank, command: Sequence[str], logs: Path | None, stall_timeout: float, refused: InputError | None
) -> int:
    trainer = Trainer(rank.number, rank.host)
    link: Link = (Spoke if rank.number else Hub)(rank, stall_timeout, trainer)
    try:
        await link.open()
        own: Ending | None
        if refused is not None:
            own = Ending(rank.number, rank.host, refused.exit_code, "was refused", f"bertnli train: {refused}")
        else:
            assert logs is not None
            own = await _train(trainer, command, logs / f"rank-{rank.number}.log", link)
        verdict = await link.settle(own)
        _tell(rank, verdict, logs, shown=trainer.started and rank.number == verdict.rank == 0)
        return verdict.code
    except InputError as error:  # of the link itself
        print(f"bertnli train: {error}", file=sys.stderr)
        return error.exit_code
    finally:
        await trainer.end()
        await link.close()


async def _train(trainer: Trainer, command: Sequence[str], log: Path, link: Link) -> Ending | None:
    """How the trainer ended; None where the job ended before it, and the trainer had to be ended."""
    own = asyncio.ensure_future(trainer.run(command, log))
    await asyncio.wait({own, link.verdict}, return_when=asyncio.FIRST_COMPLETED)
    if own.done():
        return own.result()
    if not link.verdict.result().failed:  # the others have stopped, and so should this one any moment
        await asyncio.wait({own}, timeout=PATIENCE)
        if own.done():
            return own.result()
    if link.verdict.result().kind == "stalled":
        await trainer.show_stacks()
    own.cancel()
    await asyncio.wait({own})
    return None


def _tell(rank: Rank, verdict: Ending, logs: Path | None, *, shown: bool) -> None:
    """Say how the job ended, on rank 0 or where that cannot be reached. `shown`: its last words are on the terminal."""
    if rank.job is not None:
        told = {"ending": verdict.to_json(), "heard_by": rank.number, "shown": shown}
        print(MARK + json.dumps(told), file=sys.stderr, flush=True)
        return
    if verdict.code == 0 or (rank.number != 0 and not (verdict.rank == 0 and verdict.kind == "lost")):
        return
    for line in about(verdict, logs, shown=shown):
        print(line, file=sys.stderr, flush=True)


def about(verdict: Ending, logs: Path | None, *, shown: bool) -> list[str]:
    """For a person: which rank ended the job and how, its last words, and where to find more."""
    lines = [] if shown or not verdict.text else [verdict.text]
    if verdict.failed:
        lines.insert(0, f"bertnli train: {verdict}")
        if logs is not None:
            lines.append(
                f"bertnli train: the ranks' output is in {logs}; the same command goes on from the last checkpoint"
            )
    elif verdict.code != 2 and not verdict.text.startswith("bertnli train: "):
        lines = [f"bertnli train: {verdict} before its first step; the same command starts it again"]
    return lines
