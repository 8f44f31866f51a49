"""Label names, their order inside a model, and the table from label cells to indices.

Labels are names everywhere outside tensors. Their order inside a model comes from the model's config: Hugging Face's
SNLI models use entailment, neutral, contradiction; d2l entailment, contradiction, neutral; many MNLI checkpoints
contradiction, neutral, entailment. No code here assumes one of these orders.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from bertnli.common.errors import InputError
from bertnli.data.run_keys import in_run_file

SNLI_ORDER = ("entailment", "neutral", "contradiction")
D2L_ORDER = ("entailment", "contradiction", "neutral")
NO_GOLD = "-"  # SNLI marks a pair whose annotators did not agree so (Bowman et al. 2015, section 2.2)

# In place of a label's index: the row has none, for example because the annotators did not agree; the model does not
# have the label.
WITHOUT_GOLD, UNKNOWN = -2, -1

_PLACEHOLDER = re.compile(r"LABEL_\d+", re.IGNORECASE)
_UNSEEN = "".join(chr(c) for c in range(0x3001) if chr(c).isspace()) + "\0\u200b\u200c\u200d\u2060\ufeff"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII)
_REMEMBERED = 10_000  # texts of label cells; a column with more of them does not hold labels


def label_key(text: str) -> str:
    """The form in which two spellings of a label are compared: without case, outer blanks and outer characters that
    cannot be seen; 1.0 and +1 are 1."""
    key = text.strip(_UNSEEN).casefold()
    number = number_in(key)
    return str(int(number)) if number is not None and number.is_integer() else key


def number_in(text: str) -> float | None:
    """The number that the text of a label cell is, if it is one: `1`, `-1.0`, `1.000e+00`."""
    text = text.strip().casefold()
    number = float(text) if _NUMBER.fullmatch(text) else None
    return number if number is not None and abs(number) < 2**53 else None  # larger integers would be rounded


def check_doubled(cells: Iterable[str], where: str) -> None:
    """Raise InputError if two of the `cells`, the keys of label names, are the same label: `0` and `0.0`."""
    seen: dict[str, str] = {}
    for cell in cells:
        key = label_key(cell)
        if (first := seen.get(key)) is not None:
            raise InputError(
                f"{where}: a label twice",
                found=repr(cell) if first == cell else f"{first!r} and {cell!r}, which are the same label",
                do="remove one of the two",
            )
        seen[key] = cell


def parse_label_names(option: str, given: str | None) -> dict[str, str]:
    """The value of an option such as `0=entailment,1=neutral`; {} for None. A part with a comma may stand in quotes.

    Raises InputError for a part that is no CELL=LABEL, and for a cell that occurs twice.
    """
    parts = next(csv.reader([given or ""], skipinitialspace=True), [])
    pairs = [part.rpartition("=") for part in parts if part.strip()]
    if wrong := ["".join(pair) for pair in pairs if not all(map(str.strip, pair))]:
        raise InputError(option, found=wrong[0], expected="CELL=LABEL, several separated by commas")
    check_doubled([cell for cell, _, _ in pairs], option)
    return {cell.strip(): label.strip() for cell, _, label in pairs}


def format_label_names(names: Mapping[str, str]) -> str:
    """The value of `--label-names` that `parse_label_names` reads back to `names`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([f"{cell}={label}" for cell, label in names.items()])
    return text.getvalue()


class LabelTable:
    """Maps the text of a label cell to the index of the label in a model's order.

    Cells are compared by `label_key`. `true` and `false` are 1 and 0, unless they have a meaning of their own.
    """

    def __init__(self, labels: Sequence[str], names: Mapping[str, str] | None = None, *, strict: bool = True):
        """labels: of the model, in its order. names: text of a cell -> label or `-` (--label-names, data.label_names).

        Raises InputError if `names` has a label that the model does not have; if not `strict`, those cells are UNKNOWN.
        """
        self._index = dict.fromkeys((NO_GOLD, "-1", "", "nan"), WITHOUT_GOLD)
        keys = [label_key(label) for label in labels]
        self._index |= {key: index for index, key in enumerate(keys) if keys.count(key) == 1}
        # By the cell's own text. It saves most of the time of a row, and tells `A` and `a` apart if a model has both.
        self._cells = {label: index for index, label in enumerate(labels) if keys.count(keys[index]) > 1}
        known = dict(self._index)
        for cell, name in (names or {}).items():
            index = known.get(label_key(name), UNKNOWN)
            if strict and index == UNKNOWN:
                raise InputError(
                    f"--label-names {in_run_file('data.label_names')}: {label_key(str(cell))}",
                    found=repr(label_key(name)),
                    expected=f"one of {', '.join(labels)}, or {NO_GOLD}",
                )
            self._index[label_key(str(cell))] = index  # a caller's keys may be integers
        for boolean, number in (("true", "1"), ("false", "0")):  # JSON and Parquet have booleans
            if number in self._index:
                self._index.setdefault(boolean, self._index[number])

    def index(self, cell: str | None) -> int:
        """The index of the label; WITHOUT_GOLD for `-`, -1, NaN and an empty cell; UNKNOWN for any other text."""
        if cell is None:
            return WITHOUT_GOLD
        found = self._cells.get(cell)
        if found is None:
            found = self._index.get(label_key(cell), UNKNOWN)
            if len(self._cells) < _REMEMBERED:
                self._cells[cell] = found
        return found


