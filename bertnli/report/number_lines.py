"""The results of a model that gives a score, or independent labels, as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from bertnli.evaluation.ranking import K

NAMES = {
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's rank correlation",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "average_precision": "average precision",
    "micro_average_precision": "micro average precision",
    "roc_auc": "ROC AUC",
    "f1": "F1",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "exact_match": "rows with exactly the right labels",
    "log_loss": "mean log loss",
    f"mrr_at_{K}": f"MRR@{K}",
    f"ndcg_at_{K}": f"nDCG@{K}",
    "map": "mean average precision",
}
"""The figures of `ScoreMetrics` and `SetMetrics`, in the order in which they are shown."""


def has_numbers(found: Mapping[str, Any]) -> bool:
    """Whether they are the results of such a model, and not of one that gives a pair one label."""
    return "problem_type" in found


def main_figure(found: Mapping[str, Any]) -> str:
    """The key of the figure that is shown first."""
    return "average_precision" if "average_precision" in found else "spearman"


def shown(value: float | None) -> str:
    """A figure as text. None and NaN: it is not defined, as a correlation with equal scores is not."""
    return "not defined" if value is None or math.isnan(value) else f"{value:.4f}"


def known(found: Mapping[str, Any]) -> dict[str, str]:
    """Name -> value, as text, of every figure that `found` has."""
    return {name: shown(found[key]) for key, name in NAMES.items() if key in found}


def cut(found: Mapping[str, Any]) -> str:
    """How many pairs were longer than the model reads, and how a bundle reads them whole; empty if there are none."""
    if not (number := found.get("truncated")):
        return ""
    windows = "" if found.get("premises") == "not read" else "; score --windows premise reads whole premises"
    return f"{number:,} pairs are longer than {found['max_length']} tokens, and were cut{windows}"


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What `evaluate_numbers` returned, for a terminal."""
    main = main_figure(found)
    positive = f", {found['positive_rows']:,} of them with the label 1" if "positive_rows" in found else ""
    yield f"{NAMES[main]}: {shown(found[main])} on {found['rows']:,} rows{positive}"
    left_out = {label: rows["left out"] for label, rows in found["rows_by_label"].items() if rows["left out"]}
    if left_out:
        yield "  rows left out: " + ", ".join(f"{rows:,} {label}" for label, rows in left_out.items())
    if pairs_cut := cut(found):
        yield f"  {pairs_cut}"
    others = known({key: value for key, value in found.items() if key != main and value is not None})
    yield "; ".join(
        [*(f"{name}: {value}" for name, value in others.items()), f"{found['pairs_per_second']:.0f} pairs/s"]
    )
    if found["temperature"] != 1:
        yield f"  with the model's temperature, {found['temperature']:.4g}"
    if fitted := found.get("calibration"):
        yield (
            f"  a temperature of {fitted['temperature']:.4g} was fitted on {fitted['rows']:,} rows of "
            f"{fitted['data']}: log loss on them {fitted['loss_without']:.4f} before, {fitted['loss']:.4f} with it"
        )
    if ranking := found.get("ranking"):
        figures = "; ".join(f"{name}: {value}" for name, value in known(ranking).items())
        yield f"ranked within the {ranking['groups']:,} groups of column {ranking['group']!r}: {figures}"
    for label, one in found.get("per_label", {}).items():
        figures = ", ".join(
            f"{NAMES.get(key, key)} {shown(one[key])}" for key in ("precision", "recall", "f1", "average_precision")
        )
        yield f"  {label}: {figures} ({one['rows']:,} rows)"


def notes(found: Mapping[str, Any]) -> Iterator[str]:
    """What a reader of the figures should know."""
    if "premises" in found:
        what = "were shuffled over the rows" if found["premises"] == "shuffled" else "are not read by this model"
        yield f"premises {what}: what these figures show comes from the hypotheses alone"
    if found.get("activation") == "sigmoid" and found["mse"] is None and found["rows"]:
        gold = found["gold"]
        yield (
            f"the gold scores are from {gold['lowest']:g} to {gold['highest']:g}, and the model's between 0 and 1: "
            "only correlations and ranks compare the two"
        )
    ranking = found.get("ranking")
    if ranking and ranking["without_relevant"]:
        yield f"{ranking['without_relevant']:,} groups have no relevant row; each counts 0"
    if ranking and ranking["map"] is None:
        yield "only gold scores of 0 and 1 say which rows are relevant: without them no MRR and no average precision"
