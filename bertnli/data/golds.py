"""What a label cell says of its pair, by the kind of model: which label, which score, or which of several labels.

A cell of one label is read by `LabelTable`, and so is each label in a cell of several.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from bertnli.common.errors import InputError
from bertnli.common.printable import shortened
from bertnli.data.columns import label_text
from bertnli.data.labels import NO_GOLD, UNKNOWN, WITHOUT_GOLD, LabelTable, label_key, number_in
from bertnli.data.outputs import SCORE, ProblemType
from bertnli.data.run_keys import in_run_file, run_key

NONE_OF_THEM = "none of the labels"
"""Counts the rows of a model with independent labels that have none, as the list [] says."""

_SEPARATORS = "|;,"
_REMEMBERED = 10_000  # texts of cells
_LONGEST = 60  # characters of a cell in a message


def _as_numbers() -> str:
    return (
        "say which number each label is, such as --label-names entailment=1,contradiction=0 (in a run file: "
        f"{run_key('data.label_names')}), or name another column with --label (in a run file: "
        f"{run_key('data.columns.label')}); otherwise "
    )


class Gold(NamedTuple):
    """A label cell as it was read.

    value: the index of the label; for the other kinds of models a number for each output; None: the row has no gold
    label, or what follows says why not. counted: the places in `Golds.names` under which the row is counted. fault: why
    the row is a bad one. unknown: labels in the cell that the model does not have.
    """

    value: int | tuple[float, ...] | None = None
    counted: tuple[int, ...] = ()
    fault: str | None = None
    unknown: tuple[str, ...] = ()


WITHOUT = Gold()


class Golds(Protocol):
    """Reads label cells. names: under which rows are counted; the labels come first, in the model's order. advice: what
    to do about bad rows before anything else, or nothing."""

    names: tuple[str, ...]
    advice: str

    def read(self, cell: str | None) -> Gold: ...


def golds_for(labels: Sequence[str], problem_type: ProblemType, label_names: Mapping[str, str] | None) -> Golds:
    """What reads the label cells for a model. label_names: text of a cell -> label (or number), from the user.

    Raises InputError if `label_names` has a meaning that the model does not have.
    """
    if problem_type == "regression":
        return ScoreGolds(label_names)
    table = LabelTable(labels, label_names)
    return LabelGolds(labels, table) if problem_type == "single_label_classification" else SetGolds(labels, table)


class LabelGolds:
    """One label for each pair: its index."""

    advice = ""

    def __init__(self, labels: Sequence[str], table: LabelTable):
        self.names = tuple(labels)
        self._index = table.index
        self._golds = {index: Gold(index, (index,)) for index in range(len(labels))} | {WITHOUT_GOLD: WITHOUT}
        self._seen: dict[str | None, Gold] = {}

    def read(self, cell: str | None) -> Gold:
        gold = self._seen.get(cell)
        if gold is None:
            gold = self._golds.get(self._index(cell)) or Gold(unknown=(str(cell),))
            if len(self._seen) < _REMEMBERED:
                self._seen[cell] = gold
        return gold


class ScoreGolds:
    """A number for each pair: `(score,)`. Other text is a bad row; an empty cell, `-` and NaN: the row has no score."""

    names: tuple[str, ...] = (SCORE,)
    advice = ""

    def __init__(self, label_names: Mapping[str, str] | None = None):
        self._said = {}
        for cell, text in (label_names or {}).items():
            gold = self._number(str(text))
            if gold.fault:
                raise InputError(
                    f"--label-names {in_run_file('data.label_names')}: {cell}",
                    found=repr(text),
                    expected=f"a number, or {NO_GOLD}, as the model gives a pair one score",
                    do=f"say which number each label is, such as {label_key(str(cell))}=1",
                )
            self._said[label_key(str(cell))] = gold

    def read(self, cell: str | None) -> Gold:
        if cell is None:
            return WITHOUT
        gold = (self._said.get(label_key(cell)) if self._said else None) or self._number(cell)
        if gold.fault:
            self.advice = _as_numbers()
        return gold

    @staticmethod
    def _number(text: str) -> Gold:
        number = number_in(text)
        if number is None:
            number = {"true": 1.0, "false": 0.0}.get(text.strip().casefold())  # JSON and Parquet have booleans
        if number is not None and math.isfinite(number):
            return Gold((number,), (0,))
        if label_key(text) in ("", NO_GOLD, "nan"):
            return WITHOUT
        return Gold(fault=f"the score is {shortened(text.strip(), _LONGEST)!r}, not a number such as 0.25")


class SetGolds:
    """Any number of labels for each pair: 1 for each label that the pair has, and 0 for the others.

    A cell has one label, or several in a list (of JSON, Parquet, or as Python prints it) or separated by `|`, `;` or
    commas. The list [] has none; an empty cell is one without a gold label. A cell that can be read in two ways is a
    bad row.
    """

    advice = ""

    def __init__(self, labels: Sequence[str], table: LabelTable):
        self.names = (*labels, NONE_OF_THEM)
        self._labels, self._index = len(labels), table.index
        self._seen: dict[str, Gold] = {}

    def read(self, cell: str | None) -> Gold:
        if cell is None:
            return WITHOUT
        gold = self._seen.get(cell)
        if gold is None:
            gold = self._read(cell)
            if len(self._seen) < _REMEMBERED:
                self._seen[cell] = gold
        return gold

    def _read(self, cell: str) -> Gold:
        whole = self._index(cell)
        if whole == WITHOUT_GOLD:
            return WITHOUT
        text = cell.strip()
        if whole == UNKNOWN and text.startswith("["):
            return self._of_list(text)
        apart = [[part.strip() for part in text.split(sign)] for sign in _SEPARATORS if sign in text]
        known = [parts for parts in apart if all(self._index(part) >= 0 for part in parts)]
        if whole >= 0:
            known.append([cell])
        if len({frozenset(map(self._index, parts)) for parts in known}) > 1:
            fault = f"the labels {shortened(text, _LONGEST)!r} can be read in two ways; write a list: "
            return Gold(fault=fault + " or ".join(json.dumps(parts, ensure_ascii=False) for parts in known))
        if known:
            return self._of_labels(known[0])
        some = [parts for parts in apart if any(self._index(part) >= 0 for part in parts)]
        return self._of_labels(some[0] if some else [text])

    def _of_list(self, text: str) -> Gold:
        listed = _list_in(text)
        if listed is None or not all(isinstance(one, str | int | float) for one in listed):
            return Gold(fault=f"the labels {shortened(text, _LONGEST)!r} are not a list of label names")
        names = [label_text(one) or "" for one in listed]
        numbers = not any(isinstance(one, str) for one in listed)
        if names and numbers and len(names) == self._labels and any(self._index(name) == UNKNOWN for name in names):
            fault = f"the list {shortened(text, _LONGEST)} can be one number for each label or labels by their numbers"
            return Gold(fault=fault + "; write the names of the labels")
        return self._of_labels(names)

    def _of_labels(self, names: Sequence[str]) -> Gold:
        found = [self._index(name) for name in names]
        if unknown := [name for name, index in zip(names, found, strict=True) if index == UNKNOWN]:
            return Gold(unknown=tuple(dict.fromkeys(unknown)))
        if WITHOUT_GOLD in found:
            return WITHOUT if len(found) == 1 else Gold(fault=f"one of its {len(found)} labels is empty, or {NO_GOLD}")
        if len(set(found)) < len(found):
            return Gold(fault="a label twice in its list")
        return self._of_places(found)

    def _of_places(self, places: Iterable[int]) -> Gold:
        has = set(places)
        value = tuple(float(index in has) for index in range(self._labels))
        return Gold(value, tuple(sorted(has)) or (self._labels,))


def _list_in(text: str) -> list[Any] | None:
    """The list that a text is, in JSON or as Python prints it; None if it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list):
            return found
    return None
