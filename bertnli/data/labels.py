"""Label names, their order inside a model, and the table from label cells to indices.

Labels are names everywhere outside tensors. Their order inside a model comes from the model's config: Hugging Face's
SNLI models use entailment, neutral, contradiction; d2l entailment, contradiction, neutral; many MNLI checkpoints
contradiction, neutral, entailment. No code here assumes one of these orders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bertnli.common.errors import InputError

SNLI_ORDER = ("entailment", "neutral", "contradiction")
D2L_ORDER = ("entailment", "contradiction", "neutral")
NO_GOLD = "-"  # SNLI marks a pair whose annotators did not agree so (Bowman et al. 2015, section 2.2)

# In place of a label's index: the annotators did not agree; the model does not have the label.
WITHOUT_GOLD, UNKNOWN = -2, -1

_PLACEHOLDER = re.compile(r"LABEL_\d+", re.IGNORECASE)


def label_key(text: str) -> str:
    """The form of a label in which two spellings are compared: without case and outer blanks."""
    return text.strip().casefold()


class LabelTable:
    """Maps the text of a label cell to the index of the label in a model's order. Case and outer blanks are ignored."""

    def __init__(self, labels: Sequence[str], names: Mapping[str, str] | None = None, *, strict: bool = True):
        """labels: of the model, in its order. names: text of a cell -> label or `-` (--label-names, data.label_names).

        Raises InputError if `names` has a label that the model does not have; if not `strict`, those cells are UNKNOWN.
        """
        self._index = {NO_GOLD: WITHOUT_GOLD, "-1": WITHOUT_GOLD}
        self._index |= {label_key(label): index for index, label in enumerate(labels)}
        known = dict(self._index)
        for cell, name in (names or {}).items():
            index = known.get(label_key(name), UNKNOWN)
            if strict and index == UNKNOWN:
                raise InputError(
                    f"--label-names (in a run file: data.label_names): {label_key(str(cell))}",
                    found=repr(label_key(name)),
                    expected=f"one of {', '.join(labels)}, or {NO_GOLD}",
                )
            self._index[label_key(str(cell))] = index  # a caller's keys may be integers

    def index(self, cell: str | None) -> int:
        """The index of the label; WITHOUT_GOLD for `-` and -1; UNKNOWN for any other text and for an empty cell."""
        return self._index.get(label_key(cell), UNKNOWN) if cell else UNKNOWN


def check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The label names of one model, in order, as a tuple.

    Raises InputError that names `where` unless they are at least two, different, printable, and not placeholders such
    as `LABEL_0`.
    """
    names = tuple(str(name) for name in names)
    if not _are_usable(names):
        raise InputError(
            f"{where}: unusable label names",
            found=", ".join(repr(name) for name in names) or "none",
            expected="two or more different names, none of them empty",
            do="give others in the same order with --labels (in a run file: labels)",
        )
    if _placeholders(names):
        raise InputError(
            f"{where}: the label names are placeholders",
            found=", ".join(names),
            do="give the names in the model's order with --labels (in a run file: labels), for example "
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
    if (outputs or (None if own is None else len(own))) == 1:
        raise InputError(
            where,
            found=f"{own[0]!r} alone" if own else "one output",
            expected="two or more labels",
            do="a model with one output computes a regression or a similarity; choose a classifier",
        )
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
        raise InputError(where, found=repr(id2label)[:80], expected='a map such as {"0": "entailment", …}')
    if sorted(by_index) != list(range(len(by_index))):
        raise InputError(where, found=f"indices {', '.join(map(str, sorted(by_index)))}", expected="0, 1, 2, …")
    return tuple(by_index[index] for index in range(len(by_index)))


def _are_usable(names: Sequence[str]) -> bool:
    # A label name becomes part of a column name (`p_entailment`), so it must not have a tab or a line break.
    return len(set(names)) == len(names) >= 2 and all(name.strip() and name.isprintable() for name in names)


def _placeholders(names: Sequence[str]) -> bool:
    return any(_PLACEHOLDER.fullmatch(name) for name in names)
