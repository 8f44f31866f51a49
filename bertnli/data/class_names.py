"""What the integers of a label column mean, by the file's own metadata.

The datasets library of Hugging Face writes labels as integers. In a Parquet file, the schema's metadata has their names
under the key `huggingface`: the names of a `ClassLabel` in their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bertnli.common.errors import InputError
from bertnli.data.labels import label_key, number_in
from bertnli.data.run_keys import in_run_file

if TYPE_CHECKING:
    import pyarrow


_LISTS = ("Sequence", "List", "LargeList")


def class_names(schema: pyarrow.Schema, column: str | None) -> tuple[str, ...]:
    """The names of the classes 0, 1, … of a column; () if the file does not say any."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        feature = features[column]
        if isinstance(feature, list):  # of lists of labels, as older versions write it
            [feature] = feature
        feature = feature["feature"] if feature["_type"] in _LISTS else feature
        names = feature["names"] if feature["_type"] == "ClassLabel" else ()
    except (KeyError, TypeError, ValueError, RecursionError):  # none, or of another form
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def column_of_other_classes(schema: pyarrow.Schema, other: pyarrow.Schema) -> str | None:
    """The first column whose numbers mean other classes in another file of the same rows; None if there is none."""
    return next((name for name in other.names if class_names(other, name) not in ((), class_names(schema, name))), None)


def class_of(label: str | None, names: Sequence[str]) -> str | None:
    """The name of the class if the text of a label cell is its number; of a list of numbers the list of their names, if
    each has one; otherwise the text."""
    if label is not None and label.startswith("["):
        return _classes_of(label, names)
    number = number_in("1" if label == "true" else "0" if label == "false" else label or "")
    if number is None or not number.is_integer() or not 0 <= number < len(names):
        return label
    return names[int(number)]


def _classes_of(text: str, names: Sequence[str]) -> str:
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if not isinstance(listed, list) or not all(type(one) is int and 0 <= one < len(names) for one in listed):
        return text
    return json.dumps([names[one] for one in listed], ensure_ascii=False)


def by_class(label_names: Mapping[str, str], names: Sequence[str], where: str) -> dict[str, str]:
    """The user's `label_names` (text of a cell -> label) for cells as `class_of` returns them.

    Raises InputError that begins with `where`, the file, if they give a number another meaning than the file does.
    """
    order = [label_key(name) for name in names]
    found: dict[str, str] = {}
    for cell, label in label_names.items():
        named = class_of(str(cell), names)
        if label_key(str(cell)) in order and label_key(str(named)) != label_key(str(cell)):
            raise InputError(
                f"{where}: the file's class names are numbers too, so the label names can be meant in two ways",
                found=f"{cell}={label}, and in the file {', '.join(f'{n} is {one!r}' for n, one in enumerate(names))}",
                do="write the labels as text into another column, and name it with --label "
                f"{in_run_file('data.columns.label')}",
            )
        if named != cell and label_key(label) in order and label_key(label) != label_key(str(named)):
            raise InputError(
                f"{where}: the file says what its numbers mean, and the label names say something else",
                found=f"{cell}={label}",
                expected=", ".join(f"{index}={name}" for index, name in enumerate(names)),
                do=f"omit the numbers from --label-names {in_run_file('data.label_names')}",
            )
        found[str(named)] = label
    return found
