"""Rows with a gold label: labels become indices, the other rows are refused, or skipped and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.labelled import LabelledPair, read_labelled
from bertnli.data.pairs import PairFile
from bertnli.data.unknown_labels import UnknownLabelsError
from tests.support.pair_files import (
    SNLI,
)


def labelled(tmp_path: Path, labels: list[str], **options: Any) -> tuple[list[LabelledPair], Any]:
    text = "premise\thypothesis\tlabel\n" + "".join(f"p{at}\th\t{label}\n" for at, label in enumerate(labels, 1))
    (tmp_path / "a.tsv").write_text(text)
    found = read_labelled(PairFile(tmp_path / "a.tsv"), SNLI, **options)
    return list(found), found


def test_labels_become_indices_and_rows_without_gold_are_counted(tmp_path: Path) -> None:
    pairs, found = labelled(tmp_path, ["neutral", "-", " Contradiction", "-1", "ENTAILMENT"])
    assert pairs == [("p1", "h", 1, 1), ("p3", "h", 2, 3), ("p5", "h", 0, 5)]
    assert (found.read, found.used, found.no_gold, found.bad) == (5, 3, 2, 0)
    assert list(found) == pairs and found.read == 5, "reading again counts again"


def test_bad_rows_are_refused_with_the_first_five(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("premise\thypothesis\tlabel\np\th\tneutral\n" + "\th\tneutral\n" * 6 + "p\th\tneutral\n")
    with pytest.raises(InputError) as error:
        list(read_labelled(PairFile(path), SNLI))
    message = str(error.value)
    assert "6 bad rows of 8" in message and "data.skip_bad_rows" in message
    assert "row 2: empty premise; row 3: empty premise" in message
    assert "row 6" in message and "row 7" not in message


def test_no_pair_comes_after_the_first_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("premise\thypothesis\tlabel\na\tb\tneutral\nbad\nc\td\tneutral\n")
    pairs = iter(read_labelled(PairFile(tmp_path / "a.tsv"), SNLI))
    assert next(pairs).number == 1
    with pytest.raises(InputError, match="1 bad row of 3; found row 2: 1 cells, expected 3"):
        next(pairs)


def test_bad_rows_are_skipped_and_counted_by_label(tmp_path: Path) -> None:
    lines = ["p\th\tneutral", "\th\tneutral", "p\th\t-", "one cell", "p\th\t", "p\t\tentailment", "\th\tmaybe"]
    (tmp_path / "a.tsv").write_text("\n".join(["premise\thypothesis\tlabel", *lines, ""]))
    found = read_labelled(PairFile(tmp_path / "a.tsv"), SNLI, skip_bad_rows=True)
    assert [pair.number for pair in found] == [1]
    assert (found.read, found.used, found.no_gold, found.bad) == (7, 1, 2, 4)
    assert found.first_bad[1] == (4, "1 cells, expected 3")
    assert found.rows_by_label() == {
        "entailment": {"used": 0, "left out": 1},
        "neutral": {"used": 1, "left out": 1},
        "contradiction": {"used": 0, "left out": 0},
        "without a gold label": {"used": 0, "left out": 2},
        "bad, without a known label": {"used": 0, "left out": 2},
    }


@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_unknown_labels_are_no_bad_rows(tmp_path: Path, skip_bad_rows: bool) -> None:
    labels = ["neutral", "contradictory", "entailment", "Contradictory", "maybe"]
    with pytest.raises(UnknownLabelsError) as error:
        labelled(tmp_path, labels, skip_bad_rows=skip_bad_rows)
    message = str(error.value)
    assert (
        "a.tsv: labels that the model does not know; found 'Contradictory' (1 row), 'contradictory' (1 row)" in message
    )
    assert "the first in row 2: label 'contradictory'" in message
    assert "data.label_names" in message and 'labels: ["entailment", "neutral", ' in message
    assert "skip" not in message
    assert error.value.used == {"neutral": 1, "entailment": 1}
    pairs = iter(read_labelled(PairFile(tmp_path / "a.tsv"), SNLI, skip_bad_rows=skip_bad_rows))
    assert next(pairs).number == 1
    with pytest.raises(UnknownLabelsError):  # no pair comes after the first of them
        next(pairs)


def test_numbers_need_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found '0' \(1 row\), '2' \(1 row\).*--label-names 0=LABEL,2=LABEL") as error:
        labelled(tmp_path, ["2", "0"])
    assert "0=entailment" not in str(error.value), "the model's order says nothing about the file's numbers"
    pairs, found = labelled(tmp_path, ["2", "0", "-1", "3"], label_names={"0": "neutral", "2": "Entailment", "3": "-"})
    assert [pair.label for pair in pairs] == [0, 1]
    assert found.no_gold == 2
    with pytest.raises(InputError, match=r"data\.label_names\): 0; found 'yes'; expected one of entailment"):
        labelled(tmp_path, ["0"], label_names={"0": "yes"})


def test_numbers_are_labels_in_every_form(tmp_path: Path) -> None:
    cells = ["0", "1.0", "2", "1.000e+00", "+2.", "-1", "-1.0", "", "true", "False"]
    pairs, found = labelled(tmp_path, cells, label_names={"0": "entailment", "1.0": "neutral", "2": "contradiction"})
    assert [pair.label for pair in pairs] == [0, 1, 2, 1, 2, 1, 0]
    assert found.no_gold == 3
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"premise": "p", "hypothesis": "h", "label": {cell}}}\n' for cell in ("1", "1.0", '"1.0"', "true"))
    )
    assert [
        pair.label for pair in read_labelled(PairFile(tmp_path / "a.jsonl"), SNLI, label_names={"1": "neutral"})
    ] == [1] * 4


def test_integer_label_keys_may_be_integers(tmp_path: Path) -> None:
    pairs, _ = labelled(tmp_path, ["1"], label_names={1: "contradiction"})
    assert [pair.label for pair in pairs] == [2]


def test_a_file_without_usable_rows_or_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row can be used; found 2 rows, 2 without a gold label, 0 bad"):
        labelled(tmp_path, ["-", "-"])
    with pytest.raises(InputError, match="no row can be used; found 0 rows"):
        labelled(tmp_path, [])
    (tmp_path / "c.tsv").write_text("premise\thypothesis\tlabel\n\tb\tneutral\n")
    with pytest.raises(InputError, match=r"no row can be used; .*1 bad \(row 1: empty premise\)"):
        list(read_labelled(PairFile(tmp_path / "c.tsv"), SNLI, skip_bad_rows=True))
    (tmp_path / "b.tsv").write_text("premise\thypothesis\tgold\na\tb\tneutral\n")
    with pytest.raises(InputError, match=r"no label column; found columns 'premise', .*'gold'.*--label"):
        read_labelled(PairFile(tmp_path / "b.tsv"), SNLI)
