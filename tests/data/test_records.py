"""Each record of TSV, CSV and JSON lines is one row, good or bad."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertnli.common.errors import RunError
from bertnli.data import records
from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile
from tests.support.pair_files import (
    pairs_of,
    rows_of,
)


def check(rows: list[Row], expected: list[tuple[str | None, bool, str]]) -> None:
    """`expected`: (error, parsed, raw) of each row."""
    assert [(row.error, row.parsed, row.raw) for row in rows] == expected
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        if not row.parsed:
            assert (row.premise, row.hypothesis, row.label) == (None, None, None)


def test_tsv_rows(tmp_path: Path) -> None:
    lines = [
        b'He said "hi\t"bye" he said\t-',  # quotes mean nothing
        b"one\x0btwo\x0cthree\x1cfour\xc2\x85five\tsix\xe2\x80\xa8seven\rend\tneutral",  # none of these ends a line
        b"a\tb\tneutral\r",  # a Windows line end
        b"a\tb\r\r",
        b"a\tb\tc\td",
        b"alone",
        b"",
        b"\r",
        b"a\tb\xff\tneutral",
        b" \tb\tneutral",
        b"a\t\xe3\x80\x80\tneutral",  # an ideographic blank is blank
        b"a\tb\0c\tneutral",
        b"a\tb\t ",
    ]
    rows = rows_of(tmp_path, "a.tsv", b"\xef\xbb\xbfpremise\thypothesis\tlabel\r\n" + b"\n".join(lines) + b"\n")
    check(
        rows,
        [
            (None, True, 'He said "hi\t"bye" he said\t-'),
            (None, True, "one\x0btwo\x0cthree\x1cfour\x85five\tsix\u2028seven\rend\tneutral"),
            (None, True, "a\tb\tneutral"),
            ("2 cells, expected 3", False, "a\tb\r"),
            ("4 cells, expected 3", False, "a\tb\tc\td"),
            ("1 cells, expected 3", False, "alone"),
            ("blank line", False, ""),
            ("blank line", False, ""),
            ("not valid UTF-8", False, "a\tb\\xff\tneutral"),
            ("empty premise", True, " \tb\tneutral"),
            ("empty hypothesis", True, "a\t\u3000\tneutral"),
            ("NUL character in the hypothesis", True, "a\tb\0c\tneutral"),
            (None, True, "a\tb\t "),
        ],
    )
    assert rows[0][1:4] == ('He said "hi', '"bye" he said', "-")
    assert rows[-1].label is None


def test_last_line_without_line_feed(tmp_path: Path) -> None:
    assert pairs_of(rows_of(tmp_path, "a.tsv", "premise\thypothesis\na\tb")) == [("a", "b", None)]
    assert pairs_of(rows_of(tmp_path, "a.tsv", "premise\thypothesis\na\tb\r")) == [("a", "b", None)]
    assert len(rows_of(tmp_path, "a.tsv", "premise\thypothesis\na\tb\n\n")) == 2
    assert rows_of(tmp_path, "a.tsv", "premise\thypothesis") == []


def test_snli_lines_may_leave_out_the_annotators(tmp_path: Path) -> None:
    header = "gold_label\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\n"
    text = header + "neutral\ta\tb\tneutral\nneutral\ta\tb\tneutral\tx\t\t\t\nneutral\ta\tb\nneutral" + "\ta" * 8 + "\n"
    assert [row.error for row in rows_of(tmp_path, "a.txt", text)] == [
        None,
        None,
        "3 cells, expected 8",
        "9 cells, expected 8",
    ]


def test_csv_rows(tmp_path: Path) -> None:
    text = (
        "premise,hypothesis,label\r\n"
        '"a, ""quoted""","two\r\nlines\n",neutral\r\n'  # line ends inside a cell are the cell's own
        'He is 5" tall,b,neutral\r\n'  # as Python's csv takes it
        '"a" x,b,neutral\r\n'
        "a,b\rc,neutral\r\n"
        "a,b,neutral\r\r\n"
        "a,b\r\n"
        "\r\n"
        '"a","b","neutral"\r\n'
        '"never closed,b,neutral\r\n'
        "c,d,neutral\r\n"
        "e,f,neutral"
    )
    rows = rows_of(tmp_path, "a.csv", text)
    check(
        rows,
        [
            (None, True, '"a, ""quoted""","two\r\nlines\n",neutral'),
            (None, True, 'He is 5" tall,b,neutral'),
            ("not CSV: ',' expected after '\"'", False, '"a" x,b,neutral'),
            ("a carriage return inside an unquoted cell", False, "a,b\rc,neutral"),
            ("a carriage return inside an unquoted cell", False, "a,b,neutral\r"),
            ("2 cells, expected 3", False, "a,b"),
            ("blank line", False, ""),
            (None, True, '"a","b","neutral"'),
            ("a quote is opened and never closed", False, '"never closed,b,neutral'),
            (None, True, "c,d,neutral"),
            (None, True, "e,f,neutral"),
        ],
    )
    assert pairs_of(rows)[0] == ('a, "quoted"', "two\r\nlines\n", "neutral")
    assert pairs_of(rows)[1] == ('He is 5" tall', "b", "neutral")


