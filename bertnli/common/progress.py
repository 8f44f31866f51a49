"""Shows the progress of long work on standard error: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol

from bertnli.common import heartbeat
from bertnli.common.printable import printable, printable_lines

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
            named = rich.TextColumn("{task.description}", markup=False)  # a [ in a name is no markup
            noted = rich.TextColumn("{task.fields[note]}", markup=False)
            counted = (named, rich.BarColumn(), rich.MofNCompleteColumn(), noted)
        with rich.Progress(*counted, rich.TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(printable(what), total=total, completed=start, note="")

            def move(done: int, note: str, total: int | None = total) -> None:
                heartbeat.beat(f"{what} {done}")
                bar.update(task, completed=done, note=printable(note), total=total)

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
    """Print one line for the user on standard error; standard output is for the summary. It is made `printable`."""
    say_lines(printable(text))


def say_lines(text: str) -> None:
    """`say` for a text with lines of its own, such as an error."""
    sys.stderr.write(printable_lines(text) + "\n")
    sys.stderr.flush()


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
