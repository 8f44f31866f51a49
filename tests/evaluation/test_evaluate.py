"""What evaluate makes of good and bad files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertnli_export.build import export_bundle
from bertnli_export.scorer import Scorer
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import PairFile
from bertnli.evaluation.evaluate import Evaluation, evaluate
from bertnli.evaluation.example_predictions import EXAMPLES
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.model import pretrained
from bertnli.model.predictor import TorchPredictor
from tests.evaluation.test_metrics import random_batch
from tests.support import tiny

LABELS = ("entailment", "neutral", "contradiction")


class Reader:
    """A predictor that reads its logits, in its own order, from the hypothesis: `entailment=2 neutral=0.5 …`."""

    def __init__(self, labels: Sequence[str] = LABELS, temperature: float = 1.0):
        self.labels, self.temperature = tuple(labels), temperature
        self.meant = self.labels  # what its outputs mean, whatever they are called
        self.calls: list[int] = []

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(len(premises))
        said = [dict(part.split("=") for part in hypothesis.split()) for hypothesis in hypotheses]
        return np.array([[float(one[label]) for label in self.meant] for one in said], np.float32)


def write(path: Path, rows: Sequence[tuple[str, Sequence[float]]]) -> PairFile:
    """A TSV file; a row is its gold label and the logits of LABELS."""
    lines = ["premise\thypothesis\tlabel"]
    for number, (gold, logits) in enumerate(rows, 1):
        said = " ".join(f"{label}={value}" for label, value in zip(LABELS, logits, strict=True))
        lines.append(f"premise {number}\t{said}\t{gold}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return PairFile(path)


def random_rows(count: int) -> list[tuple[str, list[float]]]:
    logits, gold = random_batch(9, count, 3)
    return [(LABELS[index], [round(float(value), 2) for value in row]) for row, index in zip(logits, gold, strict=True)]


def same_apart_from_time(one: Evaluation, other: Evaluation) -> bool:
    clock = ("seconds", "pairs_per_second")
    first, second = ({k: v for k, v in e.to_json().items() if k not in clock} for e in (one, other))
    return rounded(first) == rounded(second)


def rounded(value: Any) -> Any:
    """Numbers as they are whatever the order of summing."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 9) if isinstance(value, float) else value


def test_every_labelled_row_counts_once_whatever_the_batch(tmp_path: Path) -> None:
    rows = random_rows(100)
    rows[10] = ("-", rows[10][1])
    file = write(tmp_path / "a.tsv", rows)
    predictor = Reader()
    seen: list[tuple[int, int | None]] = []
    small = evaluate(predictor, file, batch=7, progress=lambda done, total: seen.append((done, total)))
    assert predictor.calls == [7] * 14 + [1]
    assert seen[0] == (7, 99) and seen[-1] == (99, 99)
    assert small.metrics.rows == 99 and small.no_gold_rows == 1 and small.bad_rows == 0
    assert same_apart_from_time(small, evaluate(Reader(), file))
    right = sum(int(np.argmax(logits)) == LABELS.index(gold) for gold, logits in rows if gold != "-")
    assert small.metrics.accuracy == right / 99


