"""`bertnli train --ranks N`: several ranks on this machine, started by DeepSpeed's own per-host launcher."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence

from bertnli.common.cores import usable_cores
from bertnli.common.network import free_port
from bertnli.common.safe_path import safe_path
from bertnli.common.signals import run_child
from bertnli.watch.rank_env import JOB, PORT


def run(ranks: int, arguments: Sequence[str]) -> int:
    """Run `python -m bertnli.train ARGUMENTS` in `ranks` processes, one for each device, until all have ended.

    Returns the exit code: that of the rank that failed first (128 + N if signal N killed it), or 130 or 143 if SIGINT
    or SIGTERM stopped the job. Signals are passed on to the ranks, which save a checkpoint before they end.
    """
    host = {"localhost": _devices(ranks, os.environ)}
    command = [
        # By default it prints an error of its own on standard output when a rank fails; the rank has printed why.
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--log_level=critical"),
        f"--world_info={base64.urlsafe_b64encode(json.dumps(host).encode()).decode()}",
        f"--master_port={free_port()}",
        *("--module", "bertnli.train", *arguments),
    ]
    cores = usable_cores()
    if ranks > cores:
        print(f"bertnli train: {ranks} ranks share {cores} CPU cores, and will wait for each other", file=sys.stderr)
    # Signals go to the ranks. The launcher would kill them after 30 s, even in the middle of a step or a checkpoint.
    environment = safe_path(os.environ)
    for of_another_job in (PORT, JOB):
        environment.pop(of_another_job, None)
    code, _ = run_child(command, environment=environment, to_children=True)
    killed_by = 256 - code  # if a signal kills a watcher, the launcher exits with minus the signal's number
    return 128 + killed_by if killed_by in range(1, 32) else code


def _devices(ranks: int, environment: Mapping[str, str]) -> list[str]:
    """A GPU for each rank, as the launcher writes it into CUDA_VISIBLE_DEVICES; from the user's own value if it is set.

    If that names fewer GPUs than ranks, or hides all, the other ranks get none; a hidden GPU stays hidden.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(ranks)]
    named = [device.strip() for device in visible.split(",") if device.strip()]
    return (named + ["-1"] * ranks)[:ranks]
