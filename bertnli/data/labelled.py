"""The rows of a file that have a gold label, each with its label as an index."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bertnli.common.errors import InputError
from bertnli.data.columns import LABEL_COLUMNS, listed
from bertnli.data.formats import empty
from bertnli.data.labels import UNKNOWN, WITHOUT_GOLD, LabelTable
from bertnli.data.pairs import PairFile, Row
from bertnli.data.records import BLANK_LINE

_FIRST_BAD = 5  # bad rows that a message lists


class LabelledPair(NamedTuple):
    premise: str
    hypothesis: str
    label: int  # index into the labels of `read_labelled`
    number: int  # the row in the file, 1-based


class LabelledPairs:
    """The rows of a file that have a gold label, as a stream, with counts of all rows read so far.

    read = used + no_gold + bad. no_gold: the annotators did not agree (gold label `-` or -1). first_bad: the first
    five bad rows, as (row number, reason).
    """

    def __init__(self, file: PairFile, table: LabelTable, labels: Sequence[str], skip_bad_rows: bool):
        self.file, self.labels, self.skip_bad_rows = file, tuple(labels), skip_bad_rows
        self._table = table
        self._reset()

    def _reset(self) -> None:
        self.read = self.used = self.no_gold = self.bad = 0
        self.first_bad: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[LabelledPair]:
        """The pairs in order. Without `skip_bad_rows` the first bad row ends them; later rows are only counted.

        Raises InputError at the end of the file if it has bad rows that are not skipped, or no row that can be used.
        Raises RunError if the file is damaged.
        """
        self._reset()
        table, skip = self._table, self.skip_bad_rows
        for row in _without_blank_end(self.file.rows()):
            self.read += 1
            index = table.index(row.label)
            if index == WITHOUT_GOLD:
                self.no_gold += 1
            elif row.error is None and index != UNKNOWN:
                self.used += 1
                if skip or not self.bad:
                    yield LabelledPair(row.premise, row.hypothesis, index, row.number)  # type: ignore[arg-type]
            else:
                self.bad += 1
                if len(self.first_bad) < _FIRST_BAD:
                    self.first_bad.append((row.number, row.error or self._label_fault(row.label)))
        examples = "; ".join(f"row {number}: {reason}" for number, reason in self.first_bad)
        if self.bad and not skip:
            raise InputError(
                f"{self.file.name}: {self.bad} bad {'row' if self.bad == 1 else 'rows'} of {self.read}",
                found=examples,
                do="fix these rows, or skip them with --skip-bad-rows (in a run file: data.skip_bad_rows: true)",
            )
        if not self.used:
            raise InputError(
                f"{self.file.name}: no row can be used",
                found=f"{self.read} rows, {self.no_gold} without a gold label, {self.bad} bad"
                + (f" ({examples})" if examples else ""),
                expected="pairs with a label",
            )

    def _label_fault(self, label: str | None) -> str:
        if label is None:
            return "no label"
        advice = ""
        if re.fullmatch(r"\s*[+-]?\d+\s*", label):
            names = ",".join(f"{index}={name}" for index, name in enumerate(self.labels))
            advice = f"; say what the numbers mean, such as --label-names {names} (in a run file: data.label_names)"
        shown = label if len(label) <= 40 else label[:40] + "…"
        return f"label {shown!r}, expected {', '.join(self.labels)}{advice}"


def _without_blank_end(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows without the blank lines at the end of the file."""
    first, blank = None, 0
    for row in rows:
        if row.error == BLANK_LINE:
            first, blank = first or row, blank + 1
            continue
        if first is not None:
            yield from (first._replace(number=first.number + after) for after in range(blank))
            first, blank = None, 0
        yield row


def read_labelled(
    file: PairFile,
    labels: Sequence[str],
    *,
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
) -> LabelledPairs:
    """The rows of `file` whose label is one of `labels`, in order, each label as an index into `labels`.

    Labels are compared without case and outer blanks. Rows with the gold label `-` (or -1) are skipped and counted.
    label_names (data.label_names in a run file): translates label cells, for example {"0": "entailment"}, to one of
    `labels` or `-`.

    Raises InputError if the file has no label column, or `label_names` has a value that is not one of `labels`.
    """
    if not file.fields:
        raise empty(file.name)
    if file.columns.label is None:
        raise InputError(
            f"{file.name}: no label column",
            found=f"columns {listed(file.fields)}",
            expected=" or ".join(LABEL_COLUMNS),
            do="name it with --label (in a run file: data.columns.label)",
        )
    return LabelledPairs(file, LabelTable(labels, label_names), labels, skip_bad_rows)
