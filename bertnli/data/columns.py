"""Finds the columns of the sentence pairs and labels, and says which cells can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from bertnli.common.encodings import with_escapes
from bertnli.common.errors import InputError
from bertnli.common.printable import shortened
from bertnli.data.column_names import (
    LABEL_COLUMNS,
    NOT_PAIRS,
    PAIR_COLUMNS,
    TEXT_COLUMNS,
    usual_labels,
    usual_pairs,
    usual_partners,
)
from bertnli.data.outputs import ProblemType
from bertnli.data.records import is_text, json_type
from bertnli.data.run_keys import both_files, in_run_file, run_key

PARSE_COLUMNS = ("sentence1_binary_parse", "sentence2_binary_parse")


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names. From the user: None means "find it". As found: a label of None means "no label column"."""

    premise: str | None = None
    hypothesis: str | None = None
    label: str | None = None


class AmbiguousColumnsError(InputError):
    """A file has several pairs of columns, and none of them is more usual than the others."""


def fold(name: str) -> str:
    """A column's name as names are compared."""
    return name.strip().casefold()


def finder(fields: Sequence[str]) -> Callable[[str], str | None]:
    """A function from a column's name, or one with other case or outer blanks, to the first such field."""
    by_folded = {fold(name): name for name in reversed(fields)}
    return lambda name: name if name in fields else by_folded.get(fold(name))


def find_columns(
    fields: Sequence[str],
    wanted: Columns,
    where: str,
    *,
    prefer_parse: bool = False,
    hint: str = "",
    problem_type: ProblemType = "single_label_classification",
) -> Columns:
    """The columns of the pair, and of the label if exactly one is the best (column_names.py), found by name, without
    case and outer blanks.

    prefer_parse: take SNLI's binary-parse columns if the file has them. problem_type: of the model; it decides which
    names a label can have. Raises InputError that lists the columns found and says how to name them; `hint` is what
    else may help. Raises AmbiguousColumnsError if the pair can be several.
    """
    hint = hint and f"; {hint}"
    find, folded = finder(fields), [fold(name) for name in fields]

    def given(name: str, option: str) -> str:
        if (found := find(name)) is None:
            raise InputError(
                f"{where}: no column {name!r}",
                found=f"columns {listed(fields)}",
                do=f"fix {option} (in a run file: {both_files('data.columns')}){hint}",
            )
        return found

    premise = None if wanted.premise is None else given(wanted.premise, "--premise")
    hypothesis = None if wanted.hypothesis is None else given(wanted.hypothesis, "--hypothesis")
    if premise and hypothesis:
        pairs = [(premise, hypothesis)]
    elif premise:
        pairs = [(premise, name) for name in usual_partners(fold(premise), 0, folded)]
    elif hypothesis:
        pairs = [(name, hypothesis) for name in usual_partners(fold(hypothesis), 1, folded)]
    elif prefer_parse and all(map(find, PARSE_COLUMNS)):
        pairs = [PARSE_COLUMNS]
    else:
        pairs = usual_pairs(folded)
    found = [(find(one) or "", find(other) or "") for one, other in pairs]
    if not found:
        not_pairs = [reason for names, reason in NOT_PAIRS.items() if set(names) <= set(folded)]
        raise InputError(
            f"{where}: no columns with the sentence pairs",
            found=f"columns {listed(fields)}",
            expected=" or ".join("/".join(names) for names in PAIR_COLUMNS),
            do="; ".join(
                [*not_pairs, f"name them with --premise and --hypothesis {in_run_file('data.columns')}{hint}"]
            ),
        )
    if len(found) > 1:
        raise AmbiguousColumnsError(
            f"{where}: {len(found)} pairs of columns, and nothing says which one is meant",
            found=" and ".join("/".join(map(repr, names)) for names in found),
            do="name one with --premise and --hypothesis "
            f"(in a run file: {run_key('data.columns')}, "
            f"such as {{premise: {found[0][0]}, hypothesis: {found[0][1]}}})",
        )
    [(premise, hypothesis)] = found
    if premise == hypothesis:  # every sentence would be scored against itself
        raise InputError(
            f"{where}: premise and hypothesis are the same column",
            found=repr(premise),
            do=f"name both with --premise and --hypothesis {in_run_file('data.columns')}",
        )
    if wanted.label is not None:
        return Columns(premise, hypothesis, given(wanted.label, "--label"))
    labels = _usual_labels(fields, Columns(premise, hypothesis), problem_type)
    return Columns(premise, hypothesis, labels[0] if len(labels) == 1 else None)


