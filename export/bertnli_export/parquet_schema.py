"""The schema of a Parquet output: the input's, with the added columns, also where other programs describe it.

Beside Parquet's own schema, a file may hold one of the program that wrote it, as metadata. Some readers believe that
one, so it must have the added columns too, or go.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

ARROW = b"ARROW:schema"
# Of the added columns:
_SPARK_TYPES = {"string": "string", "double": "double", "bool": "boolean", "int64": "long"}
_HUGGING_FACE_TYPES = {"string": "string", "double": "float64", "bool": "bool", "int64": "int64"}


def with_columns(
    metadata: Mapping[bytes, bytes] | None, columns: Sequence[pyarrow.Field], added: Sequence[pyarrow.Field]
) -> dict[bytes, bytes]:
    """The input's metadata for an output with the `added` columns behind `columns`.

    Spark's and Hugging Face's schemas say more than Parquet's own (types, class names): they are extended. Those of
    Avro, Pig and Iceberg, and any that is not as expected, are left out; a reader then takes Parquet's own. Arrow's is
    made anew by `key_values`.
    """
    extended = {}
    for key, text in (metadata or {}).items():
        if key in _EXTEND:
            try:
                extended[key] = json.dumps(_EXTEND[key](json.loads(text), columns, added)).encode()
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue
        elif key not in _OF_OTHERS:
            extended[key] = text
    return extended


def _spark(schema: Any, columns: Sequence[pyarrow.Field], added: Sequence[pyarrow.Field]) -> Any:
    if [field["name"] for field in schema["fields"]] != [column.name for column in columns]:
        raise ValueError("it describes other columns")
    for column in added:
        kind = _of_type(column.type, lambda name: _SPARK_TYPES[name], _spark_array)
        schema["fields"].append({"name": column.name, "type": kind, "nullable": True, "metadata": {}})
    return schema


def _hugging_face(about: Any, columns: Sequence[pyarrow.Field], added: Sequence[pyarrow.Field]) -> Any:
    features = about["info"]["features"]
    for column in added:
        features[column.name] = _of_type(column.type, _hugging_face_value, _hugging_face_sequence)
    return about


def _of_type(kind: pyarrow.DataType, of_one: Callable[[str], Any], of_many: Callable[[Any], Any]) -> Any:
    """A type of an added column in the words of another program: of one value, or of a list of values."""
    import pyarrow.types as types

    return of_many(of_one(str(kind.value_type))) if types.is_list(kind) else of_one(str(kind))


def _spark_array(element: str) -> dict[str, Any]:
    return {"type": "array", "elementType": element, "containsNull": True}


def _hugging_face_value(kind: str) -> dict[str, Any]:
    return {"dtype": _HUGGING_FACE_TYPES[kind], "_type": "Value"}


def _hugging_face_sequence(element: Any) -> dict[str, Any]:
    return {"feature": element, "_type": "Sequence"}  # every version reads it; since 4 they write "List"


_EXTEND: dict[bytes, Callable[[Any, Sequence[pyarrow.Field], Sequence[pyarrow.Field]], Any]] = {
    b"org.apache.spark.sql.parquet.row.metadata": _spark,
    b"huggingface": _hugging_face,
}
_OF_OTHERS = {b"parquet.avro.schema", b"avro.schema", b"pig.schema", b"iceberg.schema"}


def storable(schema: pyarrow.Schema) -> pyarrow.Schema:
    """`schema` without string_view and binary_view inside other types: Arrow 26 cannot write them from a struct.

    The file stores them as it stores string and binary.
    """
    import pyarrow as pa
    import pyarrow.types as types

    return pa.schema([each.with_type(_plain(each.type)) if types.is_nested(each.type) else each for each in schema])


def _plain(kind: pyarrow.DataType) -> pyarrow.DataType:
    import pyarrow as pa
    import pyarrow.types as types

    if types.is_string_view(kind):
        return pa.string()
    if types.is_binary_view(kind):
        return pa.binary()
    if not types.is_nested(kind):
        return kind
    fields = [kind.field(at) for at in range(kind.num_fields)]
    if types.is_map(kind):
        fields = [kind.key_field, kind.item_field]
    plain = [field.with_type(_plain(field.type)) for field in fields]
    if plain == fields:
        return kind
    if types.is_struct(kind):
        return pa.struct(plain)
    if types.is_map(kind):
        return pa.map_(*plain, kind.keys_sorted)
    if types.is_fixed_size_list(kind):
        return pa.list_(*plain, kind.list_size)
    return pa.large_list(*plain) if types.is_large_list(kind) or types.is_large_list_view(kind) else pa.list_(*plain)


def key_values(schema: pyarrow.Schema) -> dict[bytes, bytes]:
    """The metadata of a file with this schema. Arrow's schema is in it if it was in the input's."""
    metadata = dict(schema.metadata or {})
    if metadata.pop(ARROW, None) is not None:
        metadata[ARROW] = base64.b64encode(schema.with_metadata(metadata).serialize())
    return metadata