def check_names(names: Sequence[str], where: str, *, do: str = "") -> tuple[str, ...]:
    """The label names of one model, in order, as a tuple.

    Raises InputError that names `where` unless they are at least two, different, printable, and not placeholders such
    as `LABEL_0`. do: what to do then; by default to give `--labels`.
    """
    names = tuple(str(name) for name in names)
    if not _are_usable(names):
        raise InputError(
            f"{where}: unusable label names",
            found=", ".join(repr(name) for name in names) or "none",
            expected="two or more different names, none of them empty",
            do=do or "give others in the same order with --labels (in a run file: labels)",
        )
    if _placeholders(names):
        raise InputError(
            f"{where}: the label names are placeholders",
            found=", ".join(names),
            do=do
            or "give the names in the model's order with --labels (in a run file: labels), for example "
            "entailment,neutral,contradiction",
        )
    return names


def from_config(
    config: Mapping[str, object], where: str, override: Sequence[str] | None = None, outputs: int | None = None
) -> tuple[str, ...]:
    """The label names of a classifier, in its own order, from `id2label` of its Hugging Face config.

    override: names (`--labels`) for a model that has no names or only placeholders. It may repeat real names but not
    change them, because another order would silently exchange the labels. outputs: of the classifier, if its weights
    are known. Raises InputError if `id2label` is missing, has gaps or placeholders, names a label twice, or does not
    agree with `override` or `outputs`.
    """
    where = f"{where}: key id2label"
    own = _in_order(config["id2label"], where) if config.get("id2label") is not None else None
    if override is None:
        if own is None:
            raise InputError(
                f"{where} is missing", do="give the names in the model's order with --labels (in a run file: labels)"
            )
        names = check_names(own, where)
        if outputs not in (None, len(names)):
            raise InputError(where, found=", ".join(names), expected=f"{outputs} names, one for each of its outputs")
        return names
    names = check_names(override, "--labels")
    is_usable = own is not None and not _placeholders(own) and _are_usable(own)
    count = outputs or (len(own) if own is not None else len(names))
    if len(names) != count:
        expected = f"{count}, as many as {where} has" if outputs is None else f"{count}, the number of its outputs"
        raise InputError("--labels", found=f"{len(names)} names", expected=expected)
    if own is not None and is_usable and names != own:
        raise InputError(
            "--labels",
            found=",".join(names),
            expected=f"{','.join(own)}, the model's own names in its own order ({where})",
            do="omit --labels (in a run file: labels)",
        )
    return names


def other_order(config: Mapping[str, object], names: Sequence[str], where: str) -> tuple[str, ...]:
    """A note if `label2id` has the labels `names` in another order than theirs; transformers scores by `id2label`."""
    numbers = config.get("label2id")
    if not isinstance(numbers, Mapping):
        return ()
    theirs = {label_key(str(name)): str(number) for name, number in numbers.items()}
    ours = {label_key(name): str(number) for number, name in enumerate(names)}
    if theirs.keys() != ours.keys() or theirs == ours:
        return ()
    other = ", ".join(f"{number} {name}" for name, number in numbers.items())
    return (f"{where}: the labels are taken as {', '.join(names)}. Its label2id has another order: {other}",)


def unnamed(config: Mapping[str, object], where: str) -> bool:
    """Whether a classifier's config has no usable label names. Raises InputError for a damaged `id2label`."""
    given = config.get("id2label")
    if given is None:
        return True
    names = _in_order(given, f"{where}: key id2label")
    return _placeholders(names) or not _are_usable(names)


def _in_order(id2label: object, where: str) -> tuple[str, ...]:
    try:
        by_index = {int(index): name for index, name in dict(id2label).items()}  # type: ignore[call-overload]
    except (TypeError, ValueError):
        by_index = {}
    if not by_index or not all(isinstance(name, str) for name in by_index.values()):
        raise InputError(
            where,
            found=repr(id2label)[:80],
            expected='a map such as {"0": "entailment", …}',
            do="remove the key, and give the names in the model's order with --labels (in a run file: labels)",
        )
    if sorted(by_index) != list(range(len(by_index))):
        raise InputError(where, found=f"indices {', '.join(map(str, sorted(by_index)))}", expected="0, 1, 2, …")
    return tuple(by_index[index] for index in range(len(by_index)))


def _are_usable(names: Sequence[str]) -> bool:
    # A label name becomes part of a column name (`p_entailment`), so it must not have a tab or a line break.
    return len(set(names)) == len(names) >= 2 and all(name.strip() and name.isprintable() for name in names)


def _placeholders(names: Sequence[str]) -> bool:
    return any(_PLACEHOLDER.fullmatch(name) for name in names)
