"""What a label cell says: a score, or several labels; what can be read in two ways is a bad row, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.data.golds import golds_for
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import PairFile
from bertnli.data.unknown_labels import UnknownLabelsError

TOPICS = ("toxic", "insult", "threat, real", "a", "b, c", "c")


@pytest.mark.parametrize(
    ("cell", "score"),
    [
        *(("0.25", 0.25), (" 3 ", 3.0), ("-1", -1.0), ("-2.5e-1", -0.25), ("true", 1.0), ("false", 0.0), ("+1.", 1.0)),
        *((None, None), ("", None), ("-", None), ("nan", None), ("NaN", None)),
        *(("inf", "'inf', not a number"), ("-Infinity", "not a number"), ("1e999", "not a number")),
        *(("entailment", "'entailment', not a number such as 0.25"), ("0,5", "not a number"), ("1 of 5", "not a")),
    ],
)
def test_a_score_is_a_number_and_nothing_else(cell: str | None, score: Any) -> None:
    gold = golds_for(("score",), "regression", None).read(cell)
    if isinstance(score, str):
        assert gold.value is None and score in str(gold.fault)
    else:
        assert (gold.value, gold.fault) == (None if score is None else (score,), None)


def test_labels_can_be_given_numbers() -> None:
    reader = golds_for(("score",), "regression", {"Entailment": "1", "neutral": "0.5", "0": "-"})
    assert [reader.read(cell).value for cell in ("entailment", "neutral", "0.0", "0.7")] == [
        (1.0,),
        (0.5,),
        None,
        (0.7,),
    ]
    with pytest.raises(InputError, match=r"data\.label_names\): 0; found 'entailment'; expected a number"):
        golds_for(("score",), "regression", {"0": "entailment"})


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        *(
            ("toxic", {0}),
            (" Insult ", {1}),
            ('["toxic", "insult"]', {0, 1}),
            ("['toxic', 'insult']", {0, 1}),
            ("[]", set()),
        ),
        *(("toxic|insult", {0, 1}), ("insult; toxic", {0, 1}), ("toxic, insult", {0, 1}), ("threat, real", {2})),
        *(("threat, real|toxic", {0, 2}), ('["b, c", "c"]', {4, 5})),
        *((None, None), ("", None), ("-", None)),
        ("b, c", {4}),  # there is no label b
        ("a, b, c", "unknown: b"),
        *(
            ("toxic, rude", "unknown: rude"),
            ('["rude", "mean"]', "unknown: rude mean"),
            ("rude words", "unknown: rude words"),
        ),
        *(
            ("[toxic]", "fault: not a list of label names"),
            ('[["toxic"]]', "fault: not a list"),
            ("[null]", "fault: not a"),
        ),
        ('["toxic", "Toxic"]', "fault: a label twice"),
        ('["toxic", "-"]', "fault: empty, or -"),
        ("[0, 1, 0, 0, 0, 1]", "fault: one number for each label or labels by their numbers"),
        ("[0, 1]", "unknown: 0 1"),
    ],
)
def test_several_labels_of_a_pair(cell: str | None, labels: Any) -> None:
    gold = golds_for(TOPICS, "multi_label_classification", None).read(cell)
    if isinstance(labels, str):
        kind, _, said = labels.partition(": ")
        assert gold.value is None
        assert said in (" ".join(gold.unknown) if kind == "unknown" else str(gold.fault))
    else:
        assert gold.value == (None if labels is None else tuple(float(i in labels) for i in range(len(TOPICS))))
        assert gold.fault is None and not gold.unknown


def test_a_cell_that_can_be_read_in_two_ways_is_a_bad_row() -> None:
    gold = golds_for(("a, b", "a", "b"), "multi_label_classification", None).read("a, b")
    assert '["a", "b"] or ["a, b"]' in str(gold.fault)
    gold = golds_for(("a;b", "c", "a", "b,c"), "multi_label_classification", None).read("a;b,c")
    assert "can be read in two ways" in str(gold.fault)


NAMES = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=6)


@given(st.lists(NAMES, min_size=2, max_size=5, unique_by=str.casefold), st.data())
def test_a_list_of_label_names_says_these_labels(names: list[str], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(names), unique=True))
    try:
        reader = golds_for(names, "multi_label_classification", None)
        known = all(reader.read(name).value is not None for name in names)
    except InputError:
        return
    gold = reader.read(json.dumps(chosen))
    if known and json.dumps(chosen) not in names:
        assert gold.value == tuple(float(name in chosen) for name in names), gold


ROWS: list[Any] = [["toxic", "insult"], [], ["insult"], None, ["toxic"]]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
def test_lists_of_labels_in_every_format(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        table = {"premise": ["p"] * 5, "hypothesis": ["h"] * 5, "label": pa.array(ROWS, pa.list_(pa.string()))}
        pq.write_table(pa.table(table), path)
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"premise": "p", "hypothesis": "h", "label": row}) + "\n" for row in ROWS))
    else:
        cells = ["\"['toxic', 'insult']\"", "[]", "insult", "", "toxic"]  # as pandas writes a column of lists
        path.write_text("premise,hypothesis,label\n" + "".join(f"p,h,{cell}\n" for cell in cells))
    found = read_labelled(PairFile(path), ("toxic", "insult"), problem_type="multi_label_classification")
    assert [pair.label for pair in found] == [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0)]
    assert found.rows_by_label() == {
        "toxic": {"used": 2, "left out": 0},
        "insult": {"used": 2, "left out": 0},
        "none of the labels": {"used": 1, "left out": 0},
        "without a gold label": {"used": 0, "left out": 1},
    }


def test_unknown_labels_and_bad_scores_are_told_with_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("premise\thypothesis\tlabel\np\th\ttoxic|rude\np\th\t0.5\np\th\tinf\np\th\tx\n")
    with pytest.raises(UnknownLabelsError, match=r"'rude' \(1 row\).*row 1"):
        list(read_labelled(PairFile(path), ("toxic", "x", "0.5", "inf"), problem_type="multi_label_classification"))
    scores = read_labelled(PairFile(path), ("score",), problem_type="regression")
    with pytest.raises(InputError, match=r"3 bad rows of 4; found row 1: the score is 'toxic\|rude'.*row 3: .*'inf'"):
        list(scores)
    skipping = read_labelled(PairFile(path), ("score",), problem_type="regression", skip_bad_rows=True)
    assert [pair.label for pair in skipping] == [(0.5,)]
    assert skipping.rows_by_label() == {
        "score": {"used": 1, "left out": 0},
        "bad, without a known label": {"used": 0, "left out": 3},
    }


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_labels_with_a_column_each(tmp_path: Path, form: str) -> None:
    rows = [(1, 0), (0, 0), (-1, -1), (1, 1), (0, None), (2, 0)]
    table = {
        "premise": ["p"] * 6,
        "hypothesis": ["h"] * 6,
        "Toxic": [a for a, _ in rows],
        "insult": [b for _, b in rows],
    }
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(pa.table(table), path)
    elif form == "jsonl":
        path.write_text(
            "".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in zip(*table.values(), strict=True))
        )
    else:
        lines = [
            ",".join("" if cell is None else str(cell) for cell in row) for row in zip(*table.values(), strict=True)
        ]
        path.write_text("\n".join([",".join(table), *lines]) + "\n")
    options: Any = {"problem_type": "multi_label_classification"}
    with pytest.raises(
        InputError, match=r"2 bad rows of 6; found row 5: no value in column 'insult', .* row 6: '2' in"
    ):
        list(read_labelled(PairFile(path), ("toxic", "insult"), **options))
    found = read_labelled(PairFile(path), ("toxic", "insult"), skip_bad_rows=True, **options)
    for _ in range(2):  # a file can be read again
        assert [(pair.label, pair.number) for pair in found] == [((1, 0), 1), ((0, 0), 2), ((1, 1), 4)]
    assert (found.no_gold, found.bad) == (1, 2)
    with pytest.raises(InputError, match=r"no label column; .*or gold_label, or a column for each label"):
        read_labelled(PairFile(path), ("toxic", "other"), **options)
    with pytest.raises(InputError, match="no label column"):
        read_labelled(PairFile(path), ("toxic", "insult"))


def test_labels_in_a_column_of_scores_are_met_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("premise\thypothesis\tlabel\np\th\tentailment\np\th\t1\n")
    with pytest.raises(InputError, match="; say which number each label is, such as --label-names entailment=1"):
        list(read_labelled(PairFile(path), ("score",), problem_type="regression"))