def test_a_file_that_changes_while_it_is_read_has_no_figures(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", random_rows(20))
    with pytest.raises(RunError, match=r"a\.tsv: was changed while it was read"):
        evaluate(Reader(), file, progress=lambda done, total: os.utime(file.path, (1, done)))


def test_every_form_of_a_model_gives_the_same_figures(tmp_path: Path) -> None:
    """Another author's folder, the one that training leaves, and an fp32 bundle. transformers agrees on every row."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny.hf_folder(tmp_path / "foreign", max_length=None)
    source = pretrained.load(folder)
    pretrained.save(source.build(), source.tokenizer, tmp_path / "trained")
    trained = pretrained.load(tmp_path / "trained")
    export_bundle(trained, tmp_path / "bundle")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(200)))
    forms = [TorchPredictor(one.build(), one.tokenizer, "cpu") for one in (source, trained)]
    results = [evaluate(form, PairFile(path)).metrics for form in (*forms, Scorer(tmp_path / "bundle", "cpu"))]

    model, tokenizer = (kind.from_pretrained(folder) for kind in (AutoModelForSequenceClassification, AutoTokenizer))
    theirs = ClassificationMetrics(LABELS)
    for pair in read_labelled(PairFile(path), LABELS):
        with torch.no_grad():
            logits = model(**tokenizer(pair.premise, pair.hypothesis, return_tensors="pt")).logits
        theirs.add(logits.numpy(), np.array([pair.label]))
    for metrics in results:
        np.testing.assert_array_equal(metrics.confusion, theirs.confusion)
        assert (metrics.loss, metrics.brier) == pytest.approx((theirs.loss, theirs.brier), rel=1e-4)


def test_labels_are_mapped_by_name_into_the_models_order(tmp_path: Path) -> None:
    file = write(tmp_path / "a.tsv", random_rows(60))
    usual = evaluate(Reader(), file)
    other_order = ("contradiction", "entailment", "neutral")
    other = evaluate(Reader(other_order), file)
    back = [other_order.index(label) for label in LABELS]
    np.testing.assert_array_equal(other.metrics.confusion[np.ix_(back, back)], usual.metrics.confusion)
    assert other.metrics.loss == pytest.approx(usual.metrics.loss)
    assert list(other.to_json()["per_class"]) == list(other_order)
    assert [example.row for example in other.wrong] == [example.row for example in usual.wrong]


def test_examples_are_the_surest_mistakes_and_the_closest_calls_of_every_kind(tmp_path: Path) -> None:
    easy, sure = [5.0, 0.0, 0.0], [9.0, 0.0, 0.0]
    rows: list[tuple[str, list[float]]] = [("entailment", easy)] * 30
    rows += [("neutral", sure)] * 20  # one kind of mistake, and the surest
    rows += [("contradiction", [0.5, 1.0, 0.0])]  # another kind, once
    rows += [("entailment", [0.2, 0.1, 0.1]), ("neutral", [0.0, 4.0, 0.0])]
    evaluation = evaluate(Reader(), write(tmp_path / "a.tsv", rows), batch=8)
    assert len(evaluation.wrong) == EXAMPLES and len(evaluation.right) == EXAMPLES
    assert [(one.gold, one.predicted) for one in evaluation.wrong] == [("neutral", "entailment")] * 9 + [
        ("contradiction", "neutral")
    ]
    assert [one.row for one in evaluation.wrong] == [*range(31, 40), 51]
    assert evaluation.right[0].row == 52 and evaluation.right[0].gold == "entailment"
    assert 53 in [one.row for one in evaluation.right]
    surest = evaluation.wrong[0]
    assert surest.premise == "premise 31"
    assert sum(surest.probabilities.values()) == pytest.approx(1)
    assert surest.probabilities["entailment"] == pytest.approx(1 / (1 + 2 * np.exp(-9)), rel=1e-6)


def test_the_json_is_plain_and_complete(tmp_path: Path) -> None:
    evaluation = evaluate(Reader(), write(tmp_path / "a.tsv", random_rows(50)))
    found = evaluation.to_json()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["rows"] == 50 == sum(map(sum, found["confusion"]))
    assert found["accuracy"] == pytest.approx(sum(found["confusion"][i][i] for i in range(3)) / 50)
    assert found["per_class"]["neutral"]["rows"] == sum(found["confusion"][1])
    assert found["pairs_per_second"] * found["seconds"] == pytest.approx(50)


def test_a_long_sentence_is_cut_in_the_examples(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"premise\thypothesis\tlabel\n{'x' * 100_000}\tentailment=1 neutral=0 contradiction=0\tneutral\n")
    [example] = evaluate(Reader(), PairFile(path)).wrong
    assert len(example.premise) < 1000 and example.premise.endswith("…")


@pytest.mark.parametrize(
    ("last", "message"),
    [("premise\t \tneutral", r"row 31: empty hypothesis"), ("p\tx\tentialment", r"row 31: label 'entialment'")],
)
def test_a_row_at_the_end_is_found_before_anything_is_scored(tmp_path: Path, last: str, message: str) -> None:
    path = tmp_path / "a.tsv"
    write(path, random_rows(30))
    path.write_text(f"{path.read_text()}{last}\n")
    predictor = Reader()
    with pytest.raises(InputError, match=message):
        evaluate(predictor, PairFile(path), batch=4)
    assert predictor.calls == []


def test_skipping_bad_rows_counts_them_but_never_skips_a_label(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    write(path, random_rows(30))
    path.write_text(path.read_text() + "only one cell\n")
    assert evaluate(Reader(), PairFile(path), skip_bad_rows=True).bad_rows == 1
    predictor = Reader(("contradiction", "entailment"))  # a model that knows two of the three
    with pytest.raises(InputError, match=r"does not know.*'neutral' \(\d+ rows\).*expected contradiction, entailment"):
        evaluate(predictor, PairFile(path), skip_bad_rows=True)
    assert predictor.calls == []
    left_out = evaluate(predictor, PairFile(path), skip_bad_rows=True, label_names={"neutral": "-"})
    neutral = sum(gold == "neutral" for gold, _ in random_rows(30))
    assert left_out.no_gold_rows == neutral
    assert left_out.to_json()["rows_by_label"] == {
        "entailment": {"used": left_out.metrics.confusion[1].sum(), "left out": 0},
        "contradiction": {"used": left_out.metrics.confusion[0].sum(), "left out": 0},
        "without a gold label": {"used": 0, "left out": neutral},
        "bad, without a known label": {"used": 0, "left out": 1},
    }


def test_numbered_labels_are_translated(tmp_path: Path) -> None:
    rows = random_rows(20)
    named = evaluate(Reader(), write(tmp_path / "a.tsv", rows))
    numbered = write(tmp_path / "a.tsv", [(str(LABELS.index(gold)), logits) for gold, logits in rows])
    with pytest.raises(InputError, match="label_names"):
        evaluate(Reader(), numbered)
    names = {str(index): label for index, label in enumerate(LABELS)}
    assert same_apart_from_time(evaluate(Reader(), numbered, label_names=names), named)


def test_a_score_that_is_not_finite_names_its_row(tmp_path: Path) -> None:
    rows = random_rows(20)
    rows[12] = ("neutral", [float("nan"), 0.0, 0.0])
    with pytest.raises(RunError, match=r"a\.tsv: row 13: .*not finite.*nan, 0\.0, 0\.0"):
        evaluate(Reader(), write(tmp_path / "a.tsv", rows), batch=8)


def test_a_file_without_a_labelled_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row can be used"):
        evaluate(Reader(), write(tmp_path / "a.tsv", [("-", [0, 0, 0])]))
