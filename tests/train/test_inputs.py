"""What a run has learned is there to be measured and exported at any time: in its folder, and in each checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from bertnli.common.errors import InputError, RunError
from bertnli.model.predictor import TorchPredictor
from bertnli.model.pretrained import Pretrained
from bertnli.report import licences
from bertnli.report.licences import LicenceInfo
from bertnli.run.folder import run_of
from bertnli.train.inputs import load_run_model
from tests.conftest import Run
from tests.support import tiny
from tests.support.runs import ranks, run, same, train  # noqa: F401 (fixtures)


@pytest.fixture
def finished(tmp_path: Path, run: Any, ranks: Any) -> Path:  # noqa: F811
    train(run(checkpoint={"every_steps": 5, "keep": 9}), ranks)
    return tmp_path / "run"


def load(path: Path) -> tuple[Pretrained, list[str]]:
    warnings: list[str] = []
    return load_run_model(path, warnings.append), warnings


def built(path: Path) -> dict[str, torch.Tensor]:
    return load(path)[0].build().state_dict()


def test_run_model_and_last_checkpoint_are_one(finished: Path) -> None:
    last = finished / "checkpoints" / "step-00000012"
    assert same(built(finished), built(last))
    assert not same(built(finished), built(finished / "checkpoints" / "step-00000005"))
    (finished / "model").rename(finished / "elsewhere")  # as before the run had ended
    assert same(built(finished), built(last))
    assert load(last)[0].config.labels == load(finished)[0].config.labels


def test_eval_and_export_take_a_checkpoint(finished: Path, bertnli: Run, tmp_path: Path) -> None:
    """The same figures from the run's folder, its model, its last checkpoint and a bundle made of that."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(40)))
    last, bundle = finished / "checkpoints" / "step-00000012", tmp_path / "bundle"
    bertnli("export", last, bundle)
    found = []
    for model in (finished, finished / "model", last, bundle):
        shown = json.loads(bertnli("eval", model, rows, "--json", "--device", "cpu").stdout.splitlines()[-1])
        found.append((shown["accuracy"], shown["confusion"], shown["loss"]))
    assert found[0] == found[1] == found[2]
    assert found[3][:2] == found[0][:2] and found[3][2] == pytest.approx(found[0][2], abs=1e-5)


def test_a_runs_temperature_is_kept_with_its_model(finished: Path, bertnli: Run, tmp_path: Path) -> None:
    source = load(finished)[0]
    predictor = TorchPredictor(source.build(), source.tokenizer, "cpu")
    files = []
    for name, seed in (("test", 1), ("held-out", 2)):
        rows = tiny.snli_rows(60, seed=seed)
        said = predictor.logits(*zip(*((row["sentence1"], row["sentence2"]) for row in rows), strict=True)).argmax(1)
        for number, (row, label) in enumerate(zip(rows, said, strict=True)):  # right on two of three, so some T fits
            row["gold_label"] = source.config.labels[(label + (number % 3 == 0)) % 3]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = bertnli("eval", finished, files[0], "--calibrate", files[1], "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert load(finished)[0].temperature != 1.0
    assert load(finished / "checkpoints" / "step-00000012")[0].temperature == 1.0


def test_a_damaged_checkpoint_is_told_and_the_one_before_taken(finished: Path) -> None:
    shutil.rmtree(finished / "model")
    for step in ("00000012", "00000010", "00000005"):
        state = finished / "checkpoints" / f"step-{step}" / "state.safetensors"
        state.write_bytes(state.read_bytes()[:-1])
        with pytest.raises(RunError, match=f"step-{step} cannot be read.*take another checkpoint"):
            load(state.parent)
        if step != "00000005":
            source, warnings = load(finished)
            assert len(warnings) == (1 if step == "00000012" else 2) and "is damaged" in warnings[0]
            assert "classifier.weight" in source.state
    with pytest.raises(InputError, match="a run without a checkpoint yet"):
        load(finished)


def test_what_is_no_run_is_none(tmp_path: Path, finished: Path) -> None:
    assert run_of(finished) and run_of(finished / "checkpoints" / "step-00000005")
    for other in (finished / "model", finished / "checkpoints", finished / "checkpoints" / "step-5", tmp_path / "none"):
        assert run_of(other) is None
        with pytest.raises(InputError, match="not a run"):
            load(other)


def test_a_model_with_a_run_file_beside_it_is_a_model(finished: Path) -> None:
    shutil.copy(finished / "run.yaml", finished / "model")
    assert run_of(finished / "model") is None


def test_the_run_file_says_labels_and_shape(finished: Path, bertnli: Run) -> None:
    done = bertnli("eval", finished, "x.tsv", "--labels", "a,b,c")
    assert done.returncode == 2
    assert "--labels" in done.stderr and "whose run file specifies it" in done.stderr


def test_a_runs_terms_are_those_of_its_start(finished: Path, tmp_path: Path) -> None:
    config = tmp_path / "start" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps(content | {"bertnli": {**content.get("bertnli", {}), "licence": "mine"}}))
    for path in (finished, finished / "checkpoints" / "step-00000012"):
        assert licences.of_model(str(path)) == LicenceInfo("mine")
