"""DOC"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from bertnli.common.errors import InputError
from bertnli.data.columns import (
    LABEL_COLUMNS,
    listed,
)
from bertnli.data.labels import UNKNOWN, WITHOUT_GOLD, LabelTable
from bertnli.data.pairs import PairFile

_FIRST_BAD = 5  # bad rows named in a message


class LabelledPair(NamedTuple):
    premise: str
    hypothesis: str
    label: int  # index into the labels asked for
    number: int  # the file's row, 1-based


class LabelledPairs:
    """The rows of a file that have a gold label, streamed. What became of all rows, so far:

    `read` = `used` + `no_gold` (annotators did not agree: gold label `-`, or -1) + `bad`; `first_bad` names the first
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
        """Raises InputError at the end of a file that has bad rows, unless they are to be skipped (the first of them
        is the end of the pairs, the rest of the file is only counted), or not a single usable row; RunError if the
        file is damaged."""
        self._reset()
        table, skip = self._table, self.skip_bad_rows
        for row in self.file.rows():
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
                do="mend the file, or leave such rows out: --skip-bad-rows (in a run file: data.skip_bad_rows: true)",
            )
        if not self.used:
            raise InputError(
                f"{self.file.name}: no row to use",
                found=f"{self.read} rows, {self.no_gold} without gold label, {self.bad} bad"
                + (f" ({examples})" if examples else ""),
                expected="pairs with a label",
            )

    def _label_fault(self, label: str | None) -> str:
        if label is None:
            return "no label"
        advice = ""
        if re.fullmatch(r"\s*[+-]?\d+\s*", label):
            names = ",".join(f"{index}={name}" for index, name in enumerate(self.labels))
            advice = f"; say what the numbers mean, for example --label-names {names} (in a run file: data.label_names)"
        shown = label if len(label) <= 40 else label[:40] + "…"
        return f"label {shown!r}, expected {', '.join(self.labels)}{advice}"


def read_labelled(
    file: PairFile,
    labels: Sequence[str],
    *,
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
) -> LabelledPairs:
    """The rows of `file` whose label is one of `labels`, as indices into them, in order.

    Labels are compared without regard to case and outer blanks. Rows with gold label `-` (or -1) are dropped and
    counted. `label_names` (data.label_names) translates what the file says, such as {"0": "entailment"}, into
    `labels` or `-`.

    Raises InputError if the file has no label column or `label_names` leads to unknown labels.
    """
    if file.columns.label is None:
        raise InputError(
            f"{file.name}: no column with the labels",
            found=f"columns {listed(file.fields)}",
            expected=" or ".join(LABEL_COLUMNS),
            do="name it with --label (in a run file: data.columns.label)",
        )
    return LabelledPairs(file, LabelTable(labels, label_names), labels, skip_bad_rows)
