"""Finds the columns of the sentence pairs and labels, and says which cells can be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from bertnli.common.encodings import with_escapes
from bertnli.common.errors import InputError
from bertnli.common.printable import shortened
from bertnli.data.records import is_text, json_type

PAIR_COLUMNS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("text", "text_pair"))
PARSE_COLUMNS = ("sentence1_binary_parse", "sentence2_binary_parse")
LABEL_COLUMNS = ("label", "gold_label")


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names. From the user: None means "find it". As found: a label of None means "no label column"."""

    premise: str | None = None
    hypothesis: str | None = None
    label: str | None = None


def finder(fields: Sequence[str]) -> Callable[[str], str | None]:
    """A function from a column's name, or one with other case or outer blanks, to the first such field."""
    by_lower = {name.strip().casefold(): name for name in reversed(fields)}
    return lambda name: name if name in fields else by_lower.get(name.strip().casefold())


def find_columns(
    fields: Sequence[str], wanted: Columns, where: str, *, prefer_parse: bool = False, hint: str = ""
) -> Columns:
    """The columns of the pair, and of the label if there is one, found by name, without case and outer blanks.

    prefer_parse: take SNLI's binary-parse columns if the file has them. Raises InputError that lists the columns found
    and says how to name them; `hint` is what else may help.
    """
    hint = hint and f"; {hint}"
    find = finder(fields)

    def given(name: str, option: str) -> str:
        if (found := find(name)) is None:
            raise InputError(
                f"{where}: no column {name!r}",
                found=f"columns {listed(fields)}",
                do=f"fix {option} (in a run file: data.columns, with train: and eval: in it if these differ){hint}",
            )
        return found

    premise = hypothesis = None
    if wanted.premise is None and wanted.hypothesis is None:
        for names in (PARSE_COLUMNS, *PAIR_COLUMNS) if prefer_parse else PAIR_COLUMNS:
            premise, hypothesis = map(find, names)
            if premise and hypothesis:
                break
    else:
        sides = list(zip(*PAIR_COLUMNS, strict=True))
        premise = next(filter(None, map(find, sides[0])), None)
        hypothesis = next(filter(None, map(find, sides[1])), None)
        if wanted.premise is not None:
            premise = given(wanted.premise, "--premise")
        if wanted.hypothesis is not None:
            hypothesis = given(wanted.hypothesis, "--hypothesis")
    if not premise or not hypothesis:
        raise InputError(
            f"{where}: no columns with the sentence pairs",
            found=f"columns {listed(fields)}",
            expected=" or ".join("/".join(names) for names in PAIR_COLUMNS),
            do=f"name them with --premise and --hypothesis (in a run file: data.columns){hint}",
        )
    if premise == hypothesis:  # every sentence would be scored against itself
        raise InputError(
            f"{where}: premise and hypothesis are the same column",
            found=repr(premise),
            do="name both with --premise and --hypothesis (in a run file: data.columns)",
        )
    if wanted.label is not None:
        return Columns(premise, hypothesis, given(wanted.label, "--label"))
    return Columns(premise, hypothesis, next(filter(None, map(find, LABEL_COLUMNS)), None))


def not_read(fields: Sequence[str], wanted: Columns, found: Columns) -> list[str]:
    """For each role that the user named no column for, and for which `fields` have two: what is taken, and what not."""
    by_lower: dict[str, list[str]] = {}
    for name in fields:
        by_lower.setdefault(name.strip().casefold(), []).append(name)
    chosen, notes = [found.premise or "", found.hypothesis or ""], list[str]()
    pairs = (names for names in PAIR_COLUMNS if all(name in by_lower for name in names))
    keys = chain(*pairs, (name.strip().casefold() for name in chosen))
    others = [name for key in keys for name in by_lower[key] if name not in chosen]
    if wanted.premise is None and wanted.hypothesis is None and others:
        notes.append(
            f"the pairs are in {listed(chosen)}, and not in {listed([*dict.fromkeys(others)])}; "
            "name others with --premise and --hypothesis (in a run file: data.columns)"
        )
    labels = [name for key in LABEL_COLUMNS for name in by_lower.get(key, ()) if name != found.label]
    if wanted.label is None and labels:
        notes.append(
            f"the labels are in {found.label!r}, and not in {listed(labels)}; "
            "name another with --label (in a run file: data.columns.label)"
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
            do="say which is which, such as --premise 2 --hypothesis 3 --label 1 (in a run file: data.columns)",
        )
    if len(fields) not in (2, 3):
        raise InputError(
            f"{where}: no header",
            found="1 column" if len(fields) == 1 else f"{len(fields)} columns",
            expected="two or three: premise, hypothesis, label",
            do="say which is which, such as --premise 2 --hypothesis 3 --label 1 (in a run file: data.columns), "
            "or what is between the cells with --delimiter (in a run file: data.delimiter)",
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

    words: cells that a header may have. If neither sentence of a row is one of them, the row is not a header.
    """

    def __init__(self, fields: Sequence[str], columns: Columns):
        self._fields = [name.casefold() for name in fields]
        pairs = (*PAIR_COLUMNS, ((columns.premise or "").casefold(), (columns.hypothesis or "").casefold()))
        self._pairs = [frozenset(names) for names in pairs]
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
