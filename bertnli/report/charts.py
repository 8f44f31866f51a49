"""Line charts as coordinates of an SVG; templates/charts.html.j2 draws them.

Without a plotting library a chart follows the reader's light or dark theme, its text is readable on a phone, a screen
reader can describe its curves, and there is no slow import.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 230  # of the SVG, in its own units
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 40  # margins around the plot
_MOST_POINTS = 300  # of a line; more points cannot be seen at this size
_SMOOTH = 0.05  # width of a moving mean's window, as a share of all points

LineStyle = Literal["line", "faint", "marks"]


@dataclass(frozen=True)
class Series:
    """A curve: finite `values` at increasing `steps`."""

    name: str
    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    style: LineStyle = "line"

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]], key: str, style: LineStyle = "line") -> Series:
        """The values of `key` in rows of metrics.jsonl. For a step that was repeated after a resume, the last value."""
        found = {row["step"]: row[key] for row in rows if isinstance(row.get(key), int | float)}
        steps = sorted(step for step, value in found.items() if math.isfinite(value))
        return cls(name, np.array(steps, float), np.array([found[step] for step in steps], float), style)

    def smoothed(self, name: str) -> Series:
        """The centred moving mean; the window is shorter near both ends."""
        count = len(self.values)
        half = int(_SMOOTH * count / 2)
        sums = np.concatenate([[0.0], np.cumsum(self.values)])
        places = np.arange(count)
        start, stop = np.maximum(places - half, 0), np.minimum(places + half + 1, count)
        return Series(name, self.steps, (sums[stop] - sums[start]) / (stop - start))

    def thinned(self) -> Series:
        """The same curve with at most _MOST_POINTS points, each the mean of neighbouring points."""
        if len(self.steps) <= _MOST_POINTS:
            return self
        size = math.ceil(len(self.steps) / _MOST_POINTS)
        starts = np.arange(0, len(self.steps), size)
        sizes = np.diff(starts, append=len(self.steps))
        return replace(
            self,
            steps=np.add.reduceat(self.steps, starts) / sizes,
            values=np.add.reduceat(self.values, starts) / sizes,
        )


@dataclass(frozen=True)
class Line:
    name: str
    style: LineStyle
    last: str  # the value at the last step, or "" if there is nothing to show
    points: Sequence[tuple[float, float]]  # x, y in the units of the SVG


@dataclass(frozen=True)
class Chart:
    """Everything that the template needs. Positions are in the units of the SVG; y points down."""

    title: str
    over: str  # label of the x axis
    description: str  # of the curves, for screen readers
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]


def chart(title: str, series: Sequence[Series], *, from_zero: bool = False, percent: bool = False) -> Chart | None:
    """A chart of several curves from step 0 on; None if there are no values."""
    series = [one for one in series if len(one.values)]
    if not series:
        return None
    drawn = [one.thinned() for one in series]
    last = max(1.0, *(one.steps[-1] for one in series))
    low = 0.0 if from_zero else min(one.values.min() for one in drawn)
    y_ticks = ticks(low, max(one.values.max() for one in drawn), 5)
    x_ticks = [tick for tick in ticks(0, last, 5) if tick <= last and tick == round(tick)]

    def across(step: float) -> float:
        return _across(step / last)

    def down(value: float) -> float:
        return _down((value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    def text(value: float, figures: int = 3) -> str:
        return f"{number(100 * value, figures)}%" if percent else number(value, figures)

    def described(one: Series) -> str:
        return (
            f"{one.name}: {text(one.values[0])} at step {number(one.steps[0])}, {text(one.values[-1])} at step "
            f"{number(one.steps[-1])}; lowest {text(one.values.min())}, highest {text(one.values.max())}."
        )

    return Chart(
        title=title,
        over="optimizer steps",
        description=" ".join(described(one) for one in series if one.style != "faint"),
        x_ticks=[(across(tick), number(tick)) for tick in x_ticks],
        y_ticks=[(down(tick), text(tick, 4)) for tick in y_ticks],
        lines=[
            Line(
                one.name,
                one.style,
                text(one.values[-1]),
                [(across(x), down(y)) for x, y in zip(less.steps, less.values, strict=True)],
            )
            for one, less in zip(series, drawn, strict=True)
        ],
    )


def reliability(bins: Sequence[Mapping[str, Any]]) -> Chart | None:
    """The reliability diagram (Guo et al. 2017, figure 1): accuracy by confidence; on the diagonal both are equal.

    bins: `ClassificationMetrics.to_json()["reliability"]`; each is drawn at its mean confidence. None without bins.
    """
    if not bins:
        return None
    shares = [index / 5 for index in range(6)]
    return Chart(
        title="Reliability diagram",
        over="probability of the predicted label",
        description="Accuracy by confidence: "
        + "; ".join(f"{one['accuracy']:.0%} right at {one['confidence']:.0%} ({one['rows']:,} rows)" for one in bins)
        + ".",
        x_ticks=[(_across(share), number(share)) for share in shares],
        y_ticks=[(_down(share), f"{share:.0%}") for share in shares],
        lines=[
            Line("perfect calibration", "faint", "", [(_across(0), _down(0)), (_across(1), _down(1))]),
            Line("accuracy", "marks", "", [(_across(one["confidence"]), _down(one["accuracy"])) for one in bins]),
        ],
    )


def _across(share: float) -> float:
    """x of a point at a share of the plot's width, from the left."""
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _down(share: float) -> float:
    """y of a point at a share of the plot's height, from the bottom."""
    return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers that cover `low` to `high`, at a distance of 1, 2 or 5 times a power of ten."""
    least = max(abs(low), abs(high)) / 100 or 1.0  # with a smaller range the numbers would look equal in four digits
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    apart = power * next(times for times in (1, 2, 5, 10) if times * power >= 0.999 * rough)
    numbers = range(math.floor(low / apart + 1e-9), math.ceil(high / apart - 1e-9) + 1)
    return [float(f"{index * apart:.12g}") for index in numbers]  # 0.3, not 0.30000000000000004


def number(value: float, figures: int = 3) -> str:
    """A number with a few significant digits: 12,000, 0.853, 5e-5."""
    if abs(value) >= 1000 or value == round(value):
        return f"{value:,.0f}"
    if abs(value) >= 1e-3:
        return f"{value:.{figures}g}"
    mantissa, _, exponent = f"{value:.{figures - 1}e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
