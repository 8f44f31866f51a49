"""Several ranks on this machine, started and watched by DeepSpeed's own per-host launcher."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from collections.abc import Sequence

from bertnli.interrupt import run_child


def run(ranks: int, arguments: Sequence[str]) -> int:
    """Run `python -m bertnli.train ARGUMENTS` in `ranks` processes, one a device, until all have ended.

    Returns the exit code: of the rank that failed first, or 130 or 143 where SIGINT or SIGTERM stopped the job. The
    signals are passed on, and the ranks keep a checkpoint before they end.
    """
    host = {"localhost": list(range(ranks))}
    command = [
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--quiet"),
        f"--world_info={base64.urlsafe_b64encode(json.dumps(host).encode()).decode()}",
        f"--master_port={_free_port()}",
        *("--module", "bertnli.train", *arguments),
    ]
    environment = dict(os.environ)
    # Each rank would take every core for itself.
    environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks)))
    code, _ = run_child(command, environment=environment)
    return code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
