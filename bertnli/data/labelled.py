"""The rows of a file that have a gold label, each with what its label says (golds.py)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bertnli.common.errors import InputError
from bertnli.data import label_columns, soft_labels, unfit_rows
from bertnli.data.columns import listed, no_label_column
from bertnli.data.formats import empty
from bertnli.data.golds import NONE_OF_THEM, WITHOUT, Golds, golds_for
from bertnli.data.labels import LabelTable
from bertnli.data.outputs import ProblemType
from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile
from bertnli.data.records import BLANK_LINE
from bertnli.data.tokenizer import PairTokenizer
from bertnli.data.unknown_labels import UnknownLabels

RowsByLabel = Mapping[str, Mapping[str, int]]
"""label -> what becomes of its rows (`used`, `left out`, …) -> number of rows.

For rows without a label there are these two names instead."""
NO_GOLD_ROWS, UNREADABLE_ROWS = "without a gold label", "bad, without a known label"
_UNREADABLE = -1  # in place of a label's place
_FIRST_BAD = 5  # bad rows that a message lists


class LabelledPair(NamedTuple):
    premise: str
    hypothesis: str
    label: Any  # index into the labels of `read_labelled`; for its other problem types a number for each output
    number: int  # the row in the file, 1-based


class LabelledPairs:
    """The rows of a file that have a gold label, as a stream, with counts of all rows read so far.

    read = used + no_gold + bad + the rows with unknown labels. no_gold: the label is `-`, -1 or empty. first_bad: the
    first five bad rows, as (row number, reason).
    """

    def __init__(
        self,
        file: PairFile,
        golds: Golds,
        labels: Sequence[str],
        skip_bad_rows: bool,
        rows: Callable[[], Iterator[Row]] | None = None,
        tokenizer: PairTokenizer | None = None,
    ):
        """rows: the file's, with label cells that `golds` reads; by default those of the label column. tokenizer: see
        `read_labelled`."""
        self.file, self.labels, self.skip_bad_rows = file, tuple(labels), skip_bad_rows
        self._golds, self._rows, self._tokenizer = golds, rows or file.rows, tokenizer
        self._reset()

    def _reset(self) -> None:
        self.read = self.used = self.no_gold = self.bad = 0
        self.first_bad: list[tuple[int, str]] = []
        self._used, self._bad = Counter[tuple[int, ...]](), Counter[tuple[int, ...]]()  # by `Gold.counted`
        self._unknown = UnknownLabels()

    def __iter__(self) -> Iterator[LabelledPair]:
        """The pairs in order. The first unknown label ends them, and without `skip_bad_rows` the first bad row; later
        rows are only counted.

        Raises at the end of the file UnknownLabelsError, also with `skip_bad_rows`: a label is a class, and the rest
        would be another task; InputError if it has bad rows that are not skipped, or no row that can be used. Raises
        RunError if the file is damaged.
        """
        self._reset()
        read, skip = self._golds.read, self.skip_bad_rows
        for row in unfit_rows.marked(_without_blank_end(self._rows()), self._tokenizer):
            self.read += 1
            gold = read(row.label)
            error = row.error or gold.fault
            if gold is WITHOUT and (row.error is None or row.label is not None):
                self.no_gold += 1
            elif error is not None:
                self.bad += 1
                self._bad[gold.counted or (_UNREADABLE,)] += 1
                if len(self.first_bad) < _FIRST_BAD:
                    self.first_bad.append((row.number, error))
            elif gold.unknown:
                for label in gold.unknown:
                    self._unknown.add(label, row.number)
            else:
                self.used += 1
                self._used[gold.counted] += 1
                if (skip or not self.bad) and not self._unknown:
                    yield LabelledPair(row.premise, row.hypothesis, gold.value, row.number)  # type: ignore[arg-type]
        if self._unknown:
            counts = _by_place(self._used)
            used = {label: counts[place] for place, label in enumerate(self.labels) if counts[place]}
            raise self._unknown.error(self.file.name, self.file.columns.label, self.labels, used)
        examples = "; ".join(f"row {number}: {reason}" for number, reason in self.first_bad)
        if self.bad and not skip:
            raise InputError(
                f"{self.file.name}: {self.bad} bad {'row' if self.bad == 1 else 'rows'} of {self.read}",
                found=examples,
                do=f"{self._golds.advice}fix these rows, or skip them with --skip-bad-rows (in a run file: "
                "data.skip_bad_rows: true)",
            )
        if not self.used:
            raise InputError(
                f"{self.file.name}: no row can be used",
                found=f"{self.read} rows, {self.no_gold} without a gold label, {self.bad} bad"
                + (f" ({examples})" if examples else ""),
                expected="pairs with a label",
            )

    def rows_by_label(self) -> dict[str, dict[str, int]]:
        """For each label, and for rows without one: how many rows are `used`, and how many `left out`."""
        used, bad = _by_place(self._used), _by_place(self._bad)
        found = {
            name: {"used": used[place], "left out": bad[place]}
            for place, name in enumerate(self._golds.names)
            if name != NONE_OF_THEM or used[place] or bad[place]
        }
        for name, rows in ((NO_GOLD_ROWS, self.no_gold), (UNREADABLE_ROWS, bad[_UNREADABLE])):
            if rows:
                found[name] = {"used": 0, "left out": rows}
        return found


def _by_place(counts: Counter[tuple[int, ...]]) -> Counter[int]:
    """Rows by the place of each name in `Golds.names`, from rows by the places of all their names."""
    found = Counter[int]()
    for places, rows in counts.items():
        for place in places:
            found[place] += rows
    return found


def _without_blank_end(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows without the blank lines at the end of the file, and without the empty rows that spreadsheets leave."""
    first, blank = None, 0
    for row in rows:
        if row.error is not None and (row.error == BLANK_LINE or (row.raw and not row.raw.strip('\t,;| "'))):
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
    problem_type: ProblemType = "single_label_classification",
    skip_bad_rows: bool = False,
    label_names: Mapping[str, str] | None = None,
    tokenizer: PairTokenizer | None = None,
    soft: bool = False,
) -> LabelledPairs:
    """The rows of `file` whose label is one of `labels`, in order, each label as an index into `labels`.

    problem_type: of the model. For the others than the default one a label is a tuple with a number for each output: a
    score, or 1 for each label that the pair has, and 0 (see golds.py).

    Labels are compared as `label_key` says. Rows without a gold label (`-`, -1, empty) are skipped and counted.
    label_names (data.label_names in a run file): translates label cells, for example {"0": "entailment"}, to one of
    `labels` or `-`. tokenizer: pairs that it cannot cut as its settings say are bad rows. soft: the file has soft
    labels, and a label is a tuple as `SoftGolds` has it (soft_labels.py).

    Raises InputError if the file has no row or no label column (or no columns of soft labels), or several that are
    equally good, or if `label_names` has a value that is not one of `labels`.
    """
    if not file.fields:
        raise empty(file.name)
    if file.without_rows:
        raise InputError(f"{file.name}: no row in it", expected="pairs with a label")
    if soft:
        return _read_soft(file, labels, skip_bad_rows, label_names, tokenizer)
    golds, several = golds_for(labels, problem_type, label_names), problem_type == "multi_label_classification"
    columns = label_columns.columns_of(file, labels) if several and file.columns.label is None else None
    if file.columns.label is None and columns is None:
        has_soft = not several and soft_labels.columns_of(file, labels) is not None
        raise no_label_column(file.fields, file.columns, file.name, problem_type, has_soft=has_soft)
    rows = None if columns is None else partial(label_columns.rows_with_labels, file, columns)
    return LabelledPairs(file, golds, labels, skip_bad_rows, rows, tokenizer)


def _read_soft(
    file: PairFile,
    labels: Sequence[str],
    skip_bad_rows: bool,
    label_names: Mapping[str, str] | None,
    tokenizer: PairTokenizer | None,
) -> LabelledPairs:
    columns = soft_labels.columns_of(file, labels)
    if columns is None:
        raise InputError(
            f"{file.name}: no columns of soft labels",
            found=f"columns {listed(file.fields)}",
            expected=", ".join(f"p_{label}" for label in labels),
            do="give a file that has them, as bertnli score writes it, or remove loss.soft",
        )
    golds = soft_labels.SoftGolds(labels, LabelTable(labels, label_names), columns)
    rows = partial(soft_labels.rows_with_soft_labels, file, columns)
    return LabelledPairs(file, golds, labels, skip_bad_rows, rows, tokenizer)
