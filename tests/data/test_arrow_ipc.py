"""Arrow files, Arrow streams and folders of `save_to_disk`: the same rows and values as the same table in Parquet."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError, RunError
from bertnli.data.arrow_ipc import ipc_tables
from bertnli.data.arrow_values import json_values
from bertnli.data.pairs import PairFile
from tests.support.arrow_columns import Column, columns
from tests.support.writer_runs import run

TABLE = pa.table(
    {
        "premise": ["a", "b", None, "d", "e"],
        "hypothesis": ["b"] * 4 + [" "],
        "label": [0, 1, 2, None, 0],
        "more": pa.array([[{"x": 1.5}], None, [], [{"x": None}], [{"x": 0.1}]]),
    }
)
FEATURES = {
    "info": {"features": {"label": {"names": ["entailment", "neutral", "contradiction"], "_type": "ClassLabel"}}}
}
WITH_CLASSES = TABLE.replace_schema_metadata({"huggingface": json.dumps(FEATURES)})


def write_file(path: Path, table: pa.Table, rows: int = 2) -> None:
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_stream(path: Path, table: pa.Table, rows: int = 2) -> None:
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_feather(path: Path, table: pa.Table, rows: int = 2) -> None:
    pyarrow.feather.write_feather(table, path, compression="zstd", chunksize=rows)


def save_to_disk(folder: Path, table: pa.Table, files: int = 3, **state: Any) -> None:
    """As datasets 2 to 4 write it."""
    folder.mkdir(parents=True)
    names = [f"data-{at:05}-of-{files:05}.arrow" for at in range(files)]
    for at, name in enumerate(names):
        rows = range(at * len(table) // files, (at + 1) * len(table) // files)
        write_stream(folder / name, table.slice(rows.start, len(rows)))
    about = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "5f8c1d7e9b2a4c60",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": "train",
    }
    (folder / "state.json").write_text(json.dumps(about | state, indent=2))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


WRITERS: list[tuple[str, Callable[..., None]]] = [
    ("a.arrow", write_file),
    ("a.feather", write_feather),
    ("stream.arrow", write_stream),
    ("saved", save_to_disk),
]


@pytest.mark.parametrize(("name", "write"), WRITERS)
@pytest.mark.parametrize("size", [1, 3, 10])
def test_rows_and_values_are_those_of_parquet(tmp_path: Path, name: str, write: Callable[..., None], size: int) -> None:
    write(tmp_path / name, WITH_CLASSES)
    pq.write_table(WITH_CLASSES, tmp_path / "a.parquet")
    file, other = PairFile(tmp_path / name), PairFile(tmp_path / "a.parquet")
    assert list(file.rows()) == list(other.rows())
    chunks, others = list(file.chunks(size)), list(other.chunks(size))
    assert [chunk.rows for chunk in chunks] == [chunk.rows for chunk in others]
    assert [file.values(chunk) for chunk in chunks] == [other.values(chunk) for chunk in others]
    assert file.class_names == ("entailment", "neutral", "contradiction")
    assert [row.label for row in file.rows()] == ["entailment", "neutral", "contradiction", None, "entailment"]
    elsewhere = pickle.loads(pickle.dumps(file))
    assert [elsewhere.parse(pickle.loads(pickle.dumps(raw))).rows for raw in file.raw_chunks(size)] == [
        chunk.rows for chunk in chunks
    ]


@given(st.data(), columns(5))
def test_all_types_are_read_as_from_parquet(tmp_path_factory, data: Any, drawn: Column) -> None:
    base = tmp_path_factory.getbasetemp()
    table = pa.table({"premise": list("abcde"), "hypothesis": list("abcde"), "x": drawn.array})
    write_file(base / "drawn.arrow", table, data.draw(st.integers(1, 5)))
    file = PairFile(base / "drawn.arrow")
    found = [record["x"] for chunk in file.chunks(3) for record in file.values(chunk) if record]
    assert found == json_values(drawn.array)


def test_what_parquet_gets_has_arrows_types(tmp_path: Path) -> None:
    table = TABLE.drop_columns(["more"])
    table = table.append_column("kind", pa.array(list("abcab")).dictionary_encode())
    table = table.append_column("took", pa.array([1, None, 3, 4, 5], pa.duration("ms")))
    table = table.append_column("long", pa.array(list("abcab"), pa.large_string()))
    write_stream(tmp_path / "a.arrow", table)
    run(tmp_path / "a.arrow", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.select(table.column_names).equals(table)
    assert "raw" not in found.column_names


def test_a_type_that_parquet_lacks_is_refused_before_the_start(tmp_path: Path) -> None:
    month = pa.scalar((1, 2, 3), pa.month_day_nano_interval())
    write_file(tmp_path / "a.arrow", TABLE.append_column("every", pa.array([month.as_py()] * 5, month.type)))
    with pytest.raises(
        InputError, match=r"column 'every' of type month_day_nano_interval cannot be written as Parquet"
    ):
        run(tmp_path / "a.arrow", tmp_path / "out.parquet")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("output", ["out.arrow", "out.feather"])
def test_scores_are_not_written_as_arrow(tmp_path: Path, output: str) -> None:
    write_file(tmp_path / "a.arrow", TABLE)
    with pytest.raises(InputError, match=r"scores are not written as Arrow; .*write .parquet"):
        run(tmp_path / "a.arrow", tmp_path / output)


def test_a_stream_that_was_cut_off_is_no_shorter_one(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_stream(path, TABLE)
    whole = path.read_bytes()
    for missing, message in [(8, "beyond row 4: it lacks the end of .*complete"), (100, "beyond row 4: ")]:
        path.write_bytes(whole[:-missing])
        with pytest.raises(RunError, match=message):
            list(PairFile(path).chunks(2))
    path.write_bytes(whole * 2)  # as `cat a.arrow b.arrow` makes it: Arrow reads the first one
    with pytest.raises(RunError, match=r"beyond row 4: something follows the Arrow stream.*; write all rows into one"):
        list(PairFile(path).chunks(2))
    write_stream(path, TABLE.slice(0, 0))
    assert list(PairFile(path).rows()) == []


def test_streams_from_before_arrow_0_15(tmp_path: Path) -> None:
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4, use_legacy_format=True)
    with pa.ipc.new_stream(tmp_path / "a.arrow", TABLE.schema, options=options) as writer:
        writer.write_table(TABLE)
    assert len(list(PairFile(tmp_path / "a.arrow").rows())) == 5
    (tmp_path / "a.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:-4])
    with pytest.raises(RunError, match="it lacks the end of an Arrow stream"):
        list(PairFile(tmp_path / "a.arrow").rows())


@pytest.mark.parametrize("write", [write_file, write_stream])
def test_columns_that_nobody_needs_are_not_read(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "a.arrow", TABLE)
    with (tmp_path / "a.arrow").open("rb") as file:
        [batch] = ipc_tables([file], 5, ["label", "premise"])
    assert set(batch.schema.names) == {"label", "premise"}


def test_text_in_runs_and_columns_without_a_form(tmp_path: Path) -> None:
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["p", None]))
    table = pa.table({"premise": runs, "hypothesis": ["b"] * 5, "x": runs})
    write_stream(tmp_path / "a.arrow", table)
    file = PairFile(tmp_path / "a.arrow")
    assert [row.premise for row in file.rows()] == ["p", "p", None, None, None]
    assert [record["x"] for chunk in file.chunks(2) for record in file.values(chunk) if record] == ["p", "p"] + [
        None
    ] * 3
    union = pa.UnionArray.from_dense(pa.array([0, 0], pa.int8()), pa.array([0, 1], pa.int32()), [pa.array([1, 2])])
    write_stream(tmp_path / "b.arrow", pa.table({"premise": ["a", "b"], "hypothesis": ["a", "b"], "x": union}))
    file = PairFile(tmp_path / "b.arrow")
    with pytest.raises(RunError, match="cannot be text: a union has no such form; remove that column"):
        file.values(next(file.chunks(2)))


def test_damage_is_an_error_and_never_other_memory(tmp_path: Path) -> None:
    table = pa.table({"premise": ["some text"] * 4, "hypothesis": ["b"] * 4})
    write_file(tmp_path / "a.arrow", table, 4)
    data = (tmp_path / "a.arrow").read_bytes()
    offsets = b"".join(number.to_bytes(4, "little") for number in (0, 9, 18))
    assert data.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(data.replace(offsets, offsets[:4] + (2**30).to_bytes(4, "little") + offsets[8:]))
    with pytest.raises(RunError, match=r"cannot be read beyond row 0"):
        list(PairFile(tmp_path / "a.arrow").rows())
    (tmp_path / "a.arrow").write_bytes(data[:300])
    with pytest.raises(InputError, match=r"a.arrow: cannot be read"):
        PairFile(tmp_path / "a.arrow")


def test_text_that_is_not_utf_8_is_a_bad_row(tmp_path: Path) -> None:
    text = pa.array([b"a", b"\xff"]).view(pa.string())
    write_file(tmp_path / "a.arrow", pa.table({"premise": text, "hypothesis": ["b", "b"]}))
    assert [row.error is None for row in PairFile(tmp_path / "a.arrow").rows()] == [True, False]


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    path.write_bytes(b"FEA1" + bytes(100))
    with pytest.raises(InputError, match=r"a Feather file of version 1; .*write it as .parquet"):
        PairFile(path)
    pq.write_table(TABLE, path)
    with pytest.raises(InputError, match=r"a Parquet file; expected an Arrow file \(.arrow\)"):
        PairFile(path)
    write_file(tmp_path / "a.parquet", TABLE)
    with pytest.raises(InputError, match=r"an Arrow file; expected a Parquet file \(.parquet\)"):
        PairFile(tmp_path / "a.parquet")
    write_file(tmp_path / "a.jsonl", TABLE)
    with pytest.raises(InputError, match=r"an Arrow file; expected text .* the ending .arrow"):
        PairFile(tmp_path / "a.jsonl")
    (tmp_path / "a.arrow.gz").write_bytes(b"")
    with pytest.raises(InputError, match=r"Arrow has its own compression"):
        PairFile(tmp_path / "a.arrow.gz")


def test_a_folder_with_several_splits_names_them(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_to_disk(tmp_path / "all" / split, TABLE)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    with pytest.raises(InputError, match=f"a saved DatasetDict; found the splits train, test; .*{tmp_path}/all/train"):
        PairFile(tmp_path / "all")
    assert len(list(PairFile(tmp_path / "all" / "test").rows())) == 5
    for splits in ("[]", '"train"', "null"):
        (tmp_path / "all" / "dataset_dict.json").write_text(f'{{"splits": {splits}}}')
        with pytest.raises(InputError, match=r"found no splits in its dataset_dict\.json"):
            PairFile(tmp_path / "all")
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    assert len(list(PairFile(tmp_path / "all").rows())) == 5


def test_an_incomplete_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is a folder; expected a file .* or a folder that Dataset.save"):
        PairFile(tmp_path)
    save_to_disk(tmp_path / "a", TABLE)
    (tmp_path / "a" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00003.arrow: no such file"):
        PairFile(tmp_path / "a")
    save_to_disk(tmp_path / "b", TABLE, _indices_files=[{"filename": "indices.arrow"}])
    with pytest.raises(InputError, match=r"flatten_indices"):
        PairFile(tmp_path / "b")
    save_to_disk(tmp_path / "c", TABLE, _data_files=[{"filename": "../a/x.arrow"}])
    with pytest.raises(InputError, match=r"key _data_files"):
        PairFile(tmp_path / "c")


def test_files_of_a_folder_must_agree_and_stay(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "a", TABLE)
    write_stream(tmp_path / "a" / "data-00002-of-00003.arrow", TABLE.drop_columns(["more"]))
    with pytest.raises(
        RunError,
        match=r"beyond row 0: data-00002-of-00003.arrow: it is not as .*columns are 'premise', 'hypothesis', 'l",
    ):
        list(PairFile(tmp_path / "a").rows())
    other = TABLE.set_column(0, "premise", TABLE["premise"].cast(pa.large_string()))
    write_stream(tmp_path / "a" / "data-00002-of-00003.arrow", other)
    with pytest.raises(
        RunError, match=r"00002.* column 'premise' is of type large_string, theirs of string; make it as"
    ):
        list(PairFile(tmp_path / "a").rows())
    save_to_disk(tmp_path / "b", WITH_CLASSES)
    write_stream(tmp_path / "b" / "data-00001-of-00003.arrow", TABLE)  # without names: not other ones
    assert len(list(PairFile(tmp_path / "b").rows())) == 8
    swapped = json.dumps(FEATURES).replace("entailment", "x").replace("neutral", "entailment").replace("x", "neutral")
    write_stream(tmp_path / "b" / "data-00001-of-00003.arrow", TABLE.replace_schema_metadata({"huggingface": swapped}))
    with pytest.raises(RunError, match=r"00001.* its column 'label' has other class names"):
        list(PairFile(tmp_path / "b").rows())
    (tmp_path / "a" / "data-00002-of-00003.arrow").write_bytes(b"")
    with pytest.raises(RunError, match=r"beyond row 0: data-00002-of-00003.arrow: "):
        list(PairFile(tmp_path / "a").rows())
    write_stream(tmp_path / "a" / "data-00002-of-00003.arrow", TABLE.drop_columns(["more"]))
    file = PairFile(tmp_path / "a")
    before = file.sha256()
    write_stream(tmp_path / "a" / "data-00002-of-00003.arrow", TABLE)
    with pytest.raises(RunError, match=r"was changed while it was read"):
        file.check_unchanged()
    assert PairFile(tmp_path / "a").sha256() != before
