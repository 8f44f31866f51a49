"""A worker process of `pool.Pool`: `python -m bertnli_export.worker FD`, where FD is its end of the link to the pool.

It receives a `ScoringSetup` and a number of threads, and answers with a description of its device. Then it receives a
`Codec`, and answers each `RawChunk` with its `ScoredChunk`, in order. After a BertnliError it sends that and ends. It
also ends when the link does, so it never outlives the process at the other end. Signals are left to that process.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import closing
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from bertnli.common.errors import BertnliError
from bertnli.common.signals import SIGNALS
from bertnli_export.scorer import Scorer
from bertnli_export.stages import InProcess


def main() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    link = Connection(int(sys.argv[1]))
    try:
        _serve(link)
    except BertnliError as error:
        _send(link, error)
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # after a failure, CUDA may hang in a normal shutdown


def _serve(link: Connection) -> None:
    messages: SimpleQueue[Any] = SimpleQueue()  # unbounded; the pool sends few at a time
    Thread(target=_receive, args=[link, messages], daemon=True).start()
    setup, threads = messages.get()
    engine = InProcess(Scorer.from_setup(setup, threads=threads))
    _send(link, engine.description)
    # A thread that parses or encodes hands over to the one that feeds the device after this time, not after 5 ms.
    sys.setswitchinterval(0.0005)
    with closing(engine.score(iter(messages.get, None), codec=messages.get())) as scored:
        for chunk in scored:
            _send(link, chunk)


def _receive(link: Connection, messages: SimpleQueue[Any]) -> None:
    """Queues all that comes over the link. When the link ends, this process ends, whatever its other threads do."""
    try:
        while True:
            messages.put(link.recv())
    except (OSError, EOFError):
        os._exit(0)


def _send(link: Connection, message: Any) -> None:
    try:
        link.send(message)
    except OSError:
        os._exit(0)


if __name__ == "__main__":
    main()
