"""Text tables in other dialects: taken where it is certain, else a warning or an error that names the option."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.data.dialect import Dialect
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import Columns, PairFile
from tests.support.pair_files import SNLI, pack, pairs_of, rows_of

TWO = [("A man, tall, eats.", "A man eats.", None), ('The sign says "no entry".', "Nobody enters.", None)]
EXCEL = 'premise\thypothesis\r\n"A man, tall, eats."\tA man eats.\r\n"The sign says ""no entry""."\tNobody enters.\r\n'
QUOTED_ONLY = 'premise\thypothesis\n"I see, sir."\tHe agrees.\n'
BARE = 'premise\thypothesis\n"I see, sir."\tHe agrees.\nHe said "no".\tHe spoke.\n"Well\tnothing "\n'
MAC_LINES = '{"premise": "a", "hypothesis": "b"}\r{"premise": "c", "hypothesis": "d"}\r'
ROWS_OF_TWO = [("a", "b", None), ("c", "d", None)]


def written(delimiter: str, rows: list[tuple[str, ...]], quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    sink = io.StringIO(newline="")
    csv.writer(sink, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)  # type: ignore[arg-type]
    return sink.getvalue()


# What is certain is read as it is meant


@pytest.mark.parametrize(
    ("name", "content", "pairs", "note"),
    [
        ("excel.txt", EXCEL, TWO, "note: .*row 2 has quotes as pandas and Excel"),
        ("crlf.tsv", "premise\thypothesis\r\na\tb\r\nc\td\r\n", ROWS_OF_TWO, None),
        ("bom.csv", "\ufeffpremise;hypothesis\r\na;b\r\nc;d\r\n", ROWS_OF_TWO, "note: .*';' is between its cells"),
        ("pipe.txt", "premise|hypothesis\na|b\nc|d\n", ROWS_OF_TWO, r"'\|' is between"),
        ("comma.tsv", 'premise,hypothesis\n"a",b\nc,d\n', ROWS_OF_TWO, "',' is between"),
        ("tab.csv", 'premise\thypothesis\n"a"\tb\nc\td\n', ROWS_OF_TWO, "tab is between"),
        (
            "text.csv",
            'premise\thypothesis\na\tb\n"I" x\t"d\n',
            [("a", "b", None), ('"I" x', '"d', None)],
            "quotes are read as text",
        ),
        ("blanks.csv", "premise; Hypothesis ;label\na;b;\nc;d;\n", ROWS_OF_TWO, "';' is between"),
        ("r.tsv", '"premise"\t"hypothesis"\n"a"\t"b"\n"c"\t"d"\n', ROWS_OF_TWO, "double quotes enclose"),
        ("sep.csv", "sep=;\r\npremise;hypothesis\r\na;b\r\nc;d\r\n", ROWS_OF_TWO, None),
        ("mac.tsv", "premise\thypothesis\ra\tb\rc\td\r", ROWS_OF_TWO, "carriage returns"),
        ("mac.csv", "premise,hypothesis\ra,b\rc,d", ROWS_OF_TWO, "carriage returns"),
        ("mac.jsonl", MAC_LINES, ROWS_OF_TWO, "carriage returns"),
        ("mac.csv", "premise,hypothesis\ra,b\rc,d\r\n", ROWS_OF_TWO, "carriage returns"),
        (
            "twice.csv",
            'premise,hypothesis\r\r\n"a\r\n1",b\r\r\nc,d\r\r\n',
            [("a\r\n1", "b", None), ("c", "d", None)],
            "two",
        ),
        ("twice.tsv", "premise\thypothesis\r\r\na\tb\r\r\nc\td\r\r\n", ROWS_OF_TWO, "two carriage returns and"),
        ("twice.jsonl", MAC_LINES.replace("\r", "\r\r\n"), ROWS_OF_TWO, "two carriage returns and"),
        ("lines.tsv", 'premise\thypothesis\n"a\n1"\tb\nc\td\n', [("a\n1", "b", None), ("c", "d", None)], "row 1 has"),
        ("tabs.tsv", 'premise\thypothesis\nc\td\n"a\tb"\tc\n', [("c", "d", None), ("a\tb", "c", None)], "row 2 has"),
        ("named.csv", "premise,hypothesis,,\na,b,,\nc,d,1,2\n", ROWS_OF_TWO, None),
        (
            "lines.json",
            '{"premise": "a", "hypothesis": "b"}\n{"premise": "c", "hypothesis": "d"}\n',
            ROWS_OF_TWO,
            "JSON lines; row 1 is its first line",
        ),
        ("plain.csv", "premise,hypothesis\na,b\nc,d\n", ROWS_OF_TWO, None),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_what_is_certain_is_taken(
    tmp_path: Path, name: str, content: str, pairs: list[Any], note: str | None, packing: str
) -> None:
    path = tmp_path / f"{name}{packing}"
    path.write_bytes(pack(content.encode(), packing))
    file = PairFile(path)
    assert pairs_of(list(file.rows())) == pairs
    assert pairs_of(list(file.rows())) == pairs, "a file can be read again"
    assert all(value is not None for chunk in file.chunks(5) for value in file.values(chunk))
    assert re.search(note, "; ".join(file.notes)) if note else not file.notes


def test_columns_that_only_another_delimiter_gives_are_found(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "a.csv", "id;q;a\n1;x, y;z\n", columns=Columns("q", "a"))
    assert pairs_of(rows) == [("x, y", "z", None)]


def test_unnamed_columns_get_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",premise,hypothesis,,column 4\n0,a,b,,x\n")
    file = PairFile(path)
    assert file.fields == ["column 1", "premise", "hypothesis", "column 4'", "column 4"]
    assert file.header == ",premise,hypothesis,,column 4"
    [chunk] = file.chunks(5)
    assert list((file.values(chunk)[0] or {}).values()) == ["0", "a", "b", "", "x"]


def test_options_say_what_a_file_does_not(tmp_path: Path) -> None:
    def read(content: str, name: str = "a.tsv", columns: Columns | None = None, **told: Any) -> list[Any]:
        return pairs_of(rows_of(tmp_path, name, content, columns=columns, dialect=Dialect(**told)))

    assert read(QUOTED_ONLY, quoting="csv") == [("I see, sir.", "He agrees.", None)]
    assert read(EXCEL, quoting="none")[0][0] == '"A man, tall, eats."'
    assert read("premise^hypothesis\na^b\n", delimiter="^") == [("a", "b", None)]
    assert read("premise\thypothesis\na\tb\n", name="a.csv", delimiter="tab") == [("a", "b", None)]
    assert read('premise,hypothesis\n"a,b"\n', name="a.csv", quoting="none") == [('"a', 'b"', None)]
    assert read('{"premise": "a", "hypothesis": "b"}\n', name="a.txt", format="jsonl") == [("a", "b", None)]
    assert read("premise,hypothesis\na,b\n", name="a.json", format="csv") == [("a", "b", None)]
    assert read("a\tb\n", header=False) == [("a", "b", None)]
    assert read("a,b,neutral\n", name="a.csv", header=False) == [("a", "b", "neutral")]
    assert read("x\ty\ta\tb\n", columns=Columns("3", "4", "1"), header=False) == [("a", "b", "x")]
    assert read("a\tb\n", columns=Columns("2", "1"), header=False) == [("b", "a", None)]
    (tmp_path / "b.tsv").write_text("a\tb\tneutral\n")
    assert "column 1 is the premise" in PairFile(tmp_path / "b.tsv", dialect=Dialect(header=False)).notes[0]


# What can be meant in two ways is said


def test_cells_in_quotes_that_may_be_text_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(QUOTED_ONLY)
    file = PairFile(path)
    assert pairs_of(list(file.rows())) == [('"I see, sir."', "He agrees.", None)]
    [note] = file.notes
    assert note.startswith("warning: ") and "row 1" in note and "--quoting csv" in note and "--quoting none" in note
    for quoting in ("csv", "none"):
        assert not PairFile(path, dialect=Dialect(quoting=quoting)).notes


def test_both_kinds_of_quotes_are_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(BARE + '"Both ""kinds""."\tx\n')
    file = PairFile(path)
    assert list(file.rows())[-1].premise == '"Both ""kinds""."'
    [note] = file.notes
    assert note.startswith("warning: ") and "row 4" in note


def test_quotes_below_the_first_block_are_said_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("premise\thypothesis\n" + "a man sleeps\tb\n" * 30_000 + '"He said ""no""."\tb\n')
    file = PairFile(path)
    assert not file.notes
    assert list(file.rows())[-1].premise == '"He said ""no""."'
    [note] = file.notes
    assert "1 row (the first is row 30001)" in note and "--quoting csv" in note
    list(file.rows())
    assert len(file.notes) == 1, "reading again says it once"


def test_bare_quotes_are_text_as_in_snli_and_glue(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(BARE)
    file = PairFile(path)
    assert pairs_of(list(file.rows())) == [
        ('"I see, sir."', "He agrees.", None),
        ('He said "no".', "He spoke.", None),
        ('"Well', 'nothing "', None),
    ]
    assert not file.notes


# No row is scored by half


def test_no_part_of_a_quoted_cell_is_a_row(tmp_path: Path) -> None:
    plain = "premise\thypothesis\tlabel\n" + "a man sleeps\tb\tneutral\n" * 20_000
    content = plain + '"one\ntwo"\tb\tneutral\nc\td\tneutral\n"three\n\n"\tx\tneutral\n' + 'He has 5" more\tb\n'
    bad = [(row.number, row.error) for row in rows_of(tmp_path, "a.tsv", content) if row.error]
    assert [number for number, _ in bad] == [20_001, 20_002, 20_004, 20_005, 20_006, 20_007]
    assert "--quoting csv" in str(bad[0][1]) and "--quoting csv" in str(bad[1][1])
    assert bad[-1][1] == "2 cells, expected 3"


@pytest.mark.parametrize("header", ["premise\thypothesis", "\ufeffpremise\thypothesis", "Premise\tHYPOTHESIS"])
def test_the_same_header_once_more_is_a_bad_row(tmp_path: Path, header: str) -> None:
    rows = rows_of(tmp_path, "a.tsv", f"premise\thypothesis\na\tb\n{header}\nc\td\n")
    assert [row.number for row in rows if row.error] == [2]
    assert "a second header" in str(rows[1].error)


def test_rows_below_a_header_of_other_columns_are_bad(tmp_path: Path) -> None:
    first = "premise,hypothesis,label\na,b,neutral\n"
    second = "id,premise,hypothesis\n7,c,d\n8,e,f\n"
    rows = rows_of(tmp_path, "a.csv", first + second + first)
    assert [row.error is None for row in rows] == [True, False, False, False, False, True]
    assert "header with other columns" in str(rows[1].error) and "row 2" in str(rows[2].error)


def test_a_pair_of_words_is_no_header(tmp_path: Path) -> None:
    assert not any(row.error for row in rows_of(tmp_path, "a.tsv", "premise\thypothesis\npremise\tx\nx\tlabel\n"))


@pytest.mark.parametrize("end", ["\n", "\n\n", "\r\n\r\n", " \n", ",,\n,,\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_blank_lines_at_the_end_are_no_labelled_rows(tmp_path: Path, name: str, end: str) -> None:
    row = {"premise": "a", "hypothesis": "b", "label": "neutral"}
    lines = [json.dumps(row)] if name == "a.jsonl" else ["premise,hypothesis,label", "a,b,neutral"]
    (tmp_path / name).write_text("\n".join(lines) + "\n" + end, newline="")
    found = read_labelled(PairFile(tmp_path / name), SNLI)
    assert len(list(found)) == 1 and (found.read, found.bad) == (1, 0)
    (tmp_path / name).write_text("\n".join([*lines, "", "", lines[-1]]), newline="")
    with pytest.raises(InputError, match="2 bad rows of 4; found row 2: blank line; row 3: blank line"):
        list(read_labelled(PairFile(tmp_path / name), SNLI))


# What cannot be read is refused


@pytest.mark.parametrize(
    ("name", "content", "told", "message"),
    [
        (
            "scitail.tsv",
            "All animals eat food.\tA b c.\tneutral\n",
            {},
            "looks like a row; if it has no header, give --no-h",
        ),
        ("scitail.tsv", "premise\thypothesis\na\tb\n", {"header": False}, "found a header: .*omit --no-header"),
        ("many.tsv", "a\tb\tc\td\n", {"header": False}, "found 4 columns; .*--premise 2 --hypothesis 3"),
        ("first.tsv", "neutral\ta b\tc d\n", {"header": False}, "column 1 looks like the labels; .*--premise 2 --h"),
        ("second.csv", "a b,ENTAILMENT ,c d\n", {"header": False}, "column 2 looks like the labels; .*--premise 2 --h"),
        ("one.tsv", "a;b;c;d\n", {"header": False}, "found 1 column; .*--delimiter"),
        ("other.csv", "q;a\n1;2\n", {}, "columns 'q', 'a'; .*--delimiter ';'"),
        ("lines.txt", '{"premise": "a", "hypothesis": "b"}\n', {}, "looks like JSON lines; .*--format jsonl"),
        ("lines.csv", '{"premise": "a", "hypothesis": "b"}\n', {}, "looks like JSON lines; .*--format jsonl"),
        ("table.json", "premise,hypothesis\na,b\n", {}, "looks like a text table; .*--format csv"),
        ("table.jsonl", '"premise"\t"hypothesis"\n', {}, "looks like a text table; .*--format tsv"),
        ("doc.json", '{\n  "premise": "a"\n}\n', {}, "a JSON document of several lines"),
        ("doc.json", '{"data": [\n {"premise": "a"}\n]}\n', {}, "a JSON document of several lines"),
        ("a.jsonl", '{"premise": "a", "hypothesis": "b"}\n', {"delimiter": ";"}, "which is JSON lines; .*omit them"),
        ("zip.csv", "PK\x03\x04", {}, "an Excel workbook or a zip archive"),
        ("page.tsv", "\n<!DOCTYPE html>\n<html>", {}, "an HTML or XML page"),
        ("lfs.csv", "version https://git-lfs.github.com/spec/v1\n", {}, "git lfs pull"),
    ],
)
def test_what_it_looks_like_is_said(
    tmp_path: Path, name: str, content: str, told: dict[str, Any], message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        PairFile(tmp_path / name, dialect=Dialect(**told))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "A man is here.\tb\n"),
        ("a.txt", '{"premise": "A man is here.", "hypothesis": "b"}\n'),
        ("a.csv", '{"premise": "A man is here.", "hypothesis": "b"}\n'),
        ("a.json", 'premise,hypothesis\n"A man is here.",b\n'),
        ("b.json", "premise\thypothesis\nA man is here.\tb\n"),
        ("a.tsv", 'premise\thypothesis\n"A man is here."\tb\n'),
    ],
)
def test_the_option_that_is_named_helps(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    try:
        message = PairFile(path).notes[0]
    except InputError as error:
        message = str(error)
    found = re.search(r"give --(no-header|format|quoting) ?(\w*)", message)
    assert found
    option = {"header": False} if found[1] == "no-header" else {found[1]: found[2]}
    file = PairFile(path, dialect=Dialect(**option))  # type: ignore[arg-type]
    assert pairs_of(list(file.rows())) == [("A man is here.", "b", None)]
    assert not any(note.startswith("warning") for note in file.notes)


@pytest.mark.parametrize("told", [{"delimiter": ""}, {"delimiter": "ab"}, {"delimiter": '"'}, {"quoting": "all"}])
def test_a_dialect_that_cannot_be_is_refused(told: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"--\w+ \(in a run file: data\.\w+\); found"):
        Dialect(**told)


def test_json_lines_may_begin_with_a_bad_line(tmp_path: Path) -> None:
    for bad in ('["a", "b"]', "[INFO] start", '{"premise": "a", '):
        rows = rows_of(tmp_path, "a.jsonl", f'{bad}\n{{"premise": "a", "hypothesis": "b"}}\n')
        assert [row.error is None for row in rows] == [False, True]


ENCODINGS = [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")]


@pytest.mark.parametrize(("encoding", "name"), [*ENCODINGS, ("utf-32-le", "UTF-32LE"), ("utf-32-be", "UTF-32BE")])
@pytest.mark.parametrize("file", ["a b.csv", "a.jsonl", "a.csv.gz", "a.csv.zst"])
def test_the_advice_for_other_encodings_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, name: str, file: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text = '{"premise": "é", "hypothesis": "b"}\n' if "json" in file else "premise,hypothesis\né,b\n"
    Path(file).write_bytes(pack(text.encode(encoding), Path(file).suffix if file.count(".") == 2 else ""))
    with pytest.raises(InputError, match=f"{name} text; expected UTF-8; convert it: (.*)") as error:
        PairFile(file)
    if shutil.which("iconv") is None or (".zst" in file and shutil.which("zstd") is None):
        pytest.skip("no iconv or zstd")
    subprocess.run(["bash", "-c", str(error.value).partition("convert it: ")[2]], check=True)
    [new] = tmp_path.glob("*.new.*")
    assert pairs_of(list(PairFile(new).rows())) == [("é", "b", None)]


# Only the first block is looked at


def test_opening_a_huge_file_takes_little(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    with path.open("wb") as file:
        file.write(b"premise\thypothesis\n" + b'"a man ""x"" sleeps"\tb\n' * 40_000)
        file.truncate(8 << 30)
    tracemalloc.start()
    opened = PairFile(path)
    high = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened.dialect == Dialect(None, "\t", "csv")
    assert high < 30 << 20


def test_a_pipe_is_not_waited_for_until_its_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "pipe.tsv"
    os.mkfifo(path)
    opened = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as pipe:
            pipe.write(b"premise\thypothesis\n")
            assert opened.wait(60)
            pipe.write(b'"He said ""no""."\tb\n')

    writer = threading.Thread(target=write)
    writer.start()
    file = PairFile(path)
    opened.set()
    assert file.dialect == Dialect(None, "\t", "csv")
    assert pairs_of(list(file.rows())) == [('He said "no".', "b", None)]
    assert "row 1 has quotes" in file.notes[0]
    writer.join()


# Any table that a program writes is read as it was, or something is said

CELL = st.text(alphabet='ab"",;\t \né', min_size=1, max_size=8).filter(str.strip)
TABLE = st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dialects")


@given(
    rows=TABLE,
    name=st.sampled_from(["a.csv", "a.tsv", "a.txt"]),
    delimiter=st.sampled_from("\t,;|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
@example(rows=[(";\t\n", ";")], name="a.tsv", delimiter="\t", quoting=csv.QUOTE_MINIMAL, end="\n", mark="")
@example(rows=[('"a"', "b")], name="a.tsv", delimiter="\t", quoting=csv.QUOTE_MINIMAL, end="\n", mark="")
@example(rows=[("a\nb", "c"), ('x"', "y")], name="a.tsv", delimiter="\t", quoting=csv.QUOTE_MINIMAL, end="\n", mark="")
def test_what_a_writer_of_csv_wrote_comes_back(
    folder: Path, rows: list[tuple[str, str]], name: str, delimiter: str, quoting: int, end: str, mark: str
) -> None:
    path = folder / name
    path.write_text(mark + written(delimiter, [("premise", "hypothesis"), *rows], quoting, end), newline="")
    file = PairFile(path)
    if any("--quoting csv" in note for note in file.notes if note.startswith("warning")):  # it can be meant in two ways
        assert any("\n" in cell for row in rows for cell in row), "lines of a cell look like rows"
        file = PairFile(path, dialect=Dialect(quoting="csv"))
    assert [(row.premise, row.hypothesis) for row in file.rows()] == rows
    shows = quoting == csv.QUOTE_ALL or any(char in cell for row in rows for cell in row for char in '"\n' + delimiter)
    assert file.dialect == Dialect(None, delimiter, "csv") or not shows


@given(rows=st.lists(st.tuples(*[CELL.filter(lambda cell: not {"\t", "\n"} & set(cell))] * 2), min_size=1, max_size=6))
@example(rows=[('"a ""b"""', "c")])
@example(rows=[('"a', "b"), ("c", 'd"')])
def test_what_was_written_without_quoting_comes_back_or_is_said(folder: Path, rows: list[tuple[str, str]]) -> None:
    path = folder / "plain.tsv"
    path.write_text("premise\thypothesis\n" + "".join("\t".join(row) + "\n" for row in rows))
    file = PairFile(path)
    found = [(row.premise, row.hypothesis) for row in file.rows()]
    assert found == rows or any("--quoting none" in note for note in file.notes)
    told = PairFile(path, dialect=Dialect(quoting="none"))
    assert [(row.premise, row.hypothesis) for row in told.rows()] == rows
