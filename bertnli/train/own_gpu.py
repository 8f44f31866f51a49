"""Which GPU of its host a rank takes, and what tells this GPU from all others."""

from __future__ import annotations

import os

import torch

from bertnli.common.errors import InputError


def own_gpu(local_rank: int, count: int) -> int:
    """The number of this rank's GPU among the `count` that it sees.

    A rank that sees one GPU takes it: srun with --gpus-per-task=1 shows each task its own. Raises InputError if a rank
    that sees several has none of its own.
    """
    if count == 1:
        return 0
    if local_rank < count:
        return local_rank
    raise InputError(
        f"rank {os.environ['RANK']} has no GPU of its own",
        found=f"{count} GPUs on this host",
        expected=f"{local_rank + 1} or more",
        do="start fewer ranks on each host",
    )


def gpu_id(device: torch.device) -> str:
    """What tells a GPU from all others: its UUID; for an instance of MIG, its own from CUDA_VISIBLE_DEVICES."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    parts = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part.startswith("MIG-")]
    return parts[device.index or 0] if parts else uuid
