"""Text tables in other dialects, scored: cells as they are meant, options kept in the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from tests.support import tiny
from tests.support.scored_files import CHUNK, Stop, read, score, stop_after

pytestmark = pytest.mark.usefixtures("small_chunks")

PAIRS = [('He said "no", loudly.', "He spoke."), ("Line one\nline two\there", "A man; two."), ("A man.", "He, too.")]
DIALECTS: dict[str, tuple[str, str, Dialect]] = {
    "pandas.tsv": ("\t", "\n", Dialect()),
    "excel.txt": ("\t", "\r\n", Dialect()),
    "semicolons.csv": (";", "\r\n", Dialect()),
    "tabs.csv": ("\t", "\n", Dialect()),
    "told.csv": ("^", "\n", Dialect(delimiter="^")),
    "bare.csv": (",", "\n", Dialect(header=False)),
}


def table(name: str, pairs: list[tuple[str, str]]) -> str:
    """As pandas and Excel write it: cells in quotes where they have a quote, a line end or what is between cells."""
    delimiter, end, dialect = DIALECTS[name]

    def cell(text: str) -> str:
        quoted = any(each in text for each in ('"', "\n", delimiter))
        return '"{}"'.format(text.replace('"', '""')) if quoted else text

    rows = [("premise", "hypothesis"), *pairs] if dialect.header else pairs
    return "".join(delimiter.join(map(cell, row)) + end for row in rows)


@pytest.mark.parametrize("output", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("name", DIALECTS)
def test_cells_come_out_as_they_are_meant(tmp_path: Path, name: str, output: str) -> None:
    dialect = DIALECTS[name][2]
    (tmp_path / name).write_text(table(name, PAIRS), newline="")
    said: list[str] = []
    summary = score(tmp_path / name, tmp_path / output, dialect=dialect, say=said.append)
    assert (summary["rows"], summary["errors"]) == (3, 0)
    assert summary.get("notes", []) == said
    found = read(tmp_path / output)
    columns = ("premise", "hypothesis") if dialect.header else ("1", "2")
    escape = output == "out.tsv"
    for row, pair in zip(found, PAIRS, strict=True):
        expected = [text.replace("\n", "\\n").replace("\t", "\\t") if escape else text for text in pair]
        assert [row[column] for column in columns] == expected
        assert row["prediction"]


@pytest.mark.parametrize("name", DIALECTS)
def test_a_stopped_run_gives_the_same_bytes_in_every_dialect(tmp_path: Path, name: str) -> None:
    rows = [(row["sentence1"], f'"{row["sentence2"]}"') for row in tiny.snli_rows(2 * CHUNK + 5)]
    (tmp_path / name).write_text(table(name, rows), newline="")
    given: dict[str, Any] = {"dialect": DIALECTS[name][2]}
    score(tmp_path / name, tmp_path / "whole.csv", **given)
    for chunks in (1, 2):
        with pytest.raises(Stop):
            score(tmp_path / name, tmp_path / "out.csv", progress=stop_after(chunks), **given)
    assert score(tmp_path / name, tmp_path / "out.csv", **given)["resumed_at"] == CHUNK
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_another_option_is_another_run(tmp_path: Path) -> None:
    (tmp_path / "in.tsv").write_text('premise\thypothesis\n"A man, tall."\tHe is tall.\n')
    score(tmp_path / "in.tsv", tmp_path / "out.tsv")
    assert score(tmp_path / "in.tsv", tmp_path / "out.tsv", dialect=Dialect(quoting="none"))["already_finished"]
    with pytest.raises(InputError, match=r"another run .*table was null, is tab, quoting csv"):
        score(tmp_path / "in.tsv", tmp_path / "out.tsv", dialect=Dialect(quoting="csv"))
    (tmp_path / "bare.tsv").write_text("A man.\tHe is tall.\n")
    score(tmp_path / "bare.tsv", tmp_path / "1.tsv", dialect=Dialect(header=False))
    with pytest.raises(InputError, match=r"another run .*premise was 1, is 2"):
        score(tmp_path / "bare.tsv", tmp_path / "1.tsv", dialect=Dialect(header=False), columns=Columns("2", "1"))


def test_a_second_header_keeps_its_place(tmp_path: Path) -> None:
    (tmp_path / "two.tsv").write_text("premise\thypothesis\nA man.\tHe.\n\ufeffpremise\thypothesis\nA dog.\tIt.\n")
    assert score(tmp_path / "two.tsv", tmp_path / "out.tsv")["errors"] == 1
    found = read(tmp_path / "out.tsv")
    assert [bool(row["prediction"]) for row in found] == [True, False, True]
    assert "second header" in found[1]["error"] and "premise" in found[1]["raw"]
