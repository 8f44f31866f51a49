"""The warning of swapped labels names the order that fits, and is silent for a good and for a weak model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.evaluation.evaluate import evaluate
from bertnli.evaluation.label_order import fitting_order
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from tests.conftest import Run
from tests.evaluation.test_evaluate import LABELS, Reader, random_rows, write
from tests.support import tiny


def metrics_of(confusion: Sequence[Sequence[float]], labels: Sequence[str] = LABELS) -> ClassificationMetrics:
    metrics = ClassificationMetrics(labels)
    metrics.confusion += np.array(confusion, np.int64)
    return metrics


GOOD = [[2800, 380, 188], [300, 2500, 419], [180, 400, 2657]]  # about 81%


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_every_wrong_order_is_found_and_the_right_one_named(order: tuple[int, ...]) -> None:
    """Output i means LABELS[i], and is called LABELS[order[i]]."""
    shown = np.zeros((3, 3), int)
    shown[:, list(order)] = GOOD
    found = fitting_order(metrics_of(shown))
    if order == (0, 1, 2):
        assert found is None
        return
    assert found is not None
    names, accuracy = found
    assert [names[order[index]] for index in range(3)] == list(LABELS)
    assert accuracy == pytest.approx(np.trace(GOOD) / np.sum(GOOD))


@pytest.mark.parametrize(
    ("confusion", "why"),
    [
        ([[0, 0, 0]] * 3, "no rows"),
        ([[0, 2, 0], [1, 0, 0], [0, 0, 2]], "few rows prove nothing"),
        ([[334, 0, 0], [333, 0, 0], [333, 0, 0]], "one label for everything"),
        ([[82, 150, 102], [160, 80, 93], [110, 140, 83]], "ANLI, whose rows were chosen for the mistakes of models"),
        ([[20, 180, 134], [200, 10, 123], [140, 180, 13]], "the same, the model that they were chosen with"),
        ([[800, 150, 32], [20, 20, 7], [4500, 464, 2200]], "Breaking NLI: mostly one label, which is often missed"),
        ([[0, 0, 0], [14500, 0, 500], [0, 0, 0]], "HANS, of one label: not better than that label for every row"),
        ([[14800, 100, 100], [14000, 500, 500], [0, 0, 0]], "HANS: entailment wherever words overlap"),
        ([[400, 300, 300], [300, 400, 300], [300, 300, 400]], "weak"),
        ([[290, 355, 355], [355, 290, 355], [355, 355, 290]], "worse than chance, but leaning nowhere"),
    ],
)
def test_a_weak_model_is_not_accused(confusion: list[list[int]], why: str) -> None:
    assert fitting_order(metrics_of(confusion)) is None, why


@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from([50, 1000, 20_000]), st.floats(0, 0.5))
def test_chance_accuses_nobody(seed: int, labels: int, rows: int, skill: float) -> None:
    """Models that know the label of a share of the rows and otherwise answer whatever they lean to."""
    draw = np.random.default_rng(seed)
    gold = draw.integers(labels, size=rows)
    leaning = draw.dirichlet(np.full(labels, 0.5))
    predicted = np.where(draw.random(rows) < skill, gold, draw.choice(labels, rows, p=leaning))
    metrics = ClassificationMetrics([f"label {index}" for index in range(labels)])
    np.add.at(metrics.confusion, (gold, predicted), 1)
    assert fitting_order(metrics) is None


def test_many_labels_are_not_tried() -> None:
    for size, tried in ((6, True), (7, False)):
        rolled = metrics_of(np.roll(100 * np.eye(size), 1, axis=0), [f"label {index}" for index in range(size)])
        assert (fitting_order(rolled) is not None) == tried


def test_two_labels() -> None:
    assert fitting_order(metrics_of([[10, 90], [90, 10]], ("yes", "no"))) == (("no", "yes"), 0.9)
    assert fitting_order(metrics_of([[45, 55], [55, 45]], ("yes", "no"))) is None


def test_evaluation_says_it(tmp_path: Path) -> None:
    rows = [(gold, [3.0 * (gold == label) for label in LABELS]) for gold, _ in random_rows(90)]
    good = evaluate(Reader(), write(tmp_path / "a.tsv", rows))
    assert good.metrics.accuracy == 1 and good.to_json()["swapped_labels"] is None
    wrong = Reader()
    wrong.meant = ("neutral", "contradiction", "entailment")
    found = evaluate(wrong, write(tmp_path / "a.tsv", rows)).to_json()["swapped_labels"]
    assert found == {"labels": list(wrong.meant), "accuracy": 1.0}


def test_the_command_warns(command: Run, tmp_path: Path) -> None:
    model = tiny.hf_folder(tmp_path / "model")
    source = pretrained.load(model)
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(200)]
    gold = TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*zip(*pairs, strict=True)).argmax(axis=1)
    lines = [f"{p}\t{h}\t{LABELS[index]}" for (p, h), index in zip(pairs, gold, strict=True)]
    (tmp_path / "rows.tsv").write_text("\n".join(["premise\thypothesis\tlabel", *lines]) + "\n")

    good = command("eval", "model", "rows.tsv", "--json")
    assert json.loads(good.stdout.splitlines()[-1])["swapped_labels"] is None and "warning" not in good.stderr

    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    (model / "config.json").write_text(json.dumps(config))
    done = command("eval", "model", "rows.tsv", "--json", "--report", "report")
    assert done.returncode == 0
    said = json.loads(done.stdout.splitlines()[-1])["swapped_labels"]
    assert said == {"labels": ["entailment", "neutral", "contradiction"], "accuracy": 1.0}
    assert "warning: the labels look swapped: in the order entailment, neutral, contradiction" in done.stderr
    assert "labels look swapped: in the order entailment" in (tmp_path / "report" / "report.html").read_text()
