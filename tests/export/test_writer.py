"""The writer: the input's records unchanged, one row for each, in every format and between formats."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export import writer as writer_module
from bertnli_export.output_file import partial_path
from bertnli_export.writer import RowResult, open_writer

from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from bertnli.data.pairs import PairFile
from tests.support.writer_runs import HEAD, LABELS, OUTPUTS, SENTENCES, TEXTS, make, read_back, run


def written(tmp_path: Path, name: str, content: str | bytes, output: str, **options: Any) -> str:
    source = tmp_path / name
    source.write_bytes(content.encode() if isinstance(content, str) else content)
    run(source, tmp_path / output, **options)
    data = (tmp_path / output).read_bytes()
    return (gzip.decompress(data) if output.endswith(".gz") else data).decode()


def dialect(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


# --- each format onto itself


def test_tsv_keeps_its_bytes(tmp_path: Path) -> None:
    text = b'\xef\xbb\xbfid\tpremise\thypothesis\r\n1\tHe said "hi\tb \xc2\x85\r\nbroken\n'
    text += b"2\ta\t\xff\n3\t \tb\n\na\tb\tc\td\\te\r\r\n"
    assert written(tmp_path, "a.tsv", text, "out.tsv") == (
        "id\tpremise\thypothesis\tprediction\tp_entailment\tp_neutral\ttruncated\terror\traw\n"
        '1\tHe said "hi\tb \x85\tneutral\t0.000001\t0.999999\tfalse\t\t\n'
        "\t\t\t\t\t\tfalse\t1 cells, expected 3\tbroken\n"
        "\t\t\t\t\t\tfalse\tnot valid UTF-8\t2\\ta\\t\\xff\n"
        "3\t \tb\t\t\t\tfalse\tempty premise\t\n"
        "\t\t\t\t\t\tfalse\tblank line\t\n"
        "\t\t\t\t\t\tfalse\t4 cells, expected 3\ta\\tb\\tc\\td\\te\\r\n"
    )


def test_tsv_fills_up_the_short_lines_of_snli(tmp_path: Path) -> None:
    text = "gold_label\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\nneutral\ta\tb\tneutral\nneutral\ta\tb\tx\ty\t\n"
    lines = written(tmp_path, "a.txt", text, "out.txt").splitlines()
    assert {line.count("\t") for line in lines} == {11}
    assert lines[1].startswith("neutral\ta\tb\tneutral\t\t\tneutral\t0.000001")


def test_csv_keeps_its_bytes(tmp_path: Path) -> None:
    text = 'premise,hypothesis\r\n"a ""q""\r\n","b"\r\nunquoted "quotes",c\r\n"a"x,b\r\n"open,b\n,b\n'
    out = written(tmp_path, "a.csv", text, "out.csv")
    assert out == (
        "premise,hypothesis,prediction,p_entailment,p_neutral,truncated,error,raw\n"
        '"a ""q""\r\n","b",neutral,0.000001,0.999999,false,,\n'
        'unquoted "quotes",c,entailment,0.000002,0.999998,false,,\n'
        ',,,,,false,"not CSV: \',\' expected after \'""\'","""a""x,b"\n'
        ',,,,,false,a quote is opened and never closed,"""open,b"\n'
        ",b,,,,false,empty premise,\n"
    )
    assert {len(cells) for cells in dialect(out)} == {8}


def test_jsonl_keeps_its_bytes(tmp_path: Path) -> None:
    lines = [
        ' {"premise":"a\\u00e4",  "hypothesis":"b","n":1.50, "n":NaN } \t',
        "not json \\ud800",
        "{ }",
        "{}",
        '{"premise": "\\ud800", "hypothesis": "b"}',
        "",
    ]
    out = written(tmp_path, "a.jsonl", "\n".join(lines) + "\n", "out.jsonl").splitlines()
    good = (
        '"prediction": "neutral", "p_entailment": 0.000001, "p_neutral": 0.999999, "truncated": false, "error": null}'
    )
    ends = '"prediction": null, "p_entailment": null, "p_neutral": null, "truncated": false, "error": '
    nulls = '{"premise": null, "hypothesis": null, "n": null, '
    assert out == [
        ' {"premise":"a\\u00e4",  "hypothesis":"b","n":1.50, "n":NaN , ' + good,
        nulls + ends + '"not JSON: Expecting value at character 1", "raw": "not json \\\\ud800"}',
        "{ " + ends + "\"no key 'premise'\"}",
        "{" + ends + "\"no key 'premise'\"}",
        '{"premise": "\\ud800", "hypothesis": "b", ' + ends + '"the premise is not valid Unicode"}',
        nulls + ends + '"blank line", "raw": ""}',
    ]
    assert all(isinstance(json.loads(line), dict) for line in out)


