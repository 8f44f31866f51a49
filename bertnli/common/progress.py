"""Shows the progress of long work on standard error: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from bertnli.common import heartbeat

_LINE_EVERY = 10.0  # seconds between two lines in a log


class Update(Protocol):
    def __call__(self, done: int, note: str, total: int | None = None) -> None:
        """done: number of items. note: a few words. total: number of all items, if `progress` was not told it."""


@contextmanager
def progress(
    what: str, total: int | None = None, *, quiet: bool = False, start: int = 0, in_bytes: bool = False
) -> Iterator[Update]:
    """Yields the function to call with each progress.

    what: names the items. total: number of all items; None if not known yet. quiet: only send heartbeats. start: number
    of items that were done before. in_bytes: items are bytes, shown in MB.
    """
    if quiet:
        yield lambda done, note, total=None: heartbeat.beat(f"{what} {done}")
    elif sys.stderr.isatty():
        from rich import progress as rich
        from rich.console import Console

        counted: tuple[str | rich.ProgressColumn, ...]
        if in_bytes:  # without the name, so that the bar fits into 80 columns
            counted = (rich.BarColumn(), rich.DownloadColumn(), rich.TransferSpeedColumn())
        else:
            counted = (what, rich.BarColumn(), rich.MofNCompleteColumn(), rich.TextColumn("{task.fields[note]}"))
        with rich.Progress(*counted, rich.TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total, completed=start, note="")

            def move(done: int, note: str, total: int | None = total) -> None:
                heartbeat.beat(f"{what} {done}")
                bar.update(task, completed=done, note=note, total=total)

            yield move
    else:
        began = time.monotonic()
        said = began - _LINE_EVERY

        def line(done: int, note: str, total: int | None = total) -> None:
            nonlocal said
            heartbeat.beat(f"{what} {done}")
            now = time.monotonic()
            if done == total or now - said >= _LINE_EVERY:
                said = now
                counts = [megabytes(count) if in_bytes else str(count) for count in (done, total) if count is not None]
                left = ""
                if total is not None and start < done < total:
                    seconds = round((now - began) / (done - start) * (total - done))
                    left = f", {timedelta(seconds=seconds)} left"
                say(f"{what} {' of '.join(counts) if in_bytes else '/'.join(counts)} {note}".rstrip() + left)

        yield line


def say(text: str) -> None:
    """Print one line for the user on standard error; standard output is for the summary."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
