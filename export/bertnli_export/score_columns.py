"""The columns that scoring adds, by what the model's outputs mean.

| the model gives | columns |
| --- | --- |
| one of several labels | `prediction`, the label; `p_<label>` for each label |
| several independent labels | `prediction`, the list of the labels above the threshold; `p_<label>` for each label |
| a score | `score` |

Columns of an expansion follow (expansion.py), then `truncated` and `error`. A list is a list in JSON lines and Parquet,
and the text of a JSON list in TSV and CSV, which can hold every label: `["toxic", "insult"]`, or `[]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from bertnli.data.outputs import SCORE, Outputs

_DECIMALS = 6  # of a probability
_DIGITS = 7  # of a score; fp32 has no more. A sigmoid's scores of 1e-7 still have an order.


class Extra(NamedTuple):
    """A column of an expansion. numbers: a list of probabilities."""

    name: str
    kind: Literal["integer", "texts", "numbers"]


@dataclass(frozen=True)
class ScoreColumns:
    """The names of the columns, in their order. lists: a prediction is a list of labels."""

    prediction: str | None
    values: tuple[str, ...]
    truncated: str
    error: str
    lists: bool = False
    extras: tuple[Extra, ...] = ()

    @classmethod
    def of(cls, outputs: Outputs, prefix: str = "", extras: tuple[Extra, ...] = ()) -> ScoreColumns:
        """`prefix` stands before each name, but those of `extras` have it already."""
        ends = f"{prefix}truncated", f"{prefix}error"
        if outputs.problem_type == "regression":
            return cls(None, (prefix + SCORE,), *ends, extras=extras)
        values = tuple(f"{prefix}p_{label}" for label in outputs.names)
        lists = outputs.problem_type == "multi_label_classification"
        return cls(f"{prefix}prediction", values, *ends, lists, extras)

    @property
    def names(self) -> list[str]:
        extras = [extra.name for extra in self.extras]
        return [*self.predictions, *self.values, *extras, self.truncated, self.error]

    @property
    def predictions(self) -> list[str]:
        """The column of the prediction, if there is one."""
        return [] if self.prediction is None else [self.prediction]

    @property
    def number(self) -> str:
        """The format of a value."""
        return f"%.{_DIGITS}g" if self.prediction is None else f"%.{_DECIMALS}f"

    def rounded(self, value: float) -> float:
        """The number that `number` writes."""
        return float(self.number % value)