def find_text(fields: Sequence[str], wanted: Columns, where: str, hint: str = "") -> Columns:
    """The column of the texts, where a row is a single text and no pair: it is both sentences, and there is no label.

    Raises InputError as `find_columns` does.
    """
    find = finder(fields)
    if wanted.premise is not None:
        name = find(wanted.premise)
        found = [] if name is None else [name]
    else:
        found = [name for name in map(find, TEXT_COLUMNS) if name is not None]
        if list(fields) == ["1"]:  # a table without a header
            found = ["1"]
    if len(found) == 1:
        return Columns(found[0], found[0])
    if found:
        what, do = f"{where}: {len(found)} columns of texts, and nothing says which one is meant", "name one"
        raise AmbiguousColumnsError(what, found=" and ".join(map(repr, found)), do=f"{do} with --premise")
    raise InputError(
        f"{where}: no column {wanted.premise!r}" if wanted.premise else f"{where}: no column with the texts",
        found=f"columns {listed(fields)}",
        expected=None if wanted.premise else " or ".join(TEXT_COLUMNS),
        do="; ".join(filter(None, ["fix --premise" if wanted.premise else "name it with --premise", hint])),
    )


def _usual_labels(fields: Sequence[str], pair: Columns, problem_type: ProblemType) -> list[str]:
    find = finder(fields)
    names = [find(name) or "" for name in usual_labels([fold(name) for name in fields], problem_type)]
    return [name for name in names if name not in (pair.premise, pair.hypothesis)]


def no_label_column(
    fields: Sequence[str], found: Columns, where: str, problem_type: ProblemType, *, has_soft: bool = False
) -> InputError:
    """The error for a file in which `find_columns` found no label column: there is none, or there are several.

    has_soft: it has soft labels (soft_labels.py).
    """
    do = f"with --label {in_run_file('data.columns.label')}"
    labels = _usual_labels(fields, found, problem_type)
    if len(labels) > 1:
        what = f"{where}: {len(labels)} label columns, and nothing says which one is meant"
        return InputError(what, found=" and ".join(map(repr, labels)), do=f"name one {do}")
    expected, scores = " or ".join(LABEL_COLUMNS), _usual_labels(fields, found, "regression")
    if problem_type == "multi_label_classification":
        expected += ", or a column for each label"
    if problem_type == "single_label_classification" and scores:
        do += f"; {scores[0]!r} is read for a model that gives a score (problem_type: regression)"
    if has_soft:
        do += ", or train on the probabilities in p_…: in a run file, loss: {soft: 1}"
    return InputError(
        f"{where}: no label column", found=f"columns {listed(fields)}", expected=expected, do=f"name it {do}"
    )


def note_of_names(wanted: Columns, found: Columns) -> str | None:
    """Which columns were taken, if some have another name than the first ones of column_names.py."""
    usual = {*chain(*PAIR_COLUMNS), *LABEL_COLUMNS, *PARSE_COLUMNS, None}
    taken = asdict(found)
    if all(fold(name or "") in usual or asdict(wanted)[role] for role, name in taken.items() if name):
        return None
    return ", ".join(f"column {name!r} is the {role}" for role, name in taken.items() if name)


