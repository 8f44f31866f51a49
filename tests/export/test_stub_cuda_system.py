"""ONNX Runtime's real CUDA provider over stub CUDA libraries: one and two GPUs of three generations, without a GPU.

Kernels compute nothing there, so all logits are zero: rows, order, placement, devices, errors and ends are looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import environment
from tests.support import tiny
from tests.support.stub_cuda import build as stub

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROWS = 3000


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    if reason := stub.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("stub-cuda")
    stub.build(folder)
    return folder


@pytest.fixture
def command(built: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`command("score", …, devices=2)`: the command on so many stub GPUs, to its end."""

    def run(*arguments: object, code: int = 0, **gpus: int) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "bertnli.cli", *map(str, arguments)],
            cwd=tmp_path,
            env=environment(**stub.environment(built, **gpus)),
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "in.jsonl"
    given = tiny.snli_rows(ROWS)
    given[7] = {"sentence1": "no hypothesis"}
    path.write_text("".join(json.dumps({"id": number, **row}) + "\n" for number, row in enumerate(given)))
    return path


def scores(path: Path) -> list[dict]:
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(ROWS))  # each row once, in order
    assert [row["id"] for row in found if row["error"]] == [7]
    return found


@pytest.mark.parametrize(("devices", "sm"), [(1, 75), (2, 80), (2, 90)])
def test_score_takes_every_gpu_to_the_end(command, rows, tmp_path, devices, sm):
    done = command("score", tiny.bundle(), rows, "out.jsonl", "--json", devices=devices, sm=sm)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["device"], summary["rows"], summary["errors"]) == ("cuda", ROWS, 1)
    assert ("2 x " in done.stderr) == (devices == 2)
    assert scores(tmp_path / "out.jsonl")[0]["p_neutral"] == pytest.approx(1 / 3)
    done = command("score", tiny.bundle(), rows, "out.jsonl", devices=devices, sm=sm)
    assert "already_finished: True" in done.stdout
