"""Writes report.html, one file that opens in any browser without a network and without scripts.

A template (templates/) is filled with the results of `evaluate` and the rows of metrics.jsonl; sections without content
are omitted. All text from data, labels and commands is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bertnli.data.labelled import RowsByLabel
from bertnli.evaluation import slices
from bertnli.report import charts, number_lines, summary
from bertnli.report.rendering import Json, templates, write_file


def write_report(
    path: Path,
    *,
    title: str,
    figures: Mapping[str, str],
    metrics: Sequence[Json] = (),
    evaluations: Mapping[str, Json] = {},
    rows_by_label: Mapping[str, RowsByLabel] = {},
    sources: Sequence[Json] = (),
    provenance: Mapping[str, str] = {},
    notes: Sequence[str] = (),
) -> None:
    """Write one self-contained HTML file, complete or not at all.

    figures: name -> text, shown first. metrics: rows of metrics.jsonl, drawn as curves. evaluations: data set -> result
    of `LabelledSet.measure` or of metrics' `to_json`. rows_by_label: of each data file. sources: of
    several data sets, or weighted ones, how much of each an epoch has (`TrainingData.table`).
    provenance: see `provenance()`. notes: licences and disclosures (`notes_about`); URLs in them become links.

    Raises RunError if the file cannot be written.
    """
    page = templates(autoescape=True).get_template("report.html.j2")
    text = page.render(
        title=title,
        figures=figures,
        charts=training_charts(metrics),
        size=charts,
        reliability=charts.reliability,
        label_order_warning=summary.label_order_warning,
        slice_titles=slices.TITLES,
        number_figures=number_lines.known,
        pairs_cut=number_lines.cut,
        evaluations=evaluations,
        rows_by_label=rows_by_label,
        sources=sources,
        provenance=provenance,
        notes=notes,
    )
    write_file(path, text.lstrip())


def training_charts(metrics: Sequence[Json]) -> list[charts.Chart]:
    """Charts of loss, held-out figures, learning rate and speed over the steps, for those that `metrics` has."""
    loss = charts.Series.of("each step", metrics, "loss", "faint")
    speed = charts.Series.of("each step", metrics, "pairs_per_second", "faint")

    def of(figure: str) -> charts.Series:
        return charts.Series.of(number_lines.NAMES[figure], metrics, f"eval_{figure}", "marks")

    def by_data_set(figure: str, style: charts.LineStyle = "marks") -> list[charts.Series]:
        keys = dict.fromkeys(key for row in metrics for key in row if key.startswith(f"{figure}/"))
        return [charts.Series.of(key.removeprefix(f"{figure}/"), metrics, key, style) for key in keys]

    drawn = [
        charts.chart(
            "Loss",
            [loss, loss.smoothed("training, mean"), charts.Series.of("evaluation", metrics, "eval_loss", "marks")],
        ),
        charts.chart("Loss by data set, mean", [one.smoothed(one.name) for one in by_data_set("loss", "line")]),
        charts.chart("Loss of each evaluation", by_data_set("eval_loss")),
        charts.chart("Accuracy of each evaluation", by_data_set("eval_accuracy"), percent=True),
        charts.chart("Accuracy", [charts.Series.of("evaluation", metrics, "eval_accuracy", "marks")], percent=True),
        charts.chart("Correlation with the gold scores", [of("spearman"), of("pearson")]),
        charts.chart("Average precision", [of("average_precision")]),
        charts.chart("F1", [of("micro_f1"), of("macro_f1")]),
        charts.chart("Learning rate", [charts.Series.of("learning rate", metrics, "learning_rate")], from_zero=True),
        charts.chart("Pairs per second", [speed, speed.smoothed("training, mean")], from_zero=True),
    ]
    return [chart for chart in drawn if chart is not None]
