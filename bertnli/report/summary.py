"""The results of `bertnli eval` as lines of text, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bertnli.evaluation.slices import TITLES
from bertnli.report import number_lines

_SHOWN = 3  # changed predictions that are printed; the report has more


def label_order_warning(found: Mapping[str, Any]) -> str | None:
    """A warning if another order of the label names fits much better; None otherwise."""
    fitting = found.get("swapped_labels")
    return fitting and (
        f"the labels look swapped: in the order {', '.join(fitting['labels'])} the model's outputs would be right on "
        f"{fitting['accuracy']:.1%} of the rows, in the present order, {', '.join(found['labels'])}, on only "
        f"{found['accuracy']:.1%}; check id2label in the model's config.json, and the labels in the file"
    )


def headline(found: Mapping[str, Any]) -> tuple[str, str]:
    """The first figure of the results: its name and its value, as text."""
    if number_lines.has_numbers(found):
        main = number_lines.main_figure(found)
        name = number_lines.NAMES[main]
        return name[0].upper() + name[1:], f"{number_lines.shown(found[main])} on {found['rows']:,} rows"
    low, high = found["accuracy_interval"]
    return "Accuracy", f"{found['accuracy']:.4f} ({low:.4f} to {high:.4f}) on {found['rows']:,} rows"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The results of `LabelledSet.measure`."""
    if number_lines.has_numbers(found):
        yield from number_lines.lines(found)
        return
    low, high = found["accuracy_interval"]
    yield f"accuracy: {found['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}) on {found['rows']:,} rows"
    left_out = {label: rows["left out"] for label, rows in found["rows_by_label"].items() if rows["left out"]}
    if left_out:
        yield "  rows left out: " + ", ".join(f"{rows:,} {label}" for label, rows in left_out.items())
    if pairs_cut := number_lines.cut(found):
        yield f"  {pairs_cut}"
    yield f"log loss: {found['loss']:.4f}; macro F1: {found['macro_f1']:.4f}; {found['pairs_per_second']:.0f} pairs/s"
    yield f"calibration: ECE {found['ece']:.4f}; Brier score {found['brier']:.4f}"
    if found["temperature"] != 1:
        yield f"  with the model's temperature, {found['temperature']:.4g}; without it: " + "; ".join(
            f"{name} {found['without_temperature'][key]:.4f}"
            for name, key in (("ECE", "ece"), ("Brier score", "brier"), ("log loss", "loss"))
        )
    if fitted := found.get("calibration"):
        yield (
            f"  a temperature of {fitted['temperature']:.4g} was fitted on {fitted['rows']:,} rows of "
            f"{fitted['data']}: log loss on them {fitted['loss_without']:.4f} before, {fitted['loss']:.4f} with it"
        )
    if other := found["against"]:
        low, high = other["accuracy_interval"]
        yield f"against {other['model']}: its accuracy {other['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})"
        yield (
            f"  {other['changed']:,} predictions differ; right only in this model: {other['only_this_right']:,}, "
            f"only in the other: {other['only_other_right']:,}; McNemar's exact test: p = {other['p_value']:.3g}"
        )
        for one in other["changed_examples"][:_SHOWN]:
            yield f"  row {one['row']}: gold {one['gold']}, this model {one['predicted']}, the other {one['other']}"
    for name, row in zip(found["labels"], found["confusion"], strict=True):
        yield f"  gold {name}: " + ", ".join(f"{n:,} {p}" for p, n in zip(found["labels"], row, strict=True))
    for kind, table in found["slices"].items():
        yield f"accuracy by {TITLES[kind]}:"
        for one in table:
            low, high = one["accuracy_interval"]
            yield f"  {one['slice']}: {one['accuracy']:.4f} ({low:.4f} to {high:.4f}) on {one['rows']:,} rows"


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """The results that `LabelledSet.measure` adds to those of the evaluation."""
    if number_lines.has_numbers(found):
        yield from number_lines.notes(found)
        return
    gold = [sum(row) for row in found["confusion"]]
    if "premises" in found:
        largest = found["labels"][gold.index(max(gold))]
        what = "were shuffled over the rows" if found["premises"] == "shuffled" else "are not read by this model"
        yield (
            f"premises {what}: always predicting {largest} would have accuracy {max(gold) / found['rows']:.4f}; the "
            "accuracy above it comes from the hypotheses alone"
        )
    for name, labels in found.get("classes", {}).items():
        if labels != [name]:
            yield f"{name}: the sum of the probabilities of {' and '.join(labels)}"
    for column, values in found.get("by_column", {}).items():
        for value, one in values.items():
            recall = ", ".join(f"{share:.4f} of {label}" for label, share in one["recall"].items())
            yield f"  {column} {value}: {one['accuracy']:.4f} on {one['rows']:,} rows ({recall})"