def test_parquet_keeps_types_and_metadata(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int16(), nullable=False, metadata={"unit": "none"}),
            pa.field("premise", pa.dictionary(pa.int32(), pa.string())),
            pa.field("hypothesis", pa.large_string()),
            pa.field("when", pa.timestamp("ns", tz="UTC")),
            pa.field("list", pa.list_(pa.struct([pa.field("x", pa.decimal128(5, 2))]))),
        ],
        metadata={"origin": "a test"},
    )
    columns = [
        list(range(7)),
        [*"aabbca", None],
        list("ABCDEFG"),
        list(range(7)),
        [[{"x": 1}], None, [], *[None] * 4],
    ]
    table = pa.table(columns, schema=schema)
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    run(tmp_path / "a.parquet", tmp_path / "out.parquet")
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.schema.names == [*schema.names, *HEAD]
    stored = pq.read_schema(tmp_path / "a.parquet")
    for name in schema.names:
        assert out.schema.field(name).equals(stored.field(name), check_metadata=True)
        assert out.column(name).cast(stored.field(name).type).equals(table.column(name))
    assert out.schema.metadata[b"origin"] == b"a test"
    assert out.column("error").to_pylist() == [None] * 6 + ["null premise"]
    assert out.column("prediction").to_pylist()[5:] == ["entailment", None]
    assert out.column("p_entailment").to_pylist()[5:] == [0.000006, None]
    assert out.column("truncated").to_pylist()[5:] == [True, False]


def test_parquet_row_groups_are_joined_from_many_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"text {number % 11}" for number in range(100)]
    table = pa.table({"premise": pa.array(texts).dictionary_encode(), "hypothesis": texts})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=7)
    monkeypatch.setattr(writer_module, "_GROUP_ROWS", 30)
    run(tmp_path / "a.parquet", tmp_path / "out.parquet", size=4)
    out = pq.ParquetFile(tmp_path / "out.parquet")
    assert [out.metadata.row_group(at).num_rows for at in range(out.num_row_groups)] == [32, 32, 32, 4]
    assert out.read().column("premise").to_pylist() == texts


# --- from one format to another


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("suffix", [*TEXTS, ".parquet"])
def test_every_format_into_every_other(tmp_path: Path, suffix: str, output: str) -> None:
    source = tmp_path / f"a{suffix}"
    make(source)
    run(source, tmp_path / f"out{output}")
    records = read_back(tmp_path / f"out{output}")
    assert [(record["premise"], record["hypothesis"]) for record in records] == SENTENCES
    assert [record["prediction"] for record in records] == ["neutral", "entailment"] * 2
    assert [float(record["p_neutral"]) for record in records] == [0.999999, 0.999998, 0.999997, 0.999996]
    assert [str(record["truncated"]).lower() for record in records] == ["false", "false", "true", "false"]
    expected = ["premise", "hypothesis", *HEAD]
    has_raw = output.startswith((".tsv", ".csv")) or (output == ".parquet" and suffix != ".parquet")
    assert list(records[0]) == [*expected, "raw"] if has_raw else expected
    assert {record.get("raw") or "" for record in records} == {""}
    assert not partial_path(tmp_path / f"out{output}").exists()


