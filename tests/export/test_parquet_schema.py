"""The schemas of other programs in a Parquet file's metadata: none hides the added columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export.parquet_schema import with_columns

from tests.support.writer_runs import HEAD, run

SPARK = b"org.apache.spark.sql.parquet.row.metadata"
_OWN = [
    {"name": "premise", "type": "string", "nullable": True, "metadata": {}},
    {"name": "hypothesis", "type": {"type": "udt", "class": "Text"}, "nullable": True, "metadata": {"comment": "é"}},
]
_ADDED = dict(zip(HEAD, ["string", "double", "double", "boolean", "string"], strict=True))
_LABELS = {"names": ["entailment", "neutral"], "_type": "ClassLabel"}


def metadata_of_output(folder: Path, metadata: dict[bytes, bytes], **options: bool) -> dict[bytes, bytes]:
    table = pa.table({"premise": ["a"], "hypothesis": ["b"]})
    with pq.ParquetWriter(folder / "a.parquet", table.schema, **options) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(metadata)
    run(folder / "a.parquet", folder / "out.parquet")
    return pq.ParquetFile(folder / "out.parquet").metadata.metadata or {}


def test_spark_schema_gets_the_added_columns(tmp_path: Path) -> None:
    found = metadata_of_output(tmp_path, {SPARK: json.dumps({"type": "struct", "fields": _OWN}).encode()})
    added = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in _ADDED.items()]
    assert json.loads(found[SPARK]) == {"type": "struct", "fields": [*_OWN, *added]}


_STALE = json.dumps({"type": "struct", "fields": _OWN[:1]}).encode()  # a column was added to the file later


@pytest.mark.parametrize(
    "schema", [b"", b"\xff", b"null", b"[]", b'{"fields": 1}', b'{"fields": [1]}', b"[" * 100_000, _STALE], ids=range(8)
)
def test_spark_schema_that_is_not_the_file_is_left_out(tmp_path: Path, schema: bytes) -> None:
    assert SPARK not in metadata_of_output(tmp_path, {SPARK: schema})


def test_hugging_face_features_keep_their_class_names(tmp_path: Path) -> None:
    text = {"dtype": "string", "_type": "Value"}
    features = {"premise": text, "hypothesis": text, "label": _LABELS}
    about = json.dumps({"info": {"features": features}, "x": 1}).encode()
    found = metadata_of_output(tmp_path, {b"huggingface": about})
    names = {"string": "string", "double": "float64", "boolean": "bool"}
    added = {name: {"dtype": names[kind], "_type": "Value"} for name, kind in _ADDED.items()}
    assert json.loads(found[b"huggingface"]) == {"info": {"features": features | added}, "x": 1}


def test_a_list_of_labels_in_the_words_of_others() -> None:
    """As Spark writes it, and as every version of datasets reads it (from 4 on they write `List`)."""
    columns = [pa.field("premise", pa.string())]
    added = [pa.field("prediction", pa.list_(pa.string()))]
    metadata = {
        SPARK: json.dumps({"type": "struct", "fields": [{"name": "premise"}]}).encode(),
        b"huggingface": json.dumps({"info": {"features": {}}}).encode(),
    }
    found = with_columns(metadata, columns, added)
    text = {"type": "array", "elementType": "string", "containsNull": True}
    column = {"name": "prediction", "type": text, "nullable": True, "metadata": {}}
    assert json.loads(found[SPARK])["fields"] == [{"name": "premise"}, column]
    value = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    assert json.loads(found[b"huggingface"])["info"]["features"] == {"prediction": value}


def test_schemas_of_others_are_left_out_and_all_else_is_kept(tmp_path: Path) -> None:
    schemas = dict.fromkeys((b"parquet.avro.schema", b"avro.schema", b"iceberg.schema", b"pig.schema"), b"{}")
    others = {b"org.apache.spark.version": b"3.5", b"org.apache.spark.legacyDateTime": b"", b"mine": b"\xc3\xa9"}
    found = metadata_of_output(tmp_path, schemas | others, store_schema=False)
    assert found == others


def test_arrow_schema_is_written_where_the_input_has_it(tmp_path: Path) -> None:
    assert b"ARROW:schema" not in metadata_of_output(tmp_path, {}, store_schema=False)
    assert b"ARROW:schema" in metadata_of_output(tmp_path, {})
    assert pq.read_schema(tmp_path / "out.parquet").names == ["premise", "hypothesis", *HEAD]
