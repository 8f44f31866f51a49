"""The columns are found by name, or the error names what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data import sniffing
from bertnli.data.column_names import OTHER_LABELS, OTHER_PAIRS, SCORE_COLUMNS
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import Columns, PairFile
from tests.support.pair_files import (
    pairs_of,
    rows_of,
)


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("label,premise,hypothesis", {}, ("premise", "hypothesis", "label")),
        ("gold_label,sentence1,sentence2", {}, ("sentence1", "sentence2", "gold_label")),
        ("text,text_pair", {}, ("text", "text_pair", None)),
        ("Text,TEXT_PAIR,Gold_Label", {}, ("Text", "TEXT_PAIR", "Gold_Label")),
        ("sentence1,sentence2,premise,hypothesis", {}, ("premise", "hypothesis", None)),
        ("premise,sentence1,sentence2,gold_label,label", {}, ("sentence1", "sentence2", "label")),
        ("a,b,c", {"columns": Columns("a", "c", "b")}, ("a", "c", "b")),
        ("A,hypothesis", {"columns": Columns(premise="a")}, ("A", "hypothesis", None)),
        ("premise,hypothesis,claim", {"columns": Columns(hypothesis="claim")}, ("premise", "claim", None)),
        (
            "sentence1,sentence2,sentence1_binary_parse,sentence2_binary_parse",
            {"prefer_parse": True},
            ("sentence1_binary_parse", "sentence2_binary_parse", None),
        ),
        ("sentence1,sentence2,sentence1_binary_parse,sentence2_binary_parse", {}, ("sentence1", "sentence2", None)),
        ("sentence1,sentence2,sentence1_binary_parse", {"prefer_parse": True}, ("sentence1", "sentence2", None)),
    ],
)
def test_columns_are_found(
    tmp_path: Path, header: str, options: dict[str, Any], expected: tuple[str, str, str | None]
) -> None:
    (tmp_path / "a.csv").write_text(header + "\n")
    assert PairFile(tmp_path / "a.csv", **options).columns == Columns(*expected)
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(header.split(","), "x")) + "\n")
    assert PairFile(tmp_path / "a.jsonl", **options).columns == Columns(*expected)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            Columns(),
            r"no columns with the sentence pairs; found columns 'a', 'b'; expected premise/hypothesis or .*--premise",
        ),
        (Columns(premise="a"), "no columns with the sentence pairs"),
        (
            Columns(premise="c", hypothesis="b"),
            r"no column 'c'; found columns 'a', 'b'; fix --premise .*data\.columns",
        ),
        (Columns(premise="a", hypothesis="c"), "no column 'c'.*--hypothesis"),
        (Columns("a", "b", "gold"), "no column 'gold'.*--label"),
    ],
)
def test_missing_columns_are_named(tmp_path: Path, columns: Columns, message: str) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n")
    (tmp_path / "a.jsonl").write_text('{"a": "x", "b": "y"}\n')
    for name in ("a.tsv", "a.jsonl"):
        with pytest.raises(InputError, match=message):
            PairFile(tmp_path / name, columns=columns)


@pytest.mark.parametrize(
    ("fields", "columns", "twice"),
    [
        (("sentence1", "sentence2"), Columns(premise="sentence2"), "sentence2"),
        (("premise", "hypothesis"), Columns(hypothesis="premise"), "premise"),
        (("A", "b"), Columns("a", "A"), "A"),
    ],
)
def test_one_column_is_not_both_sentences(
    tmp_path: Path, fields: tuple[str, str], columns: Columns, twice: str
) -> None:
    (tmp_path / "a.tsv").write_text("\t".join(fields) + "\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(fields, "x")) + "\n")
    for name in ("a.tsv", "a.jsonl"):
        with pytest.raises(InputError, match=f"are the same column; found '{twice}'; name both with --premise and"):
            PairFile(tmp_path / name, columns=columns)


def test_json_columns_come_from_the_first_object_that_has_them(tmp_path: Path) -> None:
    lines = (
        'nonsense\n{"x": 1}\n{"Sentence1": "a", "Sentence2": "b", "extra": 2}\n{"premise": "c", "hypothesis": "d"}\n'
    )
    (tmp_path / "a.jsonl").write_text(lines)
    file = PairFile(tmp_path / "a.jsonl")
    assert file.fields == ["Sentence1", "Sentence2", "extra"]
    assert [row.error for row in file.rows()][1:] == ["no key 'Sentence1'", None, "no key 'Sentence1'"]


def test_parse_columns_are_read_as_the_book_does(tmp_path: Path) -> None:
    def extract_text(text: str) -> str:  # as the book describes it
        text = re.sub(r"\(", "", text)
        text = re.sub(r"\)", "", text)
        return re.sub(r"\s{2,}", " ", text).strip()

    parses = [
        "( ( This ( church choir ) ) ( sings ( to ( the masses ) ) ) . )",
        "( Two\u00a0 \x85 ( men\u00a0sleep ) )",
    ]
    header = "sentence1_binary_parse\tsentence2_binary_parse\tsentence1\tsentence2\n"
    text = header + f"{parses[0]}\t{parses[1]}\tA\tB\n" + "( ( ) )\t( b )\tA\tB\n"
    rows = rows_of(tmp_path, "a.txt", text, prefer_parse=True)
    assert (rows[0].premise, rows[0].hypothesis) == (extract_text(parses[0]), extract_text(parses[1]))
    assert rows[0].premise == "This church choir sings to the masses ."
    assert rows[1].error == "empty premise"
    assert pairs_of(rows_of(tmp_path, "a.txt", text))[0] == ("A", "B", None)


class Counted(str):
    """A name that counts how often it is compared with another one."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)


