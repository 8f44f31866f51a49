"""Labels of a file that the model does not have: they are counted, and refused with what helps.

A label is a class. If its rows were skipped as bad rows are, the rest would be another task, and an easier one.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence

from bertnli.common.errors import InputError
from bertnli.common.printable import shortened
from bertnli.data.labels import format_label_names, number_in
from bertnli.data.run_keys import in_run_file, run_key

_MOST = 1000  # different labels that are counted
_SHOWN = 10  # of them, in a message
_LONGEST = 40  # characters of a label in a message


class UnknownLabelsError(InputError):
    """unknown: rows by unknown label, the most frequent first; used: rows by each known label that occurs."""

    def __init__(self, what: str, unknown: Mapping[str, int], used: Mapping[str, int], **parts: str):
        super().__init__(what, **parts)
        self.unknown, self.used = unknown, used


class UnknownLabels:
    """Counts the rows of each unknown label."""

    def __init__(self) -> None:
        self._rows: Counter[str] = Counter()
        self._first = (0, "")  # the first row that has one, and its label

    def __bool__(self) -> bool:
        return self._first[0] > 0

    def add(self, label: str, row: int) -> None:
        """A row, by its number from 1."""
        label = label.strip()
        self._first = self._first if self else (row, label)
        if label in self._rows or len(self._rows) < _MOST:
            self._rows[label] += 1

    def error(
        self, file: str, column: str | None, labels: Sequence[str], used: Mapping[str, int]
    ) -> UnknownLabelsError:
        """What to raise. file, column: their names; labels: of the model; used: see `UnknownLabelsError`."""
        rows = dict(sorted(self._rows.items(), key=lambda item: (-item[1], item[0])))
        what, do = f"{file}: labels that the model does not know", _name_them(list(rows), list(used))
        if any(number is not None and not number.is_integer() for number in map(number_in, rows)):
            what = f"{file}: column {column!r} has real numbers, so scores and not labels"
            do = "; or train a model that gives a score, in a run file with problem_type: regression"
            do = _another_column() + do
        elif len(rows) > _SHOWN or any(len(label) > _LONGEST for label in rows):
            what, do = f"{file}: column {column!r} has labels that the model does not know", _another_column()
        shown = ", ".join(
            f"{shortened(label, _LONGEST)!r} ({count} {'row' if count == 1 else 'rows'})"
            for label, count in list(rows.items())[:_SHOWN]
        )
        more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
        row, label = self._first
        found = f"{shown}{more}; the first in row {row}: label {shortened(label, _LONGEST)!r}"
        return UnknownLabelsError(what, rows, used, found=found, expected=", ".join(labels), do=do)


def _another_column() -> str:
    return f"name the column that has the labels with --label {in_run_file('data.columns.label')}"


def _name_them(unknown: list[str], used: list[str]) -> str:
    """How to say what the labels mean. It suggests no meaning: two labels that look alike may be opposites, and the
    model's own order says nothing about the numbers in a file."""
    names = dict.fromkeys(unknown, "LABEL")
    do = (
        f"say what each of them means with --label-names {shlex.quote(format_label_names(names))} (in a run file: "
        f"{run_key('data.label_names')}: {_yaml(names)}), with one of the model's labels for each LABEL, or - for no "
        "gold label"
    )
    if len(used + unknown) > 1 and None in map(number_in, unknown):  # numbers are no names for a new classifier
        do += f"; or train a new classifier for this file's labels, in a run file with labels: {_yaml(used + unknown)}"
    return do


def _yaml(value: object) -> str:
    """On one line. JSON is YAML too, and its quotes keep `yes` and `no` text."""
    return json.dumps(value, ensure_ascii=False)
