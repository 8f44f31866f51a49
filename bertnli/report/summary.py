"""What `bertnli eval` found, as lines of text for a terminal or a log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bertnli.evaluation.slices import TITLES

_SHOWN = 3  # changed predictions; the report has more


def label_order_warning(found: Mapping[str, Any]) -> str | None:
    """The warning that the labels look swapped; None where they do not."""
    fitting = found["swapped_labels"]
    return fitting and (
        f"the labels look swapped: named {', '.join(fitting['labels'])} the model's outputs would be right on "
        f"{fitting['accuracy']:.1%} of the rows, and not on {found['accuracy']:.1%} as they are, "
        f"{', '.join(found['labels'])}; look at id2label in the model's config.json, and at the file's labels"
    )


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`found`: what `Evaluation.to_json` gave."""
    low, high = found["accuracy_interval"]
    yield f"accuracy: {found['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f}) on {found['rows']:,} rows"
    yield f"log loss: {found['loss']:.4f}; macro F1: {found['macro_f1']:.4f}; {found['pairs_per_second']:.0f} pairs/s"
    yield f"calibration: ECE {found['ece']:.4f}; Brier score {found['brier']:.4f}"
    if found["temperature"] != 1:
        yield f"  with its temperature, {found['temperature']:.4g}; without: " + "; ".join(
            f"{name} {found['without_temperature'][key]:.4f}"
            for name, key in (("ECE", "ece"), ("Brier score", "brier"), ("log loss", "loss"))
        )
    if fitted := found.get("calibration"):
        yield (
            f"  a temperature of {fitted['temperature']:.4g} was fitted on {fitted['rows']:,} rows of "
            f"{fitted['data']}: log loss there {fitted['loss_without']:.4f}, now {fitted['loss']:.4f}"
        )
    if other := found["against"]:
        low, high = other["accuracy_interval"]
        yield f"against {other['model']}: its accuracy {other['accuracy']:.4f} (95% interval {low:.4f} to {high:.4f})"
        yield (
            f"  {other['changed']:,} predictions differ; {other['only_this_right']:,} rows are right here alone, "
            f"{other['only_other_right']:,} there alone; McNemar's exact test: p = {other['p_value']:.3g}"
        )
        for one in other["changed_examples"][:_SHOWN]:
            yield f"  row {one['row']}: gold {one['gold']}, here {one['predicted']}, there {one['other']}"
    for name, row in zip(found["labels"], found["confusion"], strict=True):
        yield f"  gold {name}: " + ", ".join(f"{n:,} {p}" for p, n in zip(found["labels"], row, strict=True))
    for kind, table in found["slices"].items():
        yield f"accuracy by {TITLES[kind]}:"
        for one in table:
            low, high = one["accuracy_interval"]
            yield f"  {one['slice']}: {one['accuracy']:.4f} ({low:.4f} to {high:.4f}) on {one['rows']:,} rows"


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What `LabelledSet.measure` found beyond the evaluation's own figures, as lines of text."""
    gold = [sum(row) for row in found["confusion"]]
    if "premises" in found:
        largest = found["labels"][gold.index(max(gold))]
        what = "were shuffled over the rows" if found["premises"] == "shuffled" else "are not read by this model"
        yield (
            f"premises {what}: {largest} for every row would be right on {max(gold) / found['rows']:.4f}; what is "
            "above it comes from the hypotheses alone"
        )
    for name, labels in found.get("classes", {}).items():
        if labels != [name]:
            yield f"{name}: the probabilities of {' and '.join(labels)}, added"
    for column, values in found.get("by_column", {}).items():
        for value, one in values.items():
            recall = ", ".join(f"{share:.4f} of {label}" for label, share in one["recall"].items())
            yield f"  {column} {value}: {one['accuracy']:.4f} on {one['rows']:,} rows ({recall})"
