"""How many rows have a gold label, how many of these the model knows, and how many it predicts.

An accuracy over the known labels alone would be that of an easier task: a model that knows only `entailment` of a
file's two labels would be right whenever it says so. So there is none as soon as one label is unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertnli.common.printable import shortened

_KEPT = 100  # different unknown labels that are counted; a column with more of them does not hold labels
_SHOWN = 5
_LONGEST = 40  # characters


@dataclass
class LabelCounts:
    """Rows, of those that were scored and have a gold label. unknown_labels: rows by label, of the first hundred."""

    known: int = 0
    correct: int = 0
    unknown: int = 0
    unknown_labels: dict[str, int] = field(default_factory=dict)

    def add_unknown(self, label: str, rows: int = 1) -> None:
        label = shortened(label.strip(), _LONGEST)
        self.unknown += rows
        if label in self.unknown_labels or len(self.unknown_labels) < _KEPT:
            self.unknown_labels[label] = self.unknown_labels.get(label, 0) + rows

    def add(self, other: LabelCounts) -> None:
        """The rows of `other`, which come after these."""
        self.known += other.known
        self.correct += other.correct
        uncounted = other.unknown - sum(other.unknown_labels.values())
        for label, rows in other.unknown_labels.items():
            self.add_unknown(label, rows)
        self.unknown += uncounted

    def summary(self) -> dict[str, Any]:
        """`labelled`, and `accuracy` or why there is none (`no_accuracy`, and `labels` with the counts)."""
        labelled = self.known + self.unknown
        if not labelled:
            return {}
        if not self.unknown:
            return {"labelled": labelled, "accuracy": self.correct / labelled}
        most = Counter(self.unknown_labels).most_common(_SHOWN)
        shown = ", ".join(f"{label!r} ({rows} {'row' if rows == 1 else 'rows'})" for label, rows in most)
        more = " and others" if len(self.unknown_labels) > _SHOWN else ""
        text = f"the model knows the labels of {self.known} of {labelled} labelled rows; it does not know {shown}{more}"
        return {
            "labelled": labelled,
            "no_accuracy": f"{text}; bertnli eval takes --label-names",
            "labels": vars(self) | {"unknown_labels": dict(Counter(self.unknown_labels).most_common())},
        }

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> LabelCounts:
        """The counts behind a `summary`."""
        if "labels" in summary:
            return cls(**summary["labels"])
        labelled = summary.get("labelled", 0)
        return cls(labelled, round(labelled * summary.get("accuracy", 0)))
