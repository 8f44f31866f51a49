"""A teacher: its logits are computed once, by any ranks, and a step has Hinton's loss with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from bertnli.run.folder import read_metrics
from bertnli.run.loss_config import LossConfig, TeacherConfig
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from bertnli.train import setup
from bertnli.train import teacher as teachers
from bertnli.train.losses import Loss
from tests.support import tiny
from tests.support.runs import losses, on_ranks, same, train, train_here, weights

STUDENTS = ("entailment", "neutral", "contradiction")
TEACHERS = ("contradiction", "entailment", "neutral")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of another size, with its labels in another order, calibrated."""
    config = {"bertnli": {"truncation": "longest_first", "max_length": 20, "reads_parse": False, "temperature": 1.5}}
    folder = tmp_path_factory.mktemp("teacher") / "large"
    return tiny.hf_folder(folder, labels=TEACHERS, seed=3, hidden_size=48, config=config)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "PART", 64)


def logits_of(folder: Path, rows: list[dict[str, str]]) -> tuple[torch.Tensor, float]:
    source = pretrained.load(folder)
    pairs = zip(*((row["sentence1"], row["sentence2"]) for row in rows), strict=True)
    return torch.from_numpy(TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*pairs)), source.temperature


def test_a_step_has_hintons_loss(tmp_path, run, ranks, large):
    path = run(
        max_steps=1,
        global_batch_size=512,
        micro_batch_tokens=1000,
        dropout=0.0,
        data={"train": str(tmp_path / "train.jsonl")},
        teacher={"model": str(large), "temperature": 3.0, "mix": 0.7},
        loss={"class_weights": dict(zip(STUDENTS, (1.0, 2.0, 3.0), strict=True)), "label_smoothing": 0.1},
    )
    train(path, ranks)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["gold_label"] != "-"]
    logits, _ = logits_of(tmp_path / "start", rows)
    theirs, calibrated = logits_of(large, rows)
    assert calibrated == 1.5
    theirs = theirs[:, [TEACHERS.index(name) for name in STUDENTS]]
    gold = torch.tensor([STUDENTS.index(row["gold_label"]) for row in rows])
    soft = F.cross_entropy(logits / 3.0, (theirs / (1.5 * 3.0)).softmax(1)) * 3.0**2
    hard = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]), label_smoothing=0.1)(logits, gold)
    assert losses(tmp_path / "run") == pytest.approx([(0.7 * soft + 0.3 * hard).item()], rel=1e-5)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| teacher | model " in card and "temperature 3.0, mix 0.7" in card
    assert f"{large}, temperature 3.0, mix 0.7" in (tmp_path / "run" / "report.html").read_text()
    kept = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["bertnli"]["teacher"]
    assert kept["model"] == str(large) and kept["sha256"] == pretrained.load(large).sha256


def test_the_gradient_does_not_vanish_with_the_temperature() -> None:
    """T^2 undoes the division of the soft gradients by it (Hinton et al. 2015, section 2.1)."""
    draw = torch.Generator().manual_seed(0)
    logits, theirs = (torch.randn(5, 3, generator=draw) * 0.01 for _ in range(2))
    gradients = []
    for temperature in (1.0, 50.0):
        taught = TeacherConfig(model="t", mix=1.0, temperature=temperature)
        loss = Loss.of(Outputs(STUDENTS), LossConfig(), None, taught)
        leaf = logits.clone().requires_grad_()
        loss(leaf, torch.zeros(5, dtype=torch.int64), (theirs / temperature).softmax(1))[0].backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.05, atol=1e-5)


def test_a_bundle_teaches_as_the_folder_it_is_made_of(tmp_path, run, ranks):
    for name, teacher in (("folder", tmp_path / "start"), ("bundle", tiny.bundle())):
        train(run(name, max_steps=3, dropout=0.0, teacher=str(teacher)), ranks)
    assert losses(tmp_path / "bundle") == pytest.approx(losses(tmp_path / "folder"), rel=1e-5)


def test_logits_are_computed_once_and_a_killed_run_goes_on(tmp_path, run, ranks, large, monkeypatch):
    keys = {"max_steps": 3, "teacher": str(large), "data": {"train": str(tmp_path / "train.jsonl")}}
    computed: list[int] = []
    real = TorchPredictor.logits

    def killed_at_the_third(predictor: Any, premises: Any, hypotheses: Any) -> Any:
        computed.append(len(premises))
        if len(computed) == 3:
            raise KeyboardInterrupt
        return real(predictor, premises, hypotheses)

    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "other-cache"))
    monkeypatch.setattr(TorchPredictor, "logits", killed_at_the_third)
    path = run("stopped", **keys)
    with pytest.raises(KeyboardInterrupt):
        train(path, ranks)
    train(path, ranks)
    parts = sorted((tmp_path / "other-cache" / "teachers").glob("*/*"))
    pairs = sum(row["gold_label"] != "-" for row in map(json.loads, (tmp_path / "train.jsonl").open()))
    assert len(computed) == len(parts) + 1 and sum(computed) == pairs + 64

    parts[1].write_bytes(parts[1].read_bytes()[:-1] + b"?")
    del computed[:]
    train(run("again", **keys), ranks)
    assert computed == [64], "a part that is damaged is computed again, and no other"
    monkeypatch.setattr(TorchPredictor, "logits", real)
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "third-cache"))
    train(run("straight", **keys), ranks)
    for name in ("stopped", "again"):
        assert losses(tmp_path / name) == losses(tmp_path / "straight")
        assert same(weights(tmp_path / name), weights(tmp_path / "straight"))


