"""Every slice by hand; agreement of annotators from both of SNLI's forms; rows and intervals in the summary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertnli.data.pairs import PairFile
from bertnli.evaluation.evaluate import evaluate
from bertnli.evaluation.metrics import wilson
from bertnli.evaluation.slices import slices_of
from tests.evaluation.test_evaluate import LABELS, Reader

PARSED = "gold_label\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\n"


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


@pytest.mark.parametrize(
    ("premise", "hypothesis", "expected"),
    [
        (words(9), "w0", ("0 to 10", "all", "no")),
        (words(9), "w0 v0", ("11 to 15", "50% to below 75%", "no")),
        (words(14), "V0, v1!", ("16 to 20", "0% to below 25%", "no")),
        (words(31), "W0 w1 w2 v0.", ("26 to 35", "75% to below 100%", "no")),
        (words(46), "w0 v0 v1 v2", ("36 to 50", "25% to below 50%", "no")),
        (words(49), "w0 w0", ("51 or more", "all", "no")),
        ("A man eats.", "Nobody eats", ("0 to 10", "50% to below 75%", "yes")),
        ("A man eats.", "A man isn't eating", ("0 to 10", "50% to below 75%", "yes")),
        ("A man eats.", "a man is n't eating", ("0 to 10", "25% to below 50%", "yes")),
        ("A man eats.", "A man isn’t eating", ("0 to 10", "50% to below 75%", "yes")),
        ("There is no man.", "Knots and nothingness", ("0 to 10", "0% to below 25%", "no")),
        ("A man eats.", "...", ("0 to 10", "0% to below 25%", "no")),
    ],
)
def test_a_pairs_slices(premise: str, hypothesis: str, expected: tuple[str, ...]) -> None:
    found = list(slices_of(premise, hypothesis))
    assert [one.kind for one in found] == ["length", "overlap", "negation"]
    assert tuple(one.name for one in found) == expected


def said(label: str) -> str:
    return " ".join(f"{one}={float(one == label)}" for one in LABELS)


def snli_rows() -> list[tuple[str, str, list[str]]]:
    """Gold label, what the model says, the annotators' labels."""
    rows = [("entailment", "entailment", ["entailment"] * 5)] * 6
    rows += [("entailment", "neutral", ["entailment"] * 3 + ["neutral"] * 2)] * 2
    rows += [("neutral", "neutral", ["neutral", "contradiction", "neutral", "neutral", "contradiction"])]
    rows += [("-", "neutral", ["neutral", "contradiction", "neutral", "entailment", "contradiction"])]
    rows += [("neutral", "neutral", ["neutral"] * 4 + ["entailment"])] * 3
    return [*rows, ("contradiction", "neutral", ["contradiction"])]


EXPECTED = {"3 of 5": (1, 3), "4 of 5": (3, 3), "5 of 5": (6, 6)}


@pytest.mark.parametrize("form", ["jsonl", "txt", "parquet"])
def test_annotators_who_agree(tmp_path: Path, form: str) -> None:
    rows = snli_rows()
    path = tmp_path / f"snli.{form}"
    objects = [
        {"gold_label": gold, "sentence1": "w0", "sentence2": said(model), "annotator_labels": labels}
        for gold, model, labels in rows
    ]
    if form == "jsonl":
        path.write_text("".join(json.dumps(one) + "\n" for one in objects))
    elif form == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(objects), path)
    else:
        lines = ["\t".join([gold, "w0", said(model), *labels]) for gold, model, labels in rows]
        path.write_text(PARSED + "\n".join(lines) + "\n")
    found = evaluate(Reader(), PairFile(path), batch=4).to_json()["slices"]["agreement"]
    assert [one["slice"] for one in found] == list(EXPECTED)
    for one, (right, count) in zip(found, EXPECTED.values(), strict=True):
        assert one["rows"] == count and one["accuracy"] == right / count
        assert one["accuracy_interval"] == list(wilson(right, count))


@pytest.mark.parametrize("odd", ["entailment", 3, None, {"a": 1}, [1, None, ""]])
def test_odd_annotations_are_no_agreement(tmp_path: Path, odd: object) -> None:
    path = tmp_path / "a.jsonl"
    row = {"premise": "w0", "hypothesis": said("neutral"), "label": "neutral", "annotator_labels": odd}
    path.write_text(json.dumps(row) + "\n")
    found = evaluate(Reader(), PairFile(path)).to_json()
    assert found["slices"].keys() == {"length", "overlap", "negation"}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_bad_rows_do_not_shift_the_annotators(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = ["not JSON\n"]
    for gold, model, labels in snli_rows():
        row = {"gold_label": gold, "sentence1": "w0", "sentence2": said(model), "annotator_labels": labels}
        lines += [json.dumps(row) + "\n", json.dumps({**row, "sentence1": ""}) + "\n"]
    path.write_text("".join([json.dumps(row) + "\n", *lines]))
    found = evaluate(Reader(), PairFile(path), skip_bad_rows=True, batch=3).to_json()["slices"]["agreement"]
    assert {one["slice"]: one["rows"] for one in found} == {name: count for name, (_, count) in EXPECTED.items()}


def test_every_row_is_in_one_slice_of_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    lines = [f"{words(number)}\t{said('neutral')}\t{LABELS[number % 3]}" for number in range(1, 60)]
    path.write_text("premise\thypothesis\tlabel\n" + "\n".join(lines) + "\n")
    found = evaluate(Reader(), PairFile(path), batch=10)
    tables = found.to_json()["slices"]
    for table in tables.values():
        assert sum(one["rows"] for one in table) == 59
        assert sum(one["rows"] * one["accuracy"] for one in table) == pytest.approx(59 * found.metrics.accuracy)
    assert [one["slice"] for one in tables["length"]] == sorted(
        (one["slice"] for one in tables["length"]), key=lambda name: int(name.split()[0])
    )
