"""What an evaluation of a run found on its data sets: what decides, the lines for the user, the recorded figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bertnli.evaluation.evaluate_numbers import NumberMetrics
from bertnli.evaluation.metrics import ClassificationMetrics
from bertnli.report.number_lines import shown
from bertnli.run.config import RunConfig

Tallies = Mapping[str, ClassificationMetrics | NumberMetrics]
"""By the short names of `TrainingData.evaluations`. The first one decides for keep_best and early_stopping."""


def deciding(tallies: Tallies, config: RunConfig) -> tuple[str, float]:
    """The name and the value of the figure that says which evaluation is the best; NaN if it is not defined."""
    return main_figure(next(iter(tallies.values())), config)


def in_words(tallies: Tallies, config: RunConfig) -> Iterator[str]:
    """A line for each data set. Its name is only told if there are several."""
    for place, (name, tally) in enumerate(tallies.items()):
        figure, value = main_figure(tally, config)
        what = f"{figure.replace('_', ' ')} {shown(value)}, loss {tally.loss:.4f}"
        decides = ", which decides" if place == 0 else ""
        yield f"{what} on {name}{decides}" if len(tallies) > 1 else what


def evaluation_figures(tallies: Tallies, config: RunConfig) -> dict[str, float]:
    """For metrics.jsonl: `eval_accuracy`, `eval_loss` and the like of the first data set; of several also those of
    each, such as `eval_accuracy/snli-dev`. Without those that are not defined."""
    found: dict[str, float | None] = {}
    for place, (name, tally) in enumerate(tallies.items()):
        figures = {f"eval_{key}": value for key, value in {**_recorded(tally, config), "loss": tally.loss}.items()}
        found |= figures if place == 0 else {}
        found |= {f"{key}/{name}": value for key, value in figures.items()} if len(tallies) > 1 else {}
    return {key: value for key, value in found.items() if value is not None}


def in_summary(tallies: Tallies, config: RunConfig) -> dict[str, Any]:
    """For the summary: the figures of the first data set, and in `evaluations` those of each of several."""
    if not tallies:
        return {}
    first = next(iter(tallies.values()))
    found: dict[str, Any] = {f"eval_{key}": value for key, value in _recorded(first, config).items()}
    found["eval_rows"] = first.rows
    if len(tallies) > 1:
        found["evaluations"] = {name: _recorded(one, config) | {"rows": one.rows} for name, one in tallies.items()}
    return found


def main_figure(tally: ClassificationMetrics | NumberMetrics, config: RunConfig) -> tuple[str, float]:
    """The name and the value of what an evaluation is judged by; NaN if it is not defined."""
    metric = config.metric_for_best
    return tally.main if metric is None else (metric, tally.figure(metric))


def _recorded(tally: ClassificationMetrics | NumberMetrics, config: RunConfig) -> dict[str, Any]:
    """The figures that a run records beside the loss; None for one that is not defined."""
    name, figure = main_figure(tally, config)
    return {**tally.figures, name: None if math.isnan(figure) else figure}