def test_pairs_are_found_by_their_rows(tmp_path, run, ranks, large):
    """Of a part of the pairs, in any order, beside held-out ones."""
    lines: list[str] = []
    data = {"train": str(tmp_path / "train.jsonl"), "eval": {"holdout": 60}, "max_train_pairs": 100}
    config = load_run(run(teacher=str(large), data=data))
    source = setup.load_starting_model(config)
    loaded = setup.load_data(config, source, lines.append)
    teacher = teachers.open_teacher(str(large), source.config.outputs, torch.device("cpu"), lines.append)
    found = teachers.teacher_labels(teacher, config, loaded, ranks, lines.append)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    theirs, _ = logits_of(large, [rows[loaded.corpus.rows[pair] - 1] for pair in loaded.train])
    order = [TEACHERS.index(name) for name in STUDENTS]
    np.testing.assert_allclose(found[loaded.train], (theirs[:, order] / 3.0).softmax(1), rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (
            {"labels": ("yes", "no", "maybe")},
            "with yes, no, maybe; expected the labels of the model that is trained",
        ),
        ({"labels": None}, "it has no classifier"),
        (
            {"config": {"id2label": {str(at): f"LABEL_{at}" for at in range(3)}}},
            "teacher .*: its config.json has no names of its labels; write them there, in the order of its outputs",
        ),
        (
            {"labels": ("LABEL_0",), "config": {"problem_type": "regression"}},
            "found a model for problem_type: regr",
        ),
    ],
)
def test_a_teacher_that_cannot_teach_it_is_refused(tmp_path, run, ranks, form, message):
    folder = tiny.hf_folder(tmp_path / "other", **form)
    with pytest.raises(InputError, match=message):
        train(run(teacher=str(folder)), ranks)
    assert not (tmp_path / "run").exists()


def test_a_run_with_another_teacher_does_not_go_on(tmp_path, run, ranks, large, monkeypatch):
    folder = tiny.hf_folder(tmp_path / "teacher", seed=5)
    keys = {"max_steps": 4, "checkpoint": {"every_steps": 1}, "teacher": str(folder)}

    def crash(*arguments: Any) -> None:
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_result", crash)
        with pytest.raises(KeyError):
            train(run(**keys), ranks)
    config = json.loads((folder / "config.json").read_text())
    calibrated = {"bertnli": {**config["bertnli"], "temperature": 1.5}}
    renamed = {"id2label": dict(enumerate(TEACHERS)), "label2id": {name: at for at, name in enumerate(TEACHERS)}}
    for change in (calibrated, renamed, {"num_attention_heads": 2}):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match="changed content of teacher"):
            train(run(**keys), ranks)
    (folder / "config.json").write_text(json.dumps(config))
    tiny.hf_folder(folder, seed=6)
    with pytest.raises(InputError, match="changed content of teacher"):
        train(run(**keys), ranks)


def test_weights_in_another_config_are_another_teacher(tmp_path, run, ranks):
    """Logits that are kept in the cache are not taken for those of the same weights with other heads."""
    for name, heads in (("four", 4), ("two", 2)):
        folder = tiny.hf_folder(tmp_path / name, num_heads=heads, seed=5)
        shutil.copy(tmp_path / "four" / "model.safetensors", tmp_path / "weights")
        shutil.copy(tmp_path / "weights", folder / "model.safetensors")
        train(run(f"of-{name}", max_steps=1, dropout=0.0, teacher={"model": str(folder), "mix": 1.0}), ranks)
    assert losses(tmp_path / "of-four") != losses(tmp_path / "of-two")
    configs = [json.loads((tmp_path / f"of-{name}/model/config.json").read_text()) for name in ("four", "two")]
    assert len({config["bertnli"]["teacher"]["sha256"] for config in configs}) == 1, "of the weights"


def test_it_teaches_on_several_data_sets(tmp_path, run, ranks, large):
    """One file in two parts teaches as the whole: each pair is found in its own file."""
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("a", lines[:150]), ("b", lines[150:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
    keys = {"max_steps": 1, "global_batch_size": 512, "dropout": 0.0, "teacher": {"model": str(large), "mix": 1.0}}
    train(run("whole", data={"train": str(tmp_path / "train.jsonl")}, **keys), ranks)
    train(run("parts", data={"train": [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]}, **keys), ranks)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)
    [row] = read_metrics(tmp_path / "parts" / "metrics.jsonl")
    counts = [sum('"gold_label": "-"' not in line for line in part) for part in (lines[:150], lines[150:])]
    mean = (counts[0] * row["loss/a.jsonl"] + counts[1] * row["loss/b.jsonl"]) / sum(counts)
    assert mean == pytest.approx(row["loss"], rel=1e-5)


@pytest.mark.system
def test_two_ranks_share_the_work(tmp_path, run, ranks, large):
    keys = {"max_steps": 3, "dropout": 0.0, "teacher": str(large)}
    on_ranks(2, train_here, run("shared", **keys))
    train(run("alone", **keys), ranks)
    assert losses(tmp_path / "shared") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
