"""The values of one more column of a labelled file, by which its rows are told apart or ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError
from bertnli.data.columns import finder
from bertnli.data.labelled import LabelledPair
from bertnli.data.pairs import PairFile

_ROWS = 4096  # rows that are read at once


class ColumnValues:
    """names: the different values, as text, in the order of the file. It keeps one integer for each row."""

    def __init__(self, file: PairFile, column: str):
        """Reads the file once. `column` is one of its fields."""
        self.column = column
        self._value: list[int] = []  # index into the names, by row number - 1
        names: dict[str, int] = {}
        for chunk in file.chunks(_ROWS):
            for record in file.values(chunk):
                value = None if record is None else record.get(column)
                self._value.append(names.setdefault("" if value is None else str(value), len(names)))
        self.names = list(names)

    def of(self, rows: Sequence[LabelledPair]) -> NDArray[np.int64]:
        """The index of each row's value in `names`."""
        return np.array([self._value[row.number - 1] for row in rows], np.int64)


class Groups:
    """The groups that rows are ranked in, such as the documents of a query: rows with the same value in a column."""

    def __init__(self, file: PairFile, column: str):
        """Reads the file once. Raises InputError if it does not have the column."""
        found = finder(file.fields)(column)
        if found is None:
            raise InputError(
                f"{file.name}: no column {column!r}", found=", ".join(map(repr, file.fields)), do="fix --group"
            )
        self.name = file.name
        self._values = ColumnValues(file, found)
        self._parts: list[NDArray[np.int64]] = []

    def check(self, rows: Iterable[LabelledPair]) -> None:
        """Raise the errors of `add`."""
        rows = iter(rows)
        while some := list(islice(rows, _ROWS)):
            self._of(some)

    def add(self, rows: Sequence[LabelledPair]) -> None:
        """Add the next rows. Raises InputError for a row without a value: it would be ranked among strangers."""
        self._parts.append(self._of(rows))

    def _of(self, rows: Sequence[LabelledPair]) -> NDArray[np.int64]:
        values = self._values.of(rows)
        empty = np.array([not name.strip() for name in self._values.names])[values]
        if empty.any():
            raise InputError(
                f"{self.name}: row {rows[int(empty.argmax())].number}: no value in column {self._values.column!r}",
                expected="the name of the row's group",
                do="write one into each such row, or omit --group",
            )
        return values

    @property
    def column(self) -> str:
        return self._values.column

    @property
    def numbers(self) -> NDArray[np.int64]:
        """`[rows]`, of the rows added: the number of each row's group."""
        return np.concatenate(self._parts)
