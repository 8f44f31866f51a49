"""Several data sets in one run: pooled, weighted by epoch, each with its own loss; with any ranks and after kills."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertnli.common.errors import InputError
from bertnli.data.batches import Stream
from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train.inputs import TrainingData, check_names, load_data, load_starting_model
from bertnli.train.steps import MicroBatch
from tests.support.runs import losses, on_ranks, same, train, train_here, weights


def table(path: Path, labels: Sequence[str], names: str = "premise\thypothesis\tlabel", of: str = "man") -> str:
    lines = [
        f"a {of} {number} {'runs ' * (number % 5)}\tthe {of} {number}\t{label}\n" for number, label in enumerate(labels)
    ]
    path.write_text("".join([f"{names}\n", *lines]))
    return str(path)


@pytest.fixture
def sets(tmp_path: Path) -> list[Any]:
    """Two data sets: the second has other columns and labels."""
    table(tmp_path / "nli.tsv", ["entailment", "neutral", "contradiction"] * 20)
    table(tmp_path / "facts.tsv", ["true", "false"] * 10, "evidence\tclaim\tverdict", of="dog")
    return [
        str(tmp_path / "nli.tsv"),
        {
            "path": str(tmp_path / "facts.tsv"),
            "columns": {"premise": "evidence", "hypothesis": "claim", "label": "verdict"},
            "label_names": {"true": "entailment", "false": "contradiction"},
        },
    ]


def loss_of_start(path: Path, data: TrainingData, pairs: Any) -> float:
    """The mean loss of these pairs before the first update."""
    model = load_starting_model(load_run(path)).build().eval()
    batch = MicroBatch.of(data.corpus, pairs, pairs, torch.device("cpu"))
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model(*batch.inputs), batch.labels))


def loaded(path: Path) -> tuple[TrainingData, str]:
    config, lines = load_run(path), list[str]()
    return load_data(config, load_starting_model(config), lines.append), "\n".join(lines)


def test_the_pairs_are_pooled_with_their_own_columns_and_labels(run: Any, sets: Any) -> None:
    path = run(data={"train": sets})
    data, said = loaded(path)
    source = load_starting_model(load_run(path))
    assert len(data.train) == 80 and [part.pairs for part in data.parts] == [60, 20]
    rows = list(data.rows(np.array([0, 59, 60, 79, 61]), source))
    assert [(Path(one["data"]).name, one["row"], one["label"]) for one in rows] == [
        ("nli.tsv", 1, "entailment"),
        ("nli.tsv", 60, "contradiction"),
        ("facts.tsv", 1, "entailment"),
        ("facts.tsv", 20, "contradiction"),
        ("facts.tsv", 2, "contradiction"),
    ]
    own = source.tokenizer.encode(["a dog 1 runs "], ["the dog 1"])
    assert rows[-1]["ids"] == own.ids.tolist()
    assert (
        "nli.tsv: 60 labelled pairs (20 entailment, 20 neutral" in said and "facts.tsv: 20 labelled pairs (10" in said
    )
    assert [key.partition(":")[0] for key in data.rows_by_label] == ["data.train.0", "data.train.1"]
    assert data.sha256.keys() == {"data.train.0", "data.train.1"}


def test_labels_of_two_classes_need_a_mapping_that_is_said(run: Any, sets: Any) -> None:
    del sets[1]["label_names"]
    unknown = r"facts\.tsv: labels that the model does not know.*'false' \(10 rows\).*file: data\.train\.1\.label_names"
    with pytest.raises(InputError, match=unknown):
        loaded(run(data={"train": sets}))
    sets[1]["columns"]["label"] = "truth"
    with pytest.raises(InputError, match=r"no column 'truth'.*in a run file: data\.train\.1\.columns\)"):
        loaded(run(data={"train": sets}))


def test_notes_and_errors_name_the_keys_of_the_set(run: Any, sets: Any, tmp_path: Path) -> None:
    sets[1]["columns"] = {}
    with pytest.raises(InputError, match=r"no label column.*\(in a run file: data\.train\.1\.columns\.label\)"):
        loaded(run(data={"train": sets}))
    two = tmp_path / "two.tsv"
    two.write_text("premise\thypothesis\tlabel\tgold_label\na dog\truns\tneutral\tneutral\n")
    assert (
        "name another with --label (in a run file: data.train.columns.label)"
        in loaded(run(data={"train": {"path": str(two)}}))[1]
    )
    assert "name another with --label (in a run file: data.columns.label)" in loaded(run(data={"train": str(two)}))[1]


def test_a_file_without_a_row_is_told(run: Any, sets: Any, tmp_path: Path) -> None:
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(InputError, match=r"none\.jsonl: no row in it; expected pairs with a label"):
        loaded(run(data={"train": [*sets, str(tmp_path / "none.jsonl")]}))


def test_an_evaluation_on_what_is_trained_on_is_told(run: Any, sets: Any) -> None:
    assert "warning: data.eval.1: " not in loaded(run(data={"train": sets[0], "eval": [sets[1]]}))[1]
    assert "warning: data.eval.1: " in loaded(run(data={"train": sets[0], "eval": [sets[1], sets[0]]}))[1]


def test_two_readings_of_an_evaluation_file_are_both_in_the_report(run: Any, ranks: Any, tmp_path: Path) -> None:
    """The first decides, and the report leads with its figure, by the metric that decides."""
    rows = str(tmp_path / "train.jsonl")
    swapped = {"path": rows, "columns": {"premise": "sentence2", "hypothesis": "sentence1"}}
    keys = {"keep_best": True, "metric_for_best": "macro_f1", "loss": {"class_weights": "balanced"}}
    summary = train(run(data={"train": rows, "eval": [rows, swapped]}, max_steps=2, **keys), ranks)
    first, second = summary["evaluations"].values()
    assert first["macro_f1"] != second["macro_f1"]
    card, report = ((tmp_path / "run" / name).read_text() for name in ("model/README.md", "report.html"))
    for text in (card, report):
        assert "train.jsonl (premise sentence2, hypothesis sentence1)" in text and "weights of the labels" in text
        assert f"entailment {summary['label_weights']['entailment']:.4g}" in text
    assert f"{first['macro_f1']:.4f} on 394 pairs, {rows}" in report
    assert report.index("Macro F1") < report.index("Training")


def test_the_card_tells_training_and_evaluation_data_apart(run: Any, sets: Any, ranks: Any, tmp_path: Path) -> None:
    train(run(data={"train": sets[0], "eval": sets[1]}, max_steps=1), ranks)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    [sentence] = [line for line in card.splitlines() if "It was fine-tuned" in line or "is true for them" in line]
    assert "nli.tsv" in sentence and "facts.tsv" not in sentence
    assert "facts.tsv: its licence is not recorded" in card


def test_rows_are_held_out_of_all_sets_without_their_premises(run: Any, sets: Any, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "nli.tsv", tmp_path / "again.tsv")
    data, _ = loaded(run(data={"train": [*sets, str(tmp_path / "again.tsv")], "eval": {"holdout": 30}}))
    [held] = data.evaluations.values()
    premises = data.corpus.premises
    assert held.name.startswith("held out of ") and len(held.pairs) == 30
    assert not set(premises[held.pairs]) & set(premises[data.train])
    assert sum(part.pairs for part in data.parts) == len(data.train) < 140 - 30


def test_pairs_are_limited_for_each_set_and_for_all(run: Any, sets: Any) -> None:
    sets[0] = {"path": sets[0], "max_pairs": 30}
    data, _ = loaded(run(data={"train": sets}))
    assert [part.pairs for part in data.parts] == [30, 20]
    data, _ = loaded(run(data={"train": sets, "max_train_pairs": 40}))
    first = data.parts[0].pairs
    assert len(data.train) == 40 and (data.train[:first] < 60).all() and (data.train[first:] >= 60).all()
    sets[0]["max_pairs"] = 61
    with pytest.raises(InputError, match=r"data\.train\.0\.max_pairs; found 61 of 60 pairs; set 60 or fewer"):
        loaded(run(data={"train": sets}))


def test_a_list_of_one_is_the_same_run_as_the_plain_form(run: Any, ranks: Any, tmp_path: Path) -> None:
    rows = str(tmp_path / "train.jsonl")
    for name, given in (("plain", rows), ("listed", [rows]), ("map", {"path": rows})):
        train(run(name, data={"train": given, "eval": {"holdout": 60}, "max_train_pairs": 100}, max_steps=8), ranks)
    assert losses(tmp_path / "plain") == losses(tmp_path / "listed") == losses(tmp_path / "map")
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "listed"))
    assert not any("/" in key for row in read_metrics(tmp_path / "listed" / "metrics.jsonl") for key in row)


def test_each_sets_loss_is_in_the_metrics_and_adds_up(run: Any, sets: Any, ranks: Any, tmp_path: Path) -> None:
    path = run(
        data={"train": [sets[0], {**sets[1], "weight": 2.5}], "eval": sets},
        epochs=2,
        max_steps=None,
        global_batch_size=32,
        dropout=0.0,
    )
    summary = train(path, ranks)
    assert summary["steps"] == 8  # 60 + 50 pairs an epoch
    assert [one["pairs_per_epoch"] for one in summary["sources"]] == [60, 50]
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    data, _ = loaded(path)
    stream = Stream(len(data.train), 32, 0, data.parts)
    for row in (row for row in rows if "loss" in row):
        pairs = data.train[stream.step(row["step"] - 1)]
        of_facts = int((pairs >= 60).sum())
        together = row["loss/nli.tsv"] * (len(pairs) - of_facts) + row["loss/facts.tsv"] * of_facts
        assert together / len(pairs) == pytest.approx(row["loss"], rel=1e-5)
    first = data.train[stream.step(0)]
    assert rows[0]["loss/facts.tsv"] == pytest.approx(loss_of_start(path, data, first[first >= 60]), rel=1e-5)
    last = rows[-1]
    assert last["eval_accuracy"] == last["eval_accuracy/nli.tsv"] == summary["eval_accuracy"]
    assert last["eval_loss/facts.tsv"] != last["eval_loss/nli.tsv"]
    assert summary["evaluations"]["facts.tsv"]["accuracy"] == last["eval_accuracy/facts.tsv"]
    card, report = (tmp_path / "run" / name for name in ("model/README.md", "report.html"))
    assert "| facts.tsv | 20 | 2.5 | 50 |" in card.read_text()
    for text in ("Data sets in an epoch", "Loss by data set, mean", "Accuracy of each evaluation", "data.train.1: "):
        assert text in report.read_text()


def test_the_first_evaluation_set_decides(run: Any, sets: Any, ranks: Any, tmp_path: Path) -> None:
    """keep_best, by hand: the best step of the first set is not that of the second."""
    keys = {"eval_every_steps": 1, "checkpoint": {"every_steps": 1, "keep": 9}, "max_steps": 6, "learning_rate": 5e-3}
    summary = train(run(data={"train": sets[0], "eval": [sets[1], sets[0]]}, keep_best=True, **keys), ranks)
    found = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_loss" in row]
    first = [row["eval_accuracy/facts.tsv"] for row in found]
    assert summary["best_step"] == 1 + first.index(max(first)) and summary["eval_accuracy"] == max(first)


@pytest.mark.parametrize("kept", [3, 5])
def test_a_resumed_run_draws_the_same_pairs(run: Any, sets: Any, ranks: Any, tmp_path: Path, kept: int) -> None:
    sets[0] = {"path": sets[0], "weight": 0.5}
    keys = {"data": {"train": sets}, "max_steps": 8, "checkpoint": {"every_steps": 1, "keep": 9}}
    train(run(**keys), ranks)
    before, folder = weights(tmp_path / "run"), tmp_path / "run"
    shutil.rmtree(folder / "model")
    for step in range(kept + 1, 9):
        shutil.rmtree(folder / "checkpoints" / f"step-{step:08d}")
    train(run(**keys), ranks)
    assert same(before, weights(folder))
    table(tmp_path / "facts.tsv", ["true", "false"] * 9, "evidence\tclaim\tverdict")
    shutil.rmtree(folder / "model")
    with pytest.raises(InputError, match=r"changed content of data\.train\.1"):
        train(run(**keys), ranks)


@pytest.mark.system
def test_two_ranks_find_the_same_losses(run: Any, sets: Any, ranks: Any, tmp_path: Path) -> None:
    sets[0] = {"path": sets[0], "weight": 0.5}
    keys = {"data": {"train": sets, "eval": sets[1:]}, "max_steps": 4, "dropout": 0.0}
    train(run("one", **keys), ranks)
    on_ranks(2, train_here, run("two", **keys))
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) == len(two) == 5
    for row, other in zip(one, two, strict=True):
        for key in ("loss", "loss/nli.tsv", "loss/facts.tsv", "eval_loss"):
            assert other.keys() - {"imbalance"} == row.keys() and other.get(key, 0) == pytest.approx(
                row.get(key, 0), rel=1e-4
            )


def test_a_path_is_no_name_and_a_name_no_path(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snli-dev").touch()
    with pytest.raises(InputError) as raised:
        check_names(load_run(run(data={"train": [{"path": "snli"}, {"name": "snli-dev"}], "eval": "snli-de"})))
    assert [line.strip().split(";")[0] for line in str(raised.value).splitlines()] == [
        "run file: 3 mistakes",
        "data.train.0.path: snli",
        "data.train.1.name: snli-dev",
        "dataset 'snli-de'",
    ]
