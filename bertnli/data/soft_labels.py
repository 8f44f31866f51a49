"""Soft labels: a probability for each label, in columns `p_<label>`, as in a file that `bertnli score` wrote.

A row may also have a gold label. It is read as in any other file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bertnli.common.printable import shortened
from bertnli.data.columns import finder, label_text
from bertnli.data.golds import Gold, LabelGolds
from bertnli.data.labels import LabelTable, number_in
from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile

TOLERANCE = 0.01  # of their sum: some files have two decimals
_ROWS = 4096  # rows that are read at once


def columns_of(file: PairFile, labels: Sequence[str]) -> list[str] | None:
    """The column `p_<label>` of each label, found without case and outer blanks; None unless every label has one."""
    find = finder(file.fields)
    found = [name for label in labels if (name := find(f"p_{label}")) is not None]
    return found if len(set(found)) == len(labels) else None


def rows_with_soft_labels(file: PairFile, columns: Sequence[str]) -> Iterator[Row]:
    """The rows of `file`, which is read twice at the same time; each label cell is a JSON list: the text of the row's
    own label cell, or null, and then that of each of the `columns`."""
    records = (record for chunk in file.chunks(_ROWS) for record in file.values(chunk))
    for row, record in zip(file.rows(), records, strict=True):
        yield row if record is None else row._replace(label=_cells(row, record, columns))


def _cells(row: Row, record: Mapping[str, Any], columns: Sequence[str]) -> str:
    return json.dumps([row.label, *(label_text(record.get(column)) for column in columns)])


class SoftGolds(LabelGolds):
    """Reads the cells of `rows_with_soft_labels`.

    A gold value is `(index, p, p, …)`: the gold label's index, or -1 for a row without one, and the probabilities,
    which sum to 1. A row without a gold label is counted under its most probable label.
    """

    def __init__(self, labels: Sequence[str], table: LabelTable, columns: Sequence[str]):
        super().__init__(labels, table)
        self._columns = columns

    def read(self, cell: str | None) -> Gold:
        label, *texts = json.loads(cell) if cell else [None] * (1 + len(self._columns))
        gold = super().read(label)
        if gold.unknown:
            return gold
        numbers = []
        for column, text in zip(self._columns, texts, strict=True):
            number = None if text is None else number_in(text)
            if number is None or not 0 <= number <= 1:
                said = "no value" if text is None else repr(shortened(text, 40))
                return Gold(counted=gold.counted, fault=f"{said} in column {column!r}, where a probability belongs")
            numbers.append(number)
        total = sum(numbers)
        if abs(total - 1) > TOLERANCE + 1e-9:
            reason = f"its probabilities in {self._columns[0]!r} and the others sum to {total:.4g}, not to 1"
            return Gold(counted=gold.counted, fault=reason)
        numbers = [number / total for number in numbers]
        index = -1 if gold.value is None else int(gold.value)  # type: ignore[arg-type]
        return Gold((index, *numbers), gold.counted or (numbers.index(max(numbers)),))