def test_csv_record_that_fails_in_its_second_line_is_one_bad_row(tmp_path: Path) -> None:
    """Its second line looks like a row, but is half of one."""
    rows = rows_of(tmp_path, "a.csv", 'premise,hypothesis\n"a\nb" c,d\ne,f\n')
    assert [(row.raw, row.parsed) for row in rows] == [('"a\nb" c,d', False), ("e,f", True)]


def test_csv_quote_that_is_never_closed_costs_one_line(tmp_path: Path) -> None:
    lines = ['"open,b', "c,d", '"e,f', 'g" x,h', "i,j"]
    rows = rows_of(tmp_path, "a.csv", "premise,hypothesis\n" + "\n".join(lines) + "\n")
    assert [row.raw for row in rows] == lines
    assert [row.number for row in rows if row.error] == [1, 3, 4], "row 4 may be the end of row 3"


def test_csv_quote_left_open_too_long_costs_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_QUOTED", 1000)
    lines = ['"open,b', *[f"premise {number},hypothesis" for number in range(500)], 'close",d', "e,f"]
    rows = rows_of(tmp_path, "a.csv", "premise,hypothesis\n" + "\n".join(lines) + "\n")
    assert [row.raw for row in rows] == lines
    assert [row.number for row in rows if row.error] == [1, 502], "row 502 may be the end of row 1"


def test_csv_record_with_bytes_that_are_no_utf8_is_one_bad_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.csv", b'premise,hypothesis\n"a\n\xff","b"\nc,d\n')
    check(rows, [("not valid UTF-8", False, '"a\n\\xff","b"'), (None, True, "c,d")])


def test_csv_header_may_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"premise","hypo\nthesis",hypothesis\na,b,c\n')
    file = PairFile(path)
    assert file.fields == ["premise", "hypo\nthesis", "hypothesis"]
    assert file.header == '"premise","hypo\nthesis",hypothesis'
    assert pairs_of(list(file.rows())) == [("a", "c", None)]


