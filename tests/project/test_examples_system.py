"""The examples that train or start a cluster, as a user starts them, but with a tiny model."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig

import pytest
from bertnli_export.score import score_file

from bertnli.run.folder import read_metrics
from tests.conftest import ROOT, environment
from tests.support import tiny
from tests.support.ray_nodes import RAY_ENVIRONMENT
from tests.support.scored_files import read, write

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


def test_train_on_your_own(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    tiny.hf_folder(tmp_path / "start", labels=None)  # an encoder, as MiniLM is
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", "examples/train_on_your_own.sh", "--set", "model=start"],
        cwd=tmp_path,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    steps = [row for row in read_metrics(tmp_path / "runs" / "own" / "metrics.jsonl") if "loss" in row]
    assert len(steps) == 9  # 24 pairs in batches of 8, 3 times
    rows = read(tmp_path / "runs" / "own" / "scores.tsv")
    assert len(rows) == 30 and {row["prediction"] for row in rows} <= {"supported", "not supported"}
    assert not any(row["error"] for row in rows)
    assert float(rows[0]["p_supported"]) + float(rows[0]["p_not supported"]) == pytest.approx(1, abs=1e-5)


def test_score_on_ray(tmp_path):
    (tmp_path / "parts" / "more").mkdir(parents=True)
    files = [write(tmp_path / "parts" / name, tiny.snli_rows(50)) for name in ("a.tsv", "more/b.parquet")]
    command = [sys.executable, str(ROOT / "examples" / "score_on_ray.py"), str(tiny.bundle())]
    done = subprocess.run(
        [*command, "parts", "scores", "local"],
        cwd=tmp_path,
        env=environment(**RAY_ENVIRONMENT),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "100 rows of 2 files, 0 of them with an error" in done.stdout
    for file in files:
        output = tmp_path / "scores" / file.relative_to(tmp_path / "parts")
        assert str(output) in done.stdout.splitlines()
        score_file(tiny.bundle(), file, tmp_path / f"alone{file.suffix}", device="cpu")
        assert output.read_bytes() == (tmp_path / f"alone{file.suffix}").read_bytes()
