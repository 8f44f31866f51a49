"""A worker process of `pool.Pool`: `python -m bertnli_export.worker FD`, where FD is its end of a link to the pool.

It is told a `ScoringSetup` and its number of threads, says what it runs on, and from then on answers each (number,
premises, hypotheses) with (number, `Judged`), or with a BertnliError and its end. It ends when the link does, and so
with the process at the other end, however that ended; signals are that one's business.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from bertnli.common.errors import BertnliError
from bertnli.common.signals import SIGNALS
from bertnli_export.scorer import Scorer
from bertnli_export.stages import ahead


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    link = Connection(int(sys.argv[1]))
    try:
        _serve(link)
    except BertnliError as error:
        _say(link, error)
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # CUDA, after a failure, may hang an orderly end


def _serve(link: Connection) -> None:
    messages: SimpleQueue[Any] = SimpleQueue()  # the pool sees to it that they are few
    Thread(target=_receive, args=[link, messages], daemon=True).start()
    setup, threads = messages.get()
    scorer = Scorer.from_setup(setup, threads=threads)
    _say(link, scorer.session.description)

    def begun() -> Iterator[tuple[int, Any]]:
        while True:
            number, premises, hypotheses = messages.get()
            yield number, scorer.begin(premises, hypotheses)

    with closing(ahead(begun())) as items:
        for number, batches in items:
            _say(link, (number, scorer.judge(batches)))


def _receive(link: Connection, messages: SimpleQueue[Any]) -> None:
    """All that comes over the link; at its end this process ends, whatever its other threads are at."""
    try:
        while True:
            messages.put(link.recv())
    except (OSError, EOFError):
        os._exit(0)


def _say(link: Connection, message: Any) -> None:
    try:
        link.send(message)
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main()