def test_the_work_for_a_wide_table_is_linear_in_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("premise,hypothesis\na,b\n")
    file = PairFile(tmp_path / "a.csv")
    names = [Counted(name) for name in ("premise", "hypothesis", *(f"column{number}" for number in range(2000)), " ")]
    Counted.compared = 0
    file._resolve(sniffing._named(names))
    assert Counted.compared < 10 * len(names)
    assert file.fields[-1] == "column 2003"


@pytest.mark.parametrize(
    ("fields", "wanted", "notes"),
    [
        ("premise,hypothesis,label,gold_label", Columns(), ["the labels are in 'label', and not in 'gold_label'"]),
        ("Gold_label,premise,hypothesis, Label ", Columns(), ["the labels are in ' Label ', and not in 'Gold_label'"]),
        ("premise,hypothesis,label,gold_label", Columns(label="gold_label"), []),
        (
            "sentence1,sentence2,text,text_pair",
            Columns(),
            ["in 'sentence1', 'sentence2', and not in 'text', 'text_pair';"],
        ),
        ("sentence1,sentence2,premise,hypothesis", Columns("premise", "hypothesis"), []),
        ("premise,hypothesis,text", Columns(), []),
        ("premise,hypothesis,Label,label", Columns(), ["the labels are in 'label', and not in 'Label'"]),
        ("Premise,premise,hypothesis", Columns(), ["are in 'premise', 'hypothesis', and not in 'Premise';"]),
        ("sentence1,sentence2,label1,gold_label", Columns(), []),
    ],
)
def test_columns_that_are_not_read_are_said(tmp_path: Path, fields: str, wanted: Columns, notes: list[str]) -> None:
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    table.write_text(f"{fields}\na,b,c,d\n" if fields.count(",") == 3 else f"{fields}\na,b,c\n")
    lines.write_text(json.dumps(dict.fromkeys(fields.split(","), "a")) + "\n")
    for path in (table, lines):
        file = PairFile(path, columns=wanted)
        assert len(list(file.rows())) == len(list(file.rows())) == 1
        assert len(file.notes) == len(notes) and all(map(str.__contains__, file.notes, notes))


