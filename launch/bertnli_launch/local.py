"""Several ranks on this machine, started and watched by DeepSpeed's own per-host launcher."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence

from bertnli.common.cores import usable_cores
from bertnli.common.network import free_port
from bertnli.common.signals import run_child
from bertnli.watch.rank_env import PORT


def run(ranks: int, arguments: Sequence[str]) -> int:
    """Run `python -m bertnli.train ARGUMENTS` in `ranks` processes, one a device, until all have ended.

    Returns the exit code: of the rank that failed first (128 + signal where one ended it), or 130 or 143 where SIGINT
    or SIGTERM stopped the job. The signals are passed on, and the ranks keep a checkpoint before they end.
    """
    host = {"localhost": _devices(ranks, os.environ)}
    command = [
        # It reports a rank that has failed as an error of its own, on standard output; the rank has said why.
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--log_level=critical"),
        f"--world_info={base64.urlsafe_b64encode(json.dumps(host).encode()).decode()}",
        f"--master_port={free_port()}",
        *("--module", "bertnli.train", *arguments),
    ]
    cores = usable_cores()
    if ranks > cores:
        print(f"bertnli train: {ranks} ranks share {cores} CPU cores and wait for each other", file=sys.stderr)
    # The signals go to the ranks: the launcher would give them 30 s, in which a step or a checkpoint may not end.
    code, _ = run_child(command, environment={**os.environ, PORT: str(free_port())}, to_children=True)
    ended_by = 256 - code  # of a watcher: the launcher exits with its return code, minus the signal's number
    return 128 + ended_by if ended_by in range(1, 32) else code


def _devices(ranks: int, environment: Mapping[str, str]) -> list[str]:
    """A GPU for each rank, as the launcher writes them into CUDA_VISIBLE_DEVICES: the user's own choice where there is.

    Where that names fewer (or hides all), the other ranks get none, not one that was hidden.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(ranks)]
    named = [device.strip() for device in visible.split(",") if device.strip()]
    return (named + ["-1"] * ranks)[:ranks]
