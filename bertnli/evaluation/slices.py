"""Accuracy by what a pair looks like: its length, how far the hypothesis repeats the premise, negation, and how far
SNLI's annotators agreed on it. Counts only, so memory does not grow with the file.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertnli.data.labelled import LabelledPair
from bertnli.data.labels import label_key
from bertnli.data.pairs import PairFile
from bertnli.evaluation.metrics import wilson

TITLES = {
    "length": "words of premise and hypothesis",
    "overlap": "hypothesis words that the premise has",
    "negation": "negation in the hypothesis",
    "agreement": "annotators who gave the gold label",
}

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_LENGTHS = (10, 15, 20, 25, 35, 50)  # longest of a slice
_OVERLAPS = (0.25, 0.5, 0.75, 1.0)  # least of a slice
# Words that models take for contradiction, as it is in the data (Gururangan et al. 2018, section 4).
_NEGATIONS = frozenset(
    ["no", "not", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "cannot", "without"]
)
_ANNOTATORS = ("label1", "label2", "label3", "label4", "label5")  # columns of SNLI's .txt; in .jsonl they are one list
_CHUNK = 4096  # rows


class Slice(NamedTuple):
    kind: str  # a key of TITLES
    order: tuple[int, ...]  # among the slices of its kind
    name: str


class Slices:
    """Rows and right predictions of every slice."""

    def __init__(self, file: PairFile):
        """`file`: read once more, if it says what each annotator chose and is no pipe."""
        self._counts: dict[Slice, list[int]] = defaultdict(lambda: [0, 0])
        self._agreements = _agreements(file)

    def add(self, rows: Sequence[LabelledPair], right: NDArray[np.bool_]) -> None:
        """Count the file's next rows, and whether the model is right on each."""
        for pair, is_right in zip(rows, right.tolist(), strict=True):
            found = list(slices_of(pair.premise, pair.hypothesis))
            agreement = next((one for number, one in self._agreements if number == pair.number), None)
            for one in (*found, agreement) if agreement else found:
                counts = self._counts[one]
                counts[0] += 1
                counts[1] += is_right

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """By kind, its slices that have rows, in order."""
        tables: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TITLES}
        for one, (rows, right) in sorted(self._counts.items()):
            figures = {"rows": rows, "accuracy": right / rows, "accuracy_interval": list(wilson(right, rows))}
            tables[one.kind].append({"slice": one.name, **figures})
        return {kind: table for kind, table in tables.items() if table}


def slices_of(premise: str, hypothesis: str) -> Iterator[Slice]:
    """The slices that the texts alone put a pair into, one of each kind."""
    words, repeated = (_WORD.findall(text.casefold()) for text in (hypothesis, premise))
    place = bisect_left(_LENGTHS, len(words) + len(repeated))
    shortest = _LENGTHS[place - 1] + 1 if place else 0
    name = f"{shortest} to {_LENGTHS[place]}" if place < len(_LENGTHS) else f"{shortest} or more"
    yield Slice("length", (place,), name)

    said = set(words)
    overlap = len(said & set(repeated)) / len(said) if said else 0.0
    place = bisect_right(_OVERLAPS, overlap)
    least = _OVERLAPS[place - 1] if place else 0.0
    name = f"{least:.0%} to below {_OVERLAPS[place]:.0%}" if place < len(_OVERLAPS) else "all"
    yield Slice("overlap", (place,), name)

    negated = not said.isdisjoint(_NEGATIONS) or any(word.endswith(("n't", "n’t")) for word in said)
    yield Slice("negation", (int(negated),), "yes" if negated else "no")


def _agreements(file: PairFile) -> Iterator[tuple[int, Slice | None]]:
    """Of every row, its number and how many annotators chose the gold label; None where fewer than two were asked."""
    single = [name for name in _ANNOTATORS if name in file.fields]
    if not (single or "annotator_labels" in file.fields) or not Path(file.path).is_file():
        return
    for chunk in file.chunks(_CHUNK):
        for row, record in zip(chunk.rows, file.values(chunk), strict=True):
            cells = record or {}
            listed = cells.get("annotator_labels")
            given = listed if isinstance(listed, list) else [cells.get(name) for name in single]
            labels = [label_key(label) for label in given if isinstance(label, str) and label.strip()]
            agreed = labels.count(label_key(row.label or ""))
            asked = len(labels)
            yield row.number, Slice("agreement", (asked, agreed), f"{agreed} of {asked}") if asked > 1 else None
