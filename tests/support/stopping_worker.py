"""In a worker of the tests' Ray nodes: `score_file` stops its process in the middle of a partition, if asked to.

A test asks by a file beside the output folder (`ray_nodes.ask_for_the_middle`). The file has the session of the node's
processes whose worker is to stop, or nothing if it may be any. The worker gives the file its own number.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from bertnli_export import distributed
from bertnli_export.run_record import record_path

ASKED = "stop-in-the-middle"

_score_file = distributed.score_file


def install() -> None:
    distributed.score_file = score_file


def score_file(scorer: Any, input: str, output: str, **options: Any) -> dict[str, Any]:
    asked = Path(output).parent.parent / ASKED
    if not asked.exists():
        return _score_file(scorer, input, output, **options)
    _leave_a_partition(asked)
    given = options.pop("progress", None)

    def progress(rows: int, note: str) -> None:
        if given is not None:
            given(rows, note)
        if json.loads(record_path(Path(output)).read_text())["counts"]["rows"]:
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                mine = asked.rename(f"{asked}.{os.getpid()}")
                mine.write_text(output)
                os.kill(os.getpid(), signal.SIGSTOP)

    # Checkpoints after every chunk: some rows are on disk after the first.
    return _score_file(scorer, input, output, progress=progress, checkpoint_seconds=0, **options)


def _leave_a_partition(asked: Path) -> None:
    """Wait while a worker of another node is asked, or it could find none left."""
    with contextlib.suppress(FileNotFoundError):
        for _ in range(2000):
            if asked.read_text() in ("", str(os.getsid(0))):
                return
            time.sleep(0.05)
        raise AssertionError("no worker of the other node came to the middle of a partition")
