"""People's own text tables of many dialects, where the folder of such cases is at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertnli.common.errors import InputError
from bertnli.data.dialect import Dialect
from bertnli.data.labelled import read_labelled
from bertnli.data.labels import SNLI_ORDER
from bertnli.data.pairs import PairFile

DOG = ("A man eats.", "A person eats.", "entailment")
READ = {
    "excel.txt": [
        ("A man, tall, eats.", "A man eats, sitting.", None),
        ('The sign says "no entry".', "Nobody may enter.", None),
    ],
    "pd.tsv": [
        ('He said "no" and left.', 'He said "yes".', "contradiction"),
        ("A man, who is tall, eats.", "A tall man eats.", "entailment"),
        ("Line one\nline two", "b", "neutral"),
    ],
    "semi.csv": [("A man eats, sitting.", "A person eats.", "entailment")],
    "tab.csv": [(*DOG[:2], None)],
    "lines.json": [DOG],
    "arr.json": [DOG],
    "zero.jsonl": [],
    "blank.jsonl": [DOG],
    "blank.csv": [DOG],
}
REFUSED = {
    "u16.csv": "UTF-16 text; expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8 < ",
    "ps.jsonl": "UTF-16 text; expected UTF-8; convert it: iconv -f UTF-16 -t UTF-8 < ",
    "scitail.tsv": "--no-header",
}


@pytest.mark.parametrize("name", READ)
def test_a_table_is_read_as_it_is_meant(cases: Path, name: str) -> None:
    rows = list(PairFile(cases / name).rows())
    good = [(row.premise, row.hypothesis, row.label) for row in rows if row.error is None]
    assert good[: len(READ[name])] == READ[name]
    assert len(good) == len(READ[name]) or name == "pd.tsv"
    assert {row.error for row in rows} <= {None, "blank line"}


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_is_not_clear_is_refused_with_what_helps(cases: Path, name: str) -> None:
    with pytest.raises(InputError) as raised:
        PairFile(cases / name)
    assert REFUSED[name] in str(raised.value)


def test_a_blank_line_at_the_end_is_no_labelled_row(cases: Path) -> None:
    for name in ("blank.jsonl", "blank.csv"):
        labelled = read_labelled(PairFile(cases / name), SNLI_ORDER)
        assert (len(list(labelled)), labelled.bad) == (1, 0)


def test_without_a_header_both_rows_are_there(cases: Path) -> None:
    assert len(list(PairFile(cases / "scitail.tsv", dialect=Dialect(header=False)).rows())) == 2


def test_a_second_header_is_a_bad_row(cases: Path) -> None:
    errors = [row.error for row in PairFile(cases / "two.tsv").rows()]
    assert errors[0] is errors[2] is None and "a second header" in str(errors[1])