def opened(tmp_path: Path, fields: str, **options: Any) -> PairFile:
    (tmp_path / "a.csv").write_text(f"{fields}\n{fields}x\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(fields.split(","), "x")) + "\n")
    table, lines = PairFile(tmp_path / "a.csv", **options), PairFile(tmp_path / "a.jsonl", **options)
    assert table.columns == lines.columns
    return table


@pytest.mark.parametrize("pair", list(OTHER_PAIRS))
def test_pairs_of_public_data_sets_are_found_and_said(tmp_path: Path, pair: tuple[str, str]) -> None:
    file = opened(tmp_path, f"id,{pair[1].upper()}, {pair[0].title()}")  # the sides do not follow their order
    assert file.columns == Columns(f" {pair[0].title()}", pair[1].upper())
    [note] = file.notes
    assert f"a.csv: column ' {pair[0].title()}' is the premise, column '{pair[1].upper()}' is the hypothesis" in note


@pytest.mark.parametrize(
    ("fields", "problem_type", "label"),
    [
        *((f"text1,text2,{label}", "single_label_classification", label) for label in OTHER_LABELS),
        *((f"text1,text2,{label}", "regression", label) for label in SCORE_COLUMNS),
        ("sentence1,sentence2,score", "single_label_classification", None),
        ("sentence1,sentence2,Score,labels", "single_label_classification", "labels"),
        ("sentence1,sentence2,Score,labels", "regression", "Score"),
        ("sentence1,sentence2,is_duplicate", "regression", "is_duplicate"),
        ("sentence_A,sentence_B,relatedness_score,entailment_judgment", "regression", "relatedness_score"),
        (
            "sentence_A,sentence_B,relatedness_score,entailment_judgment",
            "single_label_classification",
            "entailment_judgment",
        ),
        ("premise,hypothesis,label,is_duplicate", "single_label_classification", "label"),
        ("premise,hypothesis,gold_label,label", "regression", "label"),
        ("text1,text2,is_duplicate", "multi_label_classification", None),  # a label's own column
        ("text1,text2,labels", "multi_label_classification", "labels"),
        ("premise,hypothesis,score,truncated,error", "regression", None),  # what bertnli score has written
        ("premise,hypothesis,label,score,truncated,error", "regression", "label"),
    ],
)
def test_labels_of_public_data_sets_are_found_and_said(
    tmp_path: Path, fields: str, problem_type: Any, label: str | None
) -> None:
    file = opened(tmp_path, fields, problem_type=problem_type)
    assert file.columns.label == label
    said = label not in (None, "label", "gold_label")
    assert any(f"column {label!r} is the label" in note for note in file.notes) == said


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ("query,passage,document", "'query'/'passage' and 'query'/'document'"),
        ("Question1,Question2,text1,text2", "'text1'/'text2' and 'Question1'/'Question2'"),
    ],
)
def test_two_pairs_that_are_equally_good_are_named(tmp_path: Path, fields: str, found: str) -> None:
    message = f"nothing says which one is meant; found {found}; name one with --premise and --hypothesis .*data.columns"
    (tmp_path / "a.csv").write_text(f"{fields}\n")
    names = fields.split(",")
    lines = (dict.fromkeys(names, "x"), dict.fromkeys(names[:2], "x"))  # the second row is clear, the file is not
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(InputError, match=message):
            PairFile(tmp_path / name)
        told = PairFile(tmp_path / name, columns=Columns(names[0], names[1]))
        assert (told.columns, told.notes) == (Columns(names[0], names[1]), [])
    (tmp_path / "b.tsv").write_text(f"{fields}\n")  # commas in spite of its name, which its columns show
    with pytest.raises(InputError, match=message):
        PairFile(tmp_path / "b.tsv")
    usual = opened(tmp_path, f"{fields},sentence1,sentence2")
    assert (usual.columns.premise, usual.columns.hypothesis) == ("sentence1", "sentence2")


def test_the_other_side_of_a_named_column(tmp_path: Path) -> None:
    def other(fields: str, **named: str) -> Columns:
        return opened(tmp_path, fields, columns=Columns(**named)).columns

    assert other("query,answer,claim", premise="query") == Columns("query", "answer")
    assert other("body,claim,evidence", premise="body") == Columns("body", "claim")
    assert other("body,claim,evidence", hypothesis="claim") == Columns("evidence", "claim")
    with pytest.raises(InputError, match=r"2 pairs of columns.*'query'/'passage' and 'query'/'document'"):
        other("query,passage,document", premise="query")
    with pytest.raises(InputError, match="no columns with the sentence pairs"):
        other("body,evidence", premise="body")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [("anchor,positive,negative", "is two pairs, without a label"), ("query,context,label", "in others .NLI-FEVER")],
)
def test_columns_that_only_look_like_a_pair_are_explained(tmp_path: Path, fields: str, reason: str) -> None:
    (tmp_path / "a.csv").write_text(f"{fields}\n")
    with pytest.raises(InputError, match=f"no columns with the sentence pairs; .*{reason}.*--premise"):
        PairFile(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("fields", "problem_type", "message"),
    [
        (
            "labels,is_duplicate",
            "single_label_classification",
            "2 label .*'labels' and 'is_duplicate'; .*--label",
        ),
        ("label,relatedness_score", "regression", "2 label columns.*'label' and 'relatedness_score'; name one with"),
        ("Score", "single_label_classification", "no label column; .*'Score' is read for a model that gives a score"),
        ("verdict", "regression", "no label column; found columns .*'verdict'; expected label or gold_label; name it"),
    ],
)
def test_labels_that_are_not_clear_are_refused_where_they_are_needed(
    tmp_path: Path, fields: str, problem_type: Any, message: str
) -> None:
    file = opened(tmp_path, f"sentence1,sentence2,{fields}", problem_type=problem_type)
    assert file.columns.label is None  # so a file can be scored with any columns
    labels = ("score",) if problem_type == "regression" else ("yes", "no")
    with pytest.raises(InputError, match=message):
        read_labelled(file, labels, problem_type=problem_type)


def test_a_label_under_another_key_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"gold_label": "neutral"}, {"other": "x"}, {"label": "neutral"}, {"label": "neutral"}]
    path.write_text("".join(json.dumps({"premise": "a", "hypothesis": "b", **row}) + "\n" for row in rows))
    file = PairFile(path)
    assert [row.label for row in file.rows()] == ["neutral", None, None, None]
    [note] = file.notes
    assert "row 3 has no 'gold_label', and so no label, but 'label'" in note