@pytest.mark.parametrize("output", ["out.tsv", "out.csv", "out.jsonl", "out.parquet"])
@pytest.mark.parametrize("source", ["a.tsv", "a.csv", "a.jsonl"])
def test_what_cannot_be_parsed_keeps_its_place(tmp_path: Path, source: str, output: str) -> None:
    separator = "\t" if source == "a.tsv" else ","
    good = '{"premise": "p", "hypothesis": "h"}' if source == "a.jsonl" else f"p{separator}h"
    head = "" if source == "a.jsonl" else f"premise{separator}hypothesis\n"
    (tmp_path / source).write_bytes(f"{head}{good}\n".encode() + b"bad \xff\n\n" + f"{good}\n".encode())
    run(tmp_path / source, tmp_path / output)
    records = read_back(tmp_path / output)
    assert [record["premise"] or None for record in records] == ["p", None, None, "p"]
    assert [record["error"] or None for record in records] == [None, "not valid UTF-8", "blank line", None]
    assert [record["prediction"] or None for record in records] == ["neutral", None, None, "entailment"]
    assert [record.get("raw") or "" for record in records] == ["", "bad \\xff", "", ""]


def test_json_values_that_are_not_text_become_json_text(tmp_path: Path) -> None:
    line = '{"premise": "a", "hypothesis": "b", "n": 1.0, "t": true, "l": ["ä", null], "z": null, "s": "1", '
    line += '"u": "\\ud800"}\n'
    cells = ["a", "b", "1.0", "true", '["ä", null]', "", "1", "\\ud800"]
    assert written(tmp_path, "a.jsonl", line, "out.tsv").splitlines()[1].split("\t")[:8] == cells
    assert dialect(written(tmp_path, "a.jsonl", line, "out.csv"))[1][:8] == cells
    run(tmp_path / "a.jsonl", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert [table.column(at).to_pylist()[0] for at in range(8)] == [cell or None for cell in cells]
    assert set(table.schema.types[:8]) == {pa.string()}


NUMBERS = ["1e400", "-1E-400", "0.1000000000000000055511151231257827", "123456789012345678901", "1.50", "NaN"]


@pytest.mark.parametrize("output", ["out.tsv", "out.csv", "out.parquet"])
def test_json_values_are_kept_as_they_are_written(tmp_path: Path, output: str) -> None:
    values = [
        *NUMBERS,
        f"[{NUMBERS[0]},{NUMBERS[2]}]",
        '{"k":{"k":"\\u00e9\\ud800"},"k":1.0}',
        "true",
        '"1e400"',
        "null",
    ]
    lines = [f'{{"premise": "a" , "x":\t{value}\t, "hypothesis": "b"}}\n' for value in values]
    (tmp_path / "a.jsonl").write_bytes("".join(lines).encode())
    run(tmp_path / "a.jsonl", tmp_path / output)
    rows = read_back(tmp_path / output)
    assert [row["x"] or None for row in rows] == [*values[:-2], "1e400", None]
    assert [(row["premise"], row["hypothesis"], row["raw"] or "") for row in rows] == [("a", "b", "")] * len(values)


@pytest.mark.parametrize("output", ["out.tsv", "out.csv", "out.parquet"])
@pytest.mark.parametrize(
    ("member", "cell"), [('"n": 1,\t"n": 1e400', "1e400"), ('"n": "\\ud83d"', "\\ud83d"), ('"n": "", "m": 2', "")]
)
def test_a_json_object_that_columns_cannot_hold_is_kept_in_raw(
    tmp_path: Path, member: str, cell: str, output: str
) -> None:
    first, second = '{"premise": "a", "hypothesis": "b", "n": 1}', f'{{"premise": "a", "hypothesis": "b", {member}}}'
    (tmp_path / "a.jsonl").write_text(f"{first}\n{second}")
    run(tmp_path / "a.jsonl", tmp_path / output)
    one, two = read_back(tmp_path / output)
    assert (one["n"], one["raw"] or "") == ("1", "")
    assert (two["n"], two["raw"].replace("\t", " ")) == (cell, second.replace("\t", " "))


@pytest.mark.parametrize("output", ["out.tsv", "out.csv", "out.parquet"])
def test_keys_beyond_the_header_are_kept_in_raw(tmp_path: Path, output: str) -> None:
    lines = ['{"premise": "a", "hypothesis": "b", "id": 7}', '{"hypothesis": "d", "premise": "c", "new": "é"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    run(tmp_path / "a.jsonl", tmp_path / output)
    first, second = read_back(tmp_path / output)
    assert (first["id"], first["raw"] or "") == ("7", "")
    assert (second["premise"], second["id"] or "", json.loads(second["raw"])) == ("c", "", json.loads(lines[1]))


def test_half_a_surrogate_pair_in_a_key_beyond_the_header(tmp_path: Path) -> None:
    lines = ['{"premise": "a", "hypothesis": "b"}', '{"premise": "c", "hypothesis": "d", "x": "\\ud800"}']
    cells = written(tmp_path, "a.jsonl", "\n".join(lines), "out.tsv").splitlines()[2].split("\t")
    assert json.loads(cells[-1]) == json.loads(lines[1])


@pytest.mark.parametrize("cell", ["line\nend", "carriage\rreturn", "a,b", 'a "q"', " blanks ", "\u2028"])
def test_cells_on_the_way_to_csv(tmp_path: Path, cell: str) -> None:
    line = json.dumps({"premise": cell, "hypothesis": "b"})
    assert dialect(written(tmp_path, "a.jsonl", line, "out.csv"))[1][:2] == [cell, "b"]


def test_tabs_and_line_ends_on_the_way_to_tsv(tmp_path: Path) -> None:
    text = 'premise,hypothesis\n"a\tb","c\r\nd"\nplain,text\n'
    header, first, second = written(tmp_path, "a.csv", text, "out.tsv").splitlines()
    assert header.count("\t") == first.count("\t") == second.count("\t")
    assert first.split("\t")[:2] == ["a\\tb", "c\\r\\nd"]
    assert json.loads(first.split("\t")[-1]) == {"premise": "a\tb", "hypothesis": "c\r\nd"}, "nothing is lost"
    assert second.endswith("\t")


def test_parquet_values_as_text(tmp_path: Path) -> None:
    table = pa.table(
        {
            "premise": pa.array([b"a", b"b\xff"]).view(pa.string()),
            "hypothesis": ["x", "y"],
            "f": [float("nan"), 1.5],
            "when": pa.array([1, None], pa.timestamp("ns")),
            "took": pa.array([3, 4], pa.duration("s")),
            "cost": pa.array([1, 2], pa.decimal128(5, 2)),
            "blob": [b"ok", b"\xfe"],
            "nested": [{"a": [1]}, None],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", tmp_path / "out.jsonl")
    first, second = (json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "out.jsonl").open())
    assert list(first.values())[:8] == ["a", "x", "NaN", "1970-01-01 00:00:00.000000001", 3, "1.00", "ok", {"a": [1]}]
    assert list(second.values())[:8] == ["b\\xff", "y", 1.5, None, 4, "2.00", "\\xfe", None]
    assert second["error"] == "the premise is not valid Unicode"
    run(tmp_path / "a.parquet", tmp_path / "out.csv")
    assert dialect((tmp_path / "out.csv").read_text())[1][2:8] == [
        "NaN", "1970-01-01 00:00:00.000000001", "3", "1.00", "ok", '{"a": [1]}'
    ]  # fmt: skip


def test_nested_parquet_values_are_json(tmp_path: Path) -> None:
    """Which knows neither NaN nor infinity."""
    nan, inf = float("nan"), float("inf")
    odd = {
        "list": [[1.5, nan], None],
        "map": pa.array([[("a", -inf)], []], pa.map_(pa.string(), pa.float64())),
        "struct": [{"a": {"b": [inf, None]}}, {"a": None}],
    }
    pq.write_table(pa.table({"premise": ["a", "b"], "hypothesis": ["x", "y"], **odd}), tmp_path / "a.parquet")
    expected = [[1.5, "NaN"], [["a", "-Infinity"]], {"a": {"b": ["Infinity", None]}}], [None, [], {"a": None}]
    run(tmp_path / "a.parquet", tmp_path / "out.jsonl")
    found = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "out.jsonl").open()]
    assert [[line[name] for name in odd] for line in found] == list(expected)
    run(tmp_path / "a.parquet", tmp_path / "out.csv")
    assert dialect((tmp_path / "out.csv").read_text())[1][2:5] == list(map(json.dumps, expected[0]))


def test_parquet_column_that_has_no_form_as_text_is_refused(tmp_path: Path) -> None:
    odd = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"])
    pq.write_table(pa.table({"premise": ["a"], "hypothesis": ["b"], "odd": odd}), tmp_path / "a.parquet")
    with pytest.raises(RunError, match="cannot be text: two fields have the same name; remove that column, or write"):
        run(tmp_path / "a.parquet", tmp_path / "out.jsonl")
    run(tmp_path / "a.parquet", tmp_path / "out.parquet")


# --- names


def test_added_columns_that_clash_are_refused_until_they_get_a_prefix(tmp_path: Path) -> None:
    for name in ("prediction", "p_neutral", "truncated", "error", "raw"):
        (tmp_path / "a.tsv").write_text(f"premise\thypothesis\t{name}\na\tb\tc\n")
        with pytest.raises(InputError, match=f"column '{name}' has the name of one that the output adds; .*--prefix"):
            open_writer(tmp_path / "out.tsv", PairFile(tmp_path / "a.tsv"), Outputs(LABELS))
        assert not partial_path(tmp_path / "out.tsv").exists()
        run(tmp_path / "a.tsv", tmp_path / "out.tsv", prefix="x_")
        header = (tmp_path / "out.tsv").read_text().splitlines()[0].split("\t")
        assert header == ["premise", "hypothesis", name, *[f"x_{added}" for added in [*HEAD, "raw"]]]


def test_parquet_to_parquet_may_have_a_column_raw(tmp_path: Path) -> None:
    pq.write_table(pa.table({"premise": ["a"], "hypothesis": ["b"], "raw": ["c"]}), tmp_path / "a.parquet")
    run(tmp_path / "a.parquet", tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("raw").to_pylist() == ["c"]


@pytest.mark.parametrize("key", ["error", "\\u0065rror"])
def test_a_key_that_clashes_in_a_later_row_is_refused(tmp_path: Path, key: str) -> None:
    good = '{"premise": "a", "hypothesis": "an \\"error\\" of mine"}\n'
    (tmp_path / "a.jsonl").write_text(good + f'{{"premise": "a", "hypothesis": "b", "{key}": 1}}\n')
    with pytest.raises(RunError, match=r"row 2: key 'error' .*--restart --prefix"):
        run(tmp_path / "a.jsonl", tmp_path / "out.jsonl")
    run(tmp_path / "a.jsonl", tmp_path / "out.jsonl", prefix="%s ")
    second = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    assert (second["error"], second["%s error"], second["%s prediction"]) == (1, None, "entailment")


def test_labels_and_names_with_separators_in_them(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("premise\thypothesis\na\tb\n")
    file = PairFile(tmp_path / "a.tsv")
    labels = ['so, "so"', "tab\tbed %d"]
    [chunk] = file.chunks(5)
    for name in ("out.csv", "out.tsv", "out.jsonl"):
        with open_writer(tmp_path / name, file, Outputs(tuple(labels))) as writer:
            writer.write(chunk, [RowResult(labels[1], (0.25, 0.75), False, None)])
            writer.finish()
        [record] = read_back(tmp_path / name)
        tab = "\\t" if name == "out.tsv" else "\t"
        assert record["prediction"] == f"tab{tab}bed %d"
        assert float(record['p_so, "so"']) == 0.25 and float(record[f"p_tab{tab}bed %d"]) == 0.75


@pytest.mark.parametrize("output", ["out.tsv", "out.csv", "out.jsonl", "out.parquet"])
def test_a_bad_row_has_its_error_whatever_the_scorer_says(tmp_path: Path, output: str) -> None:
    (tmp_path / "a.tsv").write_text("premise\thypothesis\n \tb\n")
    file = PairFile(tmp_path / "a.tsv")
    with open_writer(tmp_path / output, file, Outputs(LABELS)) as writer:
        writer.write(next(file.chunks(1)), [RowResult("neutral", (0.25, 0.75), True, None)])
        writer.finish()
    [record] = read_back(tmp_path / output)
    assert record["error"] == "empty premise"
    assert not record["prediction"] and not record["p_neutral"] and record["truncated"] in (False, "false")


def test_as_many_results_as_rows(tmp_path: Path) -> None:
    make(tmp_path / "a.tsv")
    file = PairFile(tmp_path / "a.tsv")
    with (
        open_writer(tmp_path / "out.tsv", file, Outputs(LABELS)) as writer,
        pytest.raises(ValueError, match="0 results for 4 rows"),
    ):
        writer.write(next(file.chunks(10)), [])