@pytest.mark.parametrize(
    ("line", "error", "parsed"),
    [
        ('{"premise": "a", "hypothesis": "b", "x": NaN, "x": 1}', None, True),
        (' {"premise": "a\\u00e4\\ud83d\\udeb6", "hypothesis": "b"} ', None, True),
        ('{"premise": null, "hypothesis": "b"}', "null premise", True),
        ('{"premise": "a", "hypothesis": 3}', "the hypothesis is a number, not text", True),
        ('{"premise": ["a"], "hypothesis": "b"}', "the premise is a list, not text", True),
        ('{"premise": {}, "hypothesis": "b"}', "the premise is an object, not text", True),
        ('{"premise": true, "hypothesis": "b"}', "the premise is a boolean, not text", True),
        ('{"premise": "a"}', "no key 'hypothesis'", True),
        ("{}", "no key 'premise'", True),
        ('{"premise": "a", "hypothesis": "b", "premise": "c"}', "two keys 'premise'", True),
        ('{"premise": "a", "hypothesis": "premise", "x": {"premise": "premise"}}', None, True),
        ('{"premise": "a", "hypothesis": "\\n"}', "empty hypothesis", True),
        ('{"premise": "a\\u0000", "hypothesis": "b"}', "NUL character in the premise", True),
        ('{"premise": "a", "hypothesis": "\\ud800"}', "the hypothesis is not valid Unicode", True),
        ("", "blank line", False),
        ("   ", "not JSON: Expecting value at character 4", False),
        ('{"premise": "a", ', "not JSON: Expecting property name", False),
        ('["a", "b"]', "a list, expected a JSON object", False),
        ("null", "null, expected a JSON object", False),
        ('"a"', "a string, expected a JSON object", False),
        ('{"premise": "a\tb", "hypothesis": "b"}', "not JSON: Invalid control character", False),
        ('{"premise": "a", "hypothesis": "b"} {}', "not JSON: Extra data", False),
        ('{"premise": "a", "hypothesis": "b", "n": ' + "[" * 499 + '"]"' + "]" * 499 + "}", None, True),
        (
            '{"premise": "a", "hypothesis": "b", "n": ' + "[" * 500 + "]" * 500 + "}",
            "not JSON: nested too deeply",
            False,
        ),
        ('{"premise": "a", "hypothesis": "b", "n": [' + '"]", {}, ' * 600 + "1]}", None, True),
        ('{"premise": ' + "[" * 200_000, "not JSON: nested too deeply", False),
        ('{"premise": "a", "hypothesis": "b", "n": ' + "9" * 10_000 + "}", "not JSON: a number is too long", False),
    ],
)
def test_json_rows(tmp_path: Path, line: str, error: str | None, parsed: bool) -> None:
    good = '{"premise": "p", "hypothesis": "h"}'
    first, row, last = rows_of(tmp_path, "a.jsonl", f"{good}\n{line}\n{good}")
    assert (row.parsed, row.raw) == (parsed, line)
    assert row.error == error or (error and row.error and row.error.startswith(error))
    assert (first.error, last.error, last.number) == (None, None, 3), "the neighbours are not harmed"
    for text in (row.premise, row.hypothesis):
        assert text is None or text.encode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('"neutral"', "neutral"),
        ("1", "1"),
        ("-1", "-1"),
        ("2.0", "2"),
        ("null", None),
        ("NaN", None),
        ('" "', None),
        ("true", "true"),
        ("[1]", "[1]"),
        ('"\\ud800"', "\\ud800"),
    ],
)
def test_json_labels_as_text(tmp_path: Path, value: str, text: str | None) -> None:
    [row] = rows_of(tmp_path, "a.jsonl", f'{{"premise": "a", "hypothesis": "b", "label": {value}}}\n')
    assert (row.label, row.error) == (text, None)


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl"])
def test_a_million_characters(tmp_path: Path, suffix: str) -> None:
    long = "word, " * 200_000
    plain = tmp_path / f"a{suffix}"
    if suffix == ".tsv":
        plain.write_text(f"premise\thypothesis\n{long}\tb\n")
    elif suffix == ".csv":
        plain.write_text(f'premise,hypothesis\n"{long}",b\n')
    else:
        plain.write_text(json.dumps({"premise": long, "hypothesis": "b"}) + "\n")
    assert pairs_of(list(PairFile(plain).rows())) == [(long, "b", None)]


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertnli.data.lines.MAX_LINE", 1 << 20)
    good = b"premise\thypothesis\n" + b"a\tb\n" * 100_000
    with pytest.raises(RunError, match=r"cannot be read beyond row \d+: a line is longer than 1 MiB"):
        rows_of(tmp_path, "a.tsv", good + b"x" * (3 << 20))
