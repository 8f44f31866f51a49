"""Accuracy on slices of the data: by length, word overlap, negation, and the agreement of SNLI's annotators."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
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
_LENGTHS = (10, 15, 20, 25, 35, 50)  # maximum of a slice
_OVERLAPS = (0.25, 0.5, 0.75, 1.0)  # minimum of a slice
# Models learn from the data that these words indicate contradiction (Gururangan et al. 2018, section 4).
_NEGATIONS = frozenset(
    ["no", "not", "never", "none", "nobody", "nothing", "nowhere", "neither", "nor", "cannot", "without"]
)
_ANNOTATORS = ("label1", "label2", "label3", "label4", "label5")  # columns of SNLI's .txt; its .jsonl has one list
_CHUNK = 4096  # rows


class Slice(NamedTuple):
    kind: str  # a key of TITLES
    order: tuple[int, ...]  # sorts the slices of one kind
    name: str


class Slices:
    """Counts of rows and of right predictions in each slice. Memory does not grow with the file."""

    def __init__(self, file: PairFile):
        """file: is read a second time if it has the annotators' labels and is not a pipe."""
        self._counts: dict[Slice, list[int]] = defaultdict(lambda: [0, 0])
        self._agreements = _agreements(file)

    def add(self, rows: Sequence[LabelledPair], right: NDArray[np.bool_]) -> None:
        """Add the next rows of the file. right: bool `[rows]`, whether the prediction is right."""
        for pair, is_right in zip(rows, right.tolist(), strict=True):
            found = list(slices_of(pair.premise, pair.hypothesis))
            agreement = next((one for number, one in self._agreements if number == pair.number), None)
            for one in (*found, agreement) if agreement else found:
                counts = self._counts[one]
                counts[0] += 1
                counts[1] += is_right

    def to_json(self) -> dict[str, list[dict[str, Any]]]:
        """kind -> its slices in order, without those that have no rows."""
        tables: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TITLES}
        for one, (rows, right) in sorted(self._counts.items()):
            figures = {"rows": rows, "accuracy": right / rows, "accuracy_interval": list(wilson(right, rows))}
            tables[one.kind].append({"slice": one.name, **figures})
        return {kind: table for kind, table in tables.items() if table}


def slices_of(premise: str, hypothesis: str) -> Iterator[Slice]:
    """The slices of a pair that depend only on its texts, one of each kind."""
    words, repeated = (_WORD.findall(text.casefold()) for text in (hypothesis, premise))
    place = bisect_left(_LENGTHS, len(words) + len(repeated))
    shortest = _LENGTHS[place - 1] + 1 if place else 0
    name = f"{shortest} to {_LENGTHS[place]}" if place < len(_LENGTHS) else f"{shortest} or more"
    yield Slice("length", (place,), name)

    vocabulary = set(words)
    overlap = len(vocabulary & set(repeated)) / len(vocabulary) if vocabulary else 0.0
    place = bisect_right(_OVERLAPS, overlap)
    least = _OVERLAPS[place - 1] if place else 0.0
    name = f"{least:.0%} to below {_OVERLAPS[place]:.0%}" if place < len(_OVERLAPS) else "all"
    yield Slice("overlap", (place,), name)

    negated = not vocabulary.isdisjoint(_NEGATIONS) or any(word.endswith(("n't", "n’t")) for word in vocabulary)
    yield Slice("negation", (int(negated),), "yes" if negated else "no")


def _agreements(file: PairFile) -> Iterator[tuple[int, Slice | None]]:
    """For each row: its number, and the slice by how many annotators chose the gold label (None if fewer than two)."""
    single = [name for name in _ANNOTATORS if name in file.fields]
    if not (single or "annotator_labels" in file.fields) or not file.rereadable:
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
