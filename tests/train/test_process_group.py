"""Which GPU a rank takes, and that no two ranks take one; a port that another process has."""

from __future__ import annotations

import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch

from bertnli.common.errors import InputError, RunError
from bertnli.common.network import free_port
from bertnli.train import engine, process
from bertnli.train.own_gpu import gpu_id, own_gpu
from tests.conftest import environment
from tests.support.runs import process_group, train

JOIN = """
import os, sys
from bertnli.train.engine import ProcessGroup

group = ProcessGroup()
try:
    group._check_own_gpus(sys.argv[1])
    print("fine", flush=True)
except Exception as error:
    print(f"{type(error).__name__}: {error}", flush=True)
group.barrier()
os._exit(0)
"""


@pytest.mark.parametrize(
    ("local_rank", "count", "gpu"),
    [(0, 1, 0), (0, 4, 0), (3, 4, 3), (3, 1, 0)],  # the last: srun --gpus-per-task=1 shows each task its own
)
def test_a_rank_takes_the_gpu_of_its_number_or_the_only_one(local_rank, count, gpu):
    assert own_gpu(local_rank, count) == gpu


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("RANK", "6")
    with pytest.raises(InputError, match="rank 6 has no GPU of its own; found 2 GPUs on this host; expected 3 or more"):
        own_gpu(2, 2)


def test_an_instance_of_mig_has_an_id_of_its_own(monkeypatch):
    properties = type("Properties", (), {"uuid": "0a-1"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_id(torch.device("cuda", 0)) == "GPU-0a-1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1,MIG-2")
    assert [gpu_id(torch.device("cuda", number)) for number in (0, 1)] == ["MIG-1", "MIG-2"]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (["GPU-1", "GPU-2"], ["fine", "fine"]),
        (
            ["GPU-1", "GPU-1"],
            [
                "InputError: ranks 0, 1 share GPUs; found GPU-1; expected a GPU for each rank; "
                "start fewer ranks on each host",
                "ReportedElsewhere: reported by another rank",
            ],
        ),
    ],
)
def test_two_ranks_do_not_share_a_gpu(ids, said):
    """Real ranks, over gloo, as NCCL is asked only when they have agreed."""
    port = str(free_port())
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", JOIN, gpu_id],
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank, gpu_id in enumerate(ids)
    ]
    assert [rank.communicate(timeout=120)[0].splitlines()[-1] for rank in ranks] == said


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
            monkeypatch.setenv(name, value)
        said = f"MASTER_PORT {port}, .*another process has this port; set MASTER_PORT"
        with pytest.raises(InputError, match=said), engine._named_failures():
            torch.distributed.TCPStore("127.0.0.1", port, is_master=True)
    said = rf"rank 0 cannot join the other ranks at 127\.0\.0\.1:{port}"
    with pytest.raises(RunError, match=said), engine._named_failures():
        torch.distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=0.1))


def test_each_launchers_option_for_the_rank_on_this_host_is_accepted():
    for option in ("--local_rank=1", "--local-rank=1"):  # DeepSpeed's, torch.distributed.launch's
        assert process.parser().parse_args([option, "run.yaml"]).run_file == "run.yaml"


def test_what_zero_3_replaces_for_all_models_is_put_back(tmp_path, run):
    """Its own linear layers: other models of the process would be computed and exported by them."""
    before = torch.nn.functional.linear
    with process_group() as group:
        train(run("zero3", zero_stage=3, max_steps=1), group)
        assert torch.nn.functional.linear is not before
    assert torch.nn.functional.linear is before
