"""Label names, their orders, and what a label cell says.

Labels are names everywhere outside a tensor. The order inside a model is the model's own and comes from its
config: HF's SNLI models use entailment, neutral, contradiction; d2l entailment, contradiction, neutral; many
MNLI checkpoints contradiction, neutral, entailment. Nothing here assumes one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from bertnli.common.errors import InputError

SNLI_ORDER = ("entailment", "neutral", "contradiction")
D2L_ORDER = ("entailment", "contradiction", "neutral")
NO_GOLD = "-"  # SNLI's mark for a pair whose annotators did not agree (Bowman et al. 2015, section 2.2)

WITHOUT_GOLD, UNKNOWN = -2, -1  # in place of a label's index: the annotators did not agree; the model has no such label

_PLACEHOLDER = re.compile(r"LABEL_\d+", re.IGNORECASE)


def label_key(text: str) -> str:
    """What two spellings of one label have in common: case and outer blanks do not count."""
    return text.strip().casefold()


class LabelTable:
    """From what a label cell says to the index of the label in a model's order."""

    def __init__(self, labels: Sequence[str], names: Mapping[str, str] | None = None, *, strict: bool = True):
        """names: what cells say in the data -> a label or `-`, as --label-names (data.label_names) has it.

        Raises InputError for a name of a label that the model does not have; if not `strict`, such cells are UNKNOWN.
        """
        self._index = {NO_GOLD: WITHOUT_GOLD, "-1": WITHOUT_GOLD}
        self._index |= {label_key(label): index for index, label in enumerate(labels)}
        known = dict(self._index)
        for said, name in (names or {}).items():
            index = known.get(label_key(name), UNKNOWN)
            if strict and index == UNKNOWN:
                raise InputError(
                    f"--label-names (in a run file: data.label_names): {label_key(said)}",
                    found=repr(label_key(name)),
                    expected=f"one of {', '.join(labels)}, or {NO_GOLD}",
                )
            self._index[label_key(said)] = index

    def index(self, cell: str | None) -> int:
        """The label's index, WITHOUT_GOLD for `-` and -1, UNKNOWN for anything else, also for an empty cell."""
        return self._index.get(label_key(cell), UNKNOWN) if cell else UNKNOWN


def check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The label names of one model, in order; at least two, distinct, printable, not `LABEL_0` placeholders.

    Raises InputError naming `where`.
    """
    names = tuple(str(name) for name in names)
    # A name becomes a column's (`p_entailment`), so it holds neither a tab nor a line break.
    if len(names) < 2 or len(set(names)) != len(names) or not all(n.strip() and n.isprintable() for n in names):
        raise InputError(
            f"{where}: unusable label names",
            found=", ".join(repr(name) for name in names) or "none",
            expected="two or more different names, none of them empty",
        )
    if _placeholders(names):
        raise InputError(
            f"{where}: the label names are placeholders",
            found=", ".join(names),
            do="say what they are, in the model's order, with --labels (in a run file: labels), for "
            "example entailment,neutral,contradiction",
        )
    return names


def from_config(config: Mapping[str, object], where: str, override: Sequence[str] | None = None) -> tuple[str, ...]:
    """The label names of a classifier, in its own order, from `id2label` of its HF-style config.

    override: names (`--labels`) for a model that has none or only placeholders. Real names it may repeat but not
    change: another order would silently exchange the labels. Raises InputError if `id2label` is missing, has gaps,
    holds placeholders, or does not agree with `override`.
    """
    where = f"{where}: key id2label"
    own = _in_order(config["id2label"], where) if config.get("id2label") is not None else None
    if own is not None and len(own) == 1:
        raise InputError(
            where,
            found=f"{own[0]!r} alone",
            expected="two or more labels",
            do="a single output is a regression's or a similarity's: choose a classifier",
        )
    if override is None:
        if own is None:
            raise InputError(
                f"{where} is missing", do="name the labels, in the model's order, with --labels (in a run file: labels)"
            )
        return check_names(own, where)
    names = check_names(override, "--labels")
    if own is not None and len(names) != len(own):
        raise InputError("--labels", found=f"{len(names)} names", expected=f"{len(own)}, as many as {where} has")
    if own is not None and not _placeholders(own) and names != own:
        raise InputError(
            "--labels",
            found=",".join(names),
            expected=f"{','.join(own)}, the model's own names in its own order ({where})",
            do="leave --labels out (in a run file: labels)",
        )
    return names


def unnamed(config: Mapping[str, object], where: str) -> bool:
    """Whether a classifier's config leaves its labels without names. Raises InputError for a damaged `id2label`."""
    given = config.get("id2label")
    return given is None or _placeholders(_in_order(given, f"{where}: key id2label"))


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


def _placeholders(names: Sequence[str]) -> bool:
    return any(_PLACEHOLDER.fullmatch(name) for name in names)
