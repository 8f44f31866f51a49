"""The sets that start complete trainings, with tiny models; they take minutes, so `make test-system` runs them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import evidence, gpu
from benchmarks.accuracy import accuracy
from benchmarks.busy import ALONE, busy, name_of
from benchmarks.memory import memory
from benchmarks.table import table
from benchmarks.targets import targets
from bertnli.common.errors import InputError
from tests.conftest import environment
from tests.support import tiny

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.hf_folder(tmp_path / "tiny", max_positions=128)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(600)))
    return path


def test_the_gpu_script_runs_from_end_to_end(model: Path, rows: Path, tmp_path: Path) -> None:
    """The rehearsal: every part, in its order, from carried files, without network or cache."""
    names = {"model": "tiny", "train": "tiny rows", "test": "tiny rows"}
    gpu.carry(gpu.Inputs(model, rows, rows, names), tmp_path / "carried")
    results = tmp_path / "results"
    command = [sys.executable, "-m", "benchmarks", "gpu", "--rehearse", "--from", str(tmp_path / "carried")]
    env = environment() | {"BERTNLI_CACHE": str(tmp_path / "untouched")}
    done = subprocess.run([*command, "--results", str(results)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {path.stem: json.loads(path.read_text()) for path in results.iterdir()}
    assert {*found} == {"gpu-checks", "gpu-training-16", "gpu-scoring", "gpu-minilm"}
    assert all(result["rehearsal"] for result in found.values())
    checks = found["gpu-checks"]["checks"]
    for_a_gpu = {"waits in a micro-batch", "fp16 with dynamic loss scaling", "fp16 bundle against fp32"}
    assert {check["what"] for check in checks if not check["right"]} == for_a_gpu
    peers = {peer["name"]: peer for peer in found["gpu-training-16"]["peers"]}
    assert {*peers} == {"trainer-best", "plain-loop", "bertnli", "matrix-peak-bf16"}
    assert 0 < peers["bertnli"]["share_of_peak"]["bf16"] < 1
    assert peers["trainer-best"].get("skipped") or peers["trainer-best"]["options"]["gradient_accumulation_steps"] == 1
    scoring = {peer["name"]: peer for peer in found["gpu-scoring"]["peers"]}
    assert scoring["bertnli"]["seconds_by_stage"].keys() == {"read", "tokenise", "pad", "model", "write"}
    assert scoring["cross-encoder-sdpa"]["bertnli_over_it"]["median"] > 0
    assert scoring["transformers-exporters-fp32"]["options"]["batch_size"] in gpu.REHEARSAL.scoring_batch_sizes
    assert "flash" in scoring["cross-encoder-flash-attention-2"]["skipped"]
    assert {*scoring} > {"cross-encoder", "torch-compile-fp32"}
    assert found["gpu-minilm"]["wall_seconds"] > 1
    assert found["gpu-minilm"]["rows"] == sum(row["gold_label"] != "-" for row in map(json.loads, rows.open()))
    for result in found.values():
        assert table(result) in done.stdout
    assert not (tmp_path / "untouched").exists()


def test_a_busy_machine(model: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    result = busy(folder, str(model), str(rows), str(rows), 64, (1,), 1, lambda line: None)
    assert {ALONE, name_of(1)} <= {*result["places"]}
    assert len(result["places"]) + len(result["not_measured"]) == 3
    for task, usual in (("training", "trainer-defaults"), ("scoring", "cross-encoder")):
        peers = {peer["name"]: peer for peer in result["tasks"][task]["peers"]}
        assert {"bertnli", usual} <= {*peers}
        assert peers["bertnli"]["per_second"][name_of(1)]["median"] > 0
        if "skipped" not in peers[usual]:
            assert peers[usual]["bertnli_over_it"].keys() == result["places"].keys()
    assert len(targets(result)) == 4
    assert "| bertnli score, fp32 bundle |" in table(result)


def test_memory_of_real_trainings(model: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    result = memory(folder, str(model), str(rows), (300, 3000), lambda line: None, steps=2)
    assert [size["rows"] for size in result["sizes"]] == [300, 3000]
    small, large = result["sizes"]
    assert large["corpus_mib"] > 5 * small["corpus_mib"]
    for size in (small, large):
        for start in size["starts"].values():
            whole = start["peak_mib"]["whole"]
            assert whole["own"] > 100  # torch alone takes more
            # Other programs that map the same libraries take their share of those pages (Pss), but not of the kernel's.
            assert whole["mapped"] > 1
            assert start["kernel_rss_mib"] > 0.8 * whole["rss"]
    assert 0.8 < result["growth"]["second"]["whole"]["own"] < 1.2


def test_accuracy_of_real_trainings(model: Path, rows: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    given = (folder, str(model), str(rows), str(rows), 64, range(1), lambda line: None)
    if find_spec("accelerate") is None:
        with pytest.raises(InputError, match="needs accelerate"):
            accuracy(*given)
        return
    result = accuracy(*given)
    assert [(run["how"], run["seed"]) for run in result["runs"]] == [("bertnli", 0), ("trainer-best", 0)]
    assert all(0.2 < run["accuracy"] < 0.6 for run in result["runs"])  # the labels are random
    assert (folder / "seed-0" / "trainer-model" / "model.safetensors").exists()
    assert len((folder / "seed-0" / "bertnli" / "metrics.jsonl").read_text().splitlines()) == 2  # of 32 pairs


def test_evidence_on_a_model_that_has_learned(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word of the hypothesis decides the label, except in one row of ten, so a confident model is overconfident."""
    rows, draw = tiny.snli_rows(2000), random.Random(0)
    for row in rows:
        chosen = draw.randrange(3) if draw.random() < 0.1 else len(row["sentence2"].split()[2]) % 3
        row["gold_label"] = tiny.SNLI_LABELS[chosen]
    files = [tmp_path / "training.jsonl", tmp_path / "test.jsonl"]
    for file, part in zip(files, (rows[:1600], rows[1600:]), strict=True):
        file.write_text("".join(json.dumps(row) + "\n" for row in part))
    monkeypatch.setitem(evidence.SETTINGS, "learning_rate", 3e-3)
    monkeypatch.setitem(evidence.SETTINGS, "epochs", 20)
    folder = tmp_path / "set"
    folder.mkdir()
    result = evidence.evidence(folder, str(model), *map(str, files), 800, lambda line: None)
    same = result["same"]
    assert list(same) == ["checkpoint", "folder", "bundle-fp32", "bundle-int8", "transformers"]
    assert same["folder"]["accuracy"] > 0.7 and same["folder"]["rows"] == 400
    assert result["warned"]["swapped"]["labels"] == list(tiny.SNLI_LABELS)
    assert result["artefact"]["hypothesis_only"] > 0.7 and result["artefact"]["shuffled_premises"] > 0.7
    assert {target.what for target in targets(result) if not target.met} <= {
        "ECE on unseen rows, with temperature over without"  # of 400 rows, where it may go either way
    }
    assert "by transformers' own evaluation" in table(result)
    result["same"]["bundle-fp32"]["confusion"][0][0] += 1
    assert "rows on which checkpoint, folder and fp32 bundle differ" in {
        target.what for target in targets(result) if not target.met
    }
