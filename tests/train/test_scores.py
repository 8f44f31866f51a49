"""Training of models that give a score, or independent labels: they learn, resume, and say what was taken."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertnli.common.errors import InputError
from bertnli.data.corpus import prepare
from bertnli.data.outputs import Outputs
from bertnli.data.pairs import PairFile
from bertnli.data.tokenizer import PairTokenizer
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from bertnli.train.inputs import load_data, load_starting_model
from tests.support import tiny
from tests.support.runs import losses, same, train, weights

KINDS: dict[str, dict[str, Any]] = {
    "mse": {"problem_type": "regression"},
    "bce": {"problem_type": "regression", "loss": "bce"},
    "labels": {"problem_type": "multi_label_classification", "labels": ["dogs", "a man"]},
}
COUNTED = {"mse": "mae", "bce": "mae", "labels": "label_accuracy"}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """Each kind's section `data`: labels that the words of a premise decide."""
    rows = []
    for row in tiny.snli_rows(300):
        dogs, man = "dogs" in row["sentence1"], "man" in row["sentence1"]
        labels = [name for name, has in (("dogs", dogs), ("a man", man)) if has]
        rows.append({**row, "mse": 3.0 * dogs - man, "bce": dogs, "labels": labels})
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        kind: {"train": str(tmp_path / "scored.jsonl"), "eval": {"holdout": 60}, "columns": {"label": kind}}
        for kind in KINDS
    }


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_says_how_well(tmp_path, run, ranks, data, kind):
    path = run(data=data[kind], max_steps=100, learning_rate=5e-3, dropout=0.0, eval_every_steps=25, keep_best=True)
    lines: list[str] = []
    sets = [f"{key}={json.dumps(value)}" for key, value in KINDS[kind].items()]
    summary = training.train(load_run(path, sets), ranks, lines.append)
    folder, said = tmp_path / "run", "\n".join(lines)
    assert np.mean(losses(folder)[-10:]) < 0.8 * np.mean(losses(folder)[:10])
    main = "spearman" if kind == "mse" else "average_precision"
    assert (
        summary[f"eval_{main}"] > {"mse": 0.8, "bce": 0.2, "labels": 0.4}[kind]
        and summary["eval_rows"] == 60
        and "eval_accuracy" not in summary
    )
    rows = read_metrics(folder / "metrics.jsonl")
    assert all(COUNTED[kind] in row and "accuracy" not in row for row in rows if "loss" in row)
    evaluated = {row["step"]: row[f"eval_{main}"] for row in rows if "eval_loss" in row}
    assert summary["best_step"] == max(evaluated, key=lambda step: (evaluated[step], -step))
    assert f"held-out {main.replace('_', ' ')} " in said
    assert {
        "mse": "for one score, trained with loss: mse, as transformers does by default; loss: bce is for",
        "bce": "for one score, trained with loss: bce",
        "labels": "for independent labels: dogs, a man",
    }[kind] in said
    assert "is left out" in said  # the starting model's classifier
    assert {"mse": "(scores from -1 to 3, mean", "bce": "(scores from 0 to 1", "labels": "none of the labels)"}[
        kind
    ] in said
    card, report = (folder / "model" / "README.md").read_text(), (folder / "report.html").read_text()
    for page in (card, report):
        assert "onfusion matrix" not in page and "natural" not in page
        assert ("pearman" if kind == "mse" else "verage precision") in page
    if kind == "labels":
        assert (
            "| dogs | " in card and summary["rows_by_label"][f"data.train: {data[kind]['train']}"]["dogs"]["trained on"]
        )


def test_usual_names_are_found_for_scores_and_for_labels(tmp_path, run):
    rows = [{"query": f"dogs {n}", "document": "a man", "relevance": n / 8, "is_duplicate": n % 2} for n in range(8)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = {"0": "yes", "1": "no"}
    for keys, values in (
        ({"problem_type": "regression"}, [[row["relevance"]] for row in rows]),
        ({"labels": ["yes", "no"]}, [row["is_duplicate"] for row in rows]),
    ):
        label_names = {} if "problem_type" in keys else {"label_names": names}
        config = load_run(run(data={"train": str(tmp_path / "pairs.jsonl"), **label_names}, **keys))
        lines: list[str] = []
        assert load_data(config, load_starting_model(config), lines.append).corpus.labels.tolist() == values
        assert "column 'query' is the premise, column 'document' is the hypothesis" in lines[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_the_undisturbed(tmp_path, run, ranks, data, kind, monkeypatch):
    keys = {"data": data[kind], "max_steps": 6, "checkpoint": {"every_steps": 2}, **KINDS[kind]}
    train(run("straight", **keys), ranks)
    started, real = 0, training.accumulate

    def crash_at_five(*arguments):
        nonlocal started
        started += 1
        if started == 5:
            raise KeyError
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "accumulate", crash_at_five)
        with pytest.raises(KeyError):
            train(run("stopped", **keys), ranks)
    train(run("stopped", **keys), ranks)
    assert (
        read_metrics(tmp_path / "stopped" / "metrics.jsonl")[-1]
        == read_metrics(tmp_path / "straight" / "metrics.jsonl")[-1]
    )
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))


