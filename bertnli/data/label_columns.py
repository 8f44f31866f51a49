"""Labels that have a column each, with 1 in it for a pair that has the label and 0 for one that does not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bertnli.data.columns import finder, label_text
from bertnli.data.labels import WITHOUT_GOLD, LabelTable
from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile

_ROWS = 4096  # rows that are read at once
_VALUES = LabelTable(("0", "1"))  # in any form: 1.0, true; -1 and empty cells are neither


def columns_of(file: PairFile, labels: Sequence[str]) -> dict[str, str] | None:
    """Label -> its column, found without case and outer blanks; None unless every label has one of its own."""
    find = finder(file.fields)
    found = {label: find(label) for label in labels}
    columns = {label: name for label, name in found.items() if name is not None}
    pair = {file.columns.premise, file.columns.hypothesis}
    return columns if len(set(columns.values()) - pair) == len(labels) else None


def rows_with_labels(file: PairFile, columns: Mapping[str, str]) -> Iterator[Row]:
    """The rows of `file`, which is read twice at the same time; each label cell is the JSON list of its labels.

    A row in which all label columns are empty or -1 has none; one in which some of them are, or that has another value
    than 0 and 1, is a bad one.
    """
    records = (record for chunk in file.chunks(_ROWS) for record in file.values(chunk))
    for row, record in zip(file.rows(), records, strict=True):
        yield row if record is None else _labelled(row, record, columns)


def _labelled(row: Row, record: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    cells = {label: label_text(record.get(column)) for label, column in columns.items()}
    values = {label: _VALUES.index(cell) for label, cell in cells.items()}
    if set(values.values()) == {WITHOUT_GOLD}:
        return row
    for label, value in values.items():
        if value < 0:
            said = "no value" if value == WITHOUT_GOLD else repr(cells[label])[:60]
            return row._replace(error=row.error or f"{said} in column {columns[label]!r}, where 0 or 1 belongs")
    return row._replace(label=json.dumps([label for label, value in values.items() if value]))