def not_read(fields: Sequence[str], wanted: Columns, found: Columns) -> list[str]:
    """For each role that the user named no column for, and for which `fields` have two: what is taken, and what not."""
    by_lower: dict[str, list[str]] = {}
    for name in fields:
        by_lower.setdefault(fold(name), []).append(name)
    chosen, notes = [found.premise or "", found.hypothesis or ""], list[str]()
    pairs = (names for names in PAIR_COLUMNS if all(name in by_lower for name in names))
    keys = chain(*pairs, map(fold, chosen))
    others = [name for key in keys for name in by_lower[key] if name not in chosen]
    if wanted.premise is None and wanted.hypothesis is None and others:
        notes.append(
            f"the pairs are in {listed(chosen)}, and not in {listed([*dict.fromkeys(others)])}; "
            f"name others with --premise and --hypothesis {in_run_file('data.columns')}"
        )
    labels = [name for key in LABEL_COLUMNS for name in by_lower.get(key, ()) if name != found.label]
    if wanted.label is None and labels:
        notes.append(
            f"the labels are in {found.label!r}, and not in {listed(labels)}; "
            f"name another with --label {in_run_file('data.columns.label')}"
        )
    return notes


def numbered_columns(fields: Sequence[str], where: str, hint: str) -> Columns:
    """The columns of a table without a header, whose fields are 1, 2, …: premise, hypothesis and, if it has three,
    label. hint: the column that looks like the labels, in words.

    Raises InputError if it has another number of columns, or its labels are not in the third one.
    """
    if hint and not hint.startswith("column 3 "):
        raise InputError(
            f"{where}: no header",
            found=hint,
            expected="premise, hypothesis, label, in this order",
            do=f"say which is which, such as --premise 2 --hypothesis 3 --label 1 {in_run_file('data.columns')}",
        )
    if len(fields) not in (2, 3):
        raise InputError(
            f"{where}: no header",
            found="1 column" if len(fields) == 1 else f"{len(fields)} columns",
            expected="two or three: premise, hypothesis, label",
            do="say which is which, such as --premise 2 --hypothesis 3 --label 1 "
            f"{in_run_file('data.columns')}, or what is between the cells with --delimiter "
            f"{in_run_file('data.delimiter')}",
        )
    return Columns(*fields)


def words_of_parse(parse: Any) -> Any:
    """The words of an SNLI binary parse, as the d2l book's `extract_text` returns them. Values of other types stay."""
    if not isinstance(parse, str):
        return parse
    return re.sub(r"\s{2,}", " ", parse.replace("(", "").replace(")", "")).strip()


def label_text(value: Any) -> str | None:
    """A label cell as text. Integers and floats such as 1.0 become digits; null and blank become None."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or value != value:  # NaN: pandas writes a missing number so
        return None
    text = with_escapes(value if isinstance(value, str) else json.dumps(value, default=str))
    return text if text.strip() else None


def fault_of(name: str, value: Any) -> str | None:
    """Why the sentence `value` cannot be scored; None if it can. `name`: premise or hypothesis."""
    if value is None:
        return f"null {name}"
    if not isinstance(value, str):
        return f"the {name} is {json_type(value)}, not text"
    if not value.strip():
        return f"empty {name}"
    if "\0" in value:
        return f"NUL character in the {name}"
    if not (value.isascii() or is_text(value)):
        return f"the {name} is not valid Unicode"
    return None


class HeaderRows:
    """Recognises headers among the rows of a text table; tables that were put into one file have them.

    words: cells that a header may have. If neither sentence of a row is one of them, the row is not a header. Where a
    row is a single text, only the file's own header is recognised: a text may well be a column's name.
    """

    def __init__(self, fields: Sequence[str], columns: Columns):
        self._fields = [name.casefold() for name in fields]
        pairs = (*PAIR_COLUMNS, ((columns.premise or "").casefold(), (columns.hypothesis or "").casefold()))
        self._pairs = [frozenset(names) for names in pairs] if columns.premise != columns.hypothesis else []
        known = {name for names in (*pairs, LABEL_COLUMNS) for name in names}
        self.words = frozenset(fields) | known | {name.title() for name in known} | {name.upper() for name in known}

    def kind(self, cells: Sequence[str]) -> str | None:
        """`same` for the header of the file once more, `other` for one of other columns, None for a row."""
        names = [cell.strip('\ufeff"').casefold() for cell in cells]
        if names == self._fields:
            return "same"
        return "other" if any(pair <= set(names) for pair in self._pairs) else None


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names for a message. Long names, and a long list, are shortened."""
    shown = [repr(shortened(name, 40)) for name in names[:most]]
    return (", ".join(shown) or "none") + (f" and {len(names) - most} more" if len(names) > most else "")