def test_the_held_out_loss_is_the_loss_of_training(tmp_path, run, ranks, data):
    """A reranker without a sigmoid, trained with the loss of one: its scores stay logits."""
    start = tiny.hf_folder(tmp_path / "reranker", labels=("LABEL_0",), config={"problem_type": "regression"})
    file = str(tmp_path / "scored.jsonl")
    keys = {"model": str(start), "loss": "bce", "data": {**data["bce"], "eval": file}}
    train(run(max_steps=2, dropout=0.0, **keys), ranks)
    [last] = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row]
    source = pretrained.load(tmp_path / "run" / "model")
    assert source.config.outputs == Outputs(("score",), "regression", "identity")
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    pairs = zip(*((row["sentence1"], row["sentence2"]) for row in rows), strict=True)
    logits = torch.from_numpy(TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*pairs))
    gold = torch.tensor([[float(row["bce"])] for row in rows])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, gold)
    assert last["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert last["eval_mse"] == pytest.approx(((logits - gold) ** 2).mean().item(), rel=1e-5)


def test_equal_scores_are_a_warning_and_have_no_correlation(tmp_path, run, ranks, data):
    (tmp_path / "equal.jsonl").write_text("".join(json.dumps({**row, "s": 2}) + "\n" for row in tiny.snli_rows(60)))
    section = {"train": str(tmp_path / "equal.jsonl"), "eval": {"holdout": 20}, "columns": {"label": "s"}}
    lines: list[str] = []
    path = run(
        data=section, max_steps=2, problem_type="regression", eval_every_steps=1, keep_best=True, early_stopping=5
    )
    summary = training.train(load_run(path), ranks, lines.append)
    assert any("all rows to train on have the score 2" in line for line in lines)
    assert any("held-out spearman not defined, loss" in line for line in lines)
    assert summary["eval_spearman"] is None and summary["eval_mse"] > 0 and json.dumps(summary)
    rows = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row]
    assert len(rows) == 2 and "eval_spearman" not in rows[0]
    assert "not defined on 20 pairs" in (tmp_path / "run" / "report.html").read_text()


def test_the_pairs_of_a_step_are_written_with_their_labels(run, data):
    written = {}
    for kind, keys in KINDS.items():
        config = load_run(run(data=data[kind], **keys))
        source = load_starting_model(config)
        loaded = load_data(config, source, lambda line: None)
        written[kind] = [row["label"] for row in loaded.rows(np.arange(300), source)]
    json.dumps(written)
    assert set(written["mse"]) == {3.0, 0.0, -1.0} and set(written["bce"]) == {0.0, 1.0}
    assert sorted(map(str, {tuple(one) for one in written["labels"]})) == ["('a man',)", "('dogs',)", "()"]


def test_micro_batches_and_stages_of_zero_change_nothing(tmp_path, run, ranks, data):
    keys = {"data": data["labels"], "max_steps": 4, "dropout": 0.0, **KINDS["labels"]}
    for name, more in (("whole", {}), ("cut", {"micro_batch_tokens": 60}), ("zero", {"zero_stage": 3})):
        train(run(name, **keys, **more), ranks)
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"problem_type": "regression", "labels": ["a", "b"]}, "problem_type: regression does not go with labels"),
        (
            {"problem_type": "multi_label_classification", "loss": "mse"},
            "loss: mse does not go with problem_type: multi",
        ),
        ({"loss": "mse"}, "loss: mse; found a model for problem_type: single_label_classification; .* regression, or"),
        ({"problem_type": "multi_label_classification"}, "multi_label_classification; found no labels; .*set labels: "),
        ({"problem_type": "rank"}, "problem_type"),
        ({"loss": "huber"}, "loss"),
        (
            {"problem_type": "regression", "loss": "bce", "data.columns.label": "mse"},
            r"scores are below 0 or above 1; found \S+ in row \d+; all are from -1 to 3; "
            r".*or give a new output loss: mse",
        ),
        (
            {"problem_type": "regression", "data.columns.label": "gold_label"},
            "bad rows of .*the score is 'contradiction'",
        ),
        ({"data.columns.label": "mse"}, "labels that the model does not know"),
    ],
)
def test_what_does_not_go_together_is_refused(run, data, sets, message):
    path = run(data=data["mse"])
    with pytest.raises(InputError, match=re.compile(message, re.DOTALL)):
        config = load_run(path, [f"{key}={json.dumps(value)}" for key, value in sets.items()])
        load_data(config, load_starting_model(config), lambda line: None)


def test_a_corpus_of_scores_is_not_that_of_labels(tmp_path):
    tokenizer = PairTokenizer.from_folder(tiny.hf_folder(tmp_path / "model"))
    path = tmp_path / "a.tsv"
    path.write_text("premise\thypothesis\tlabel\na man\tdogs\t0\ndogs\ta man\t1\n")
    one = prepare(PairFile(path), tokenizer, ("0", "1"))
    several = prepare(PairFile(path), tokenizer, ("0", "1"), problem_type="multi_label_classification")
    score = prepare(PairFile(path), tokenizer, ("score",), problem_type="regression")
    again = prepare(PairFile(path), tokenizer, ("score",), problem_type="regression")
    assert one.labels.tolist() == [0, 1] and one.labels.dtype == np.int8
    assert several.labels.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert score.labels.tolist() == again.labels.tolist() == [[0.0], [1.0]]
