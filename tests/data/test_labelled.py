"""Rows with a gold label: labels become indices, the other rows are refused, or skipped and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.labelled import LabelledPair, read_labelled
from bertnli.data.pairs import PairFile
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
    with pytest.raises(InputError) as error:
        labelled(tmp_path, ["neutral", "maybe", "", "entails", "x", "y", "z", "neutral"])
    message = str(error.value)
    assert "6 bad rows of 8" in message and "data.skip_bad_rows" in message
    assert "row 2: label 'maybe', expected entailment, neutral, contradiction; row 3: no label" in message
    assert "row 6" in message and "row 7" not in message


def test_no_pair_comes_after_the_first_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("premise\thypothesis\tlabel\na\tb\tneutral\nbad\nc\td\tneutral\n")
    pairs = iter(read_labelled(PairFile(tmp_path / "a.tsv"), SNLI))
    assert next(pairs).number == 1
    with pytest.raises(InputError, match="1 bad row of 3; found row 2: 1 cells, expected 3"):
        next(pairs)


def test_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    pairs, found = labelled(tmp_path, ["maybe", "neutral", "-", "?"], skip_bad_rows=True)
    assert [pair.number for pair in pairs] == [2]
    assert (found.read, found.used, found.no_gold, found.bad) == (4, 1, 1, 2)
    assert found.first_bad[1] == (4, "label '?', expected entailment, neutral, contradiction")


def test_integer_labels_need_names(tmp_path: Path) -> None:
    advice = r"--label-names 0=entailment,1=neutral,2=contradiction \(in a run file: data\.label_names\)"
    with pytest.raises(InputError, match=f"label '2', .*{advice}"):
        labelled(tmp_path, ["2", "0"])
    pairs, found = labelled(tmp_path, ["2", "0", "-1", "3"], label_names={"0": "neutral", "2": "Entailment", "3": "-"})
    assert [pair.label for pair in pairs] == [0, 1]
    assert found.no_gold == 2
    with pytest.raises(InputError, match=r"data\.label_names\): 0; found 'yes'; expected one of entailment"):
        labelled(tmp_path, ["0"], label_names={"0": "yes"})


def test_integer_label_keys_may_be_integers(tmp_path: Path) -> None:
    pairs, _ = labelled(tmp_path, ["1"], label_names={1: "contradiction"})
    assert [pair.label for pair in pairs] == [2]


def test_a_file_without_usable_rows_or_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no row can be used; found 2 rows, 2 without a gold label, 0 bad"):
        labelled(tmp_path, ["-", "-"])
    with pytest.raises(InputError, match="no row can be used; found 0 rows"):
        labelled(tmp_path, [])
    with pytest.raises(InputError, match=r"no row can be used; .*1 bad \(row 1: label 'x'"):
        labelled(tmp_path, ["x"], skip_bad_rows=True)
    (tmp_path / "b.tsv").write_text("premise\thypothesis\tgold\na\tb\tneutral\n")
    with pytest.raises(InputError, match=r"no label column; found columns 'premise', .*'gold'.*--label"):
        read_labelled(PairFile(tmp_path / "b.tsv"), SNLI)
