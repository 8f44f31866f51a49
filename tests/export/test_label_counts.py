"""`score` prints an accuracy only if the model knows the label of every labelled row."""

from __future__ import annotations

from typing import Any

import pytest
from bertnli_export.label_counts import LabelCounts

from tests.support import tiny
from tests.support.scored_files import CHUNK, Stop, score, stop_after

pytestmark = pytest.mark.usefixtures("small_chunks")


def table(labels: list[str]) -> str:
    return "premise\thypothesis\tlabel\n" + "".join(f"a man\ta dog {n}\t{label}\n" for n, label in enumerate(labels))


@pytest.mark.parametrize(
    ("labels", "known", "unknown"),
    [
        (["entailment", "Neutral", "-", "", "contradiction"], 3, {}),
        (["entailment", "not_entailment", "not_entailment", "-"], 1, {"not_entailment": 2}),
        (["non-entailment", "entailment"], 1, {"non-entailment": 1}),
        (["5.000", "4.750"], 0, {"5.000": 1, "4.750": 1}),
        (["0", "1", "2", "-1"], 0, {"0": 1, "1": 1, "2": 1}),
        (["-", "", " "], 0, {}),
    ],
)
def test_an_accuracy_is_of_all_labelled_rows_or_there_is_none(tmp_path, labels, known, unknown) -> None:
    (tmp_path / "in.tsv").write_text(table(labels))
    summary = score(tmp_path / "in.tsv", tmp_path / "out.tsv")
    labelled = known + sum(unknown.values())
    assert summary.get("labelled", 0) == labelled
    assert ("accuracy" in summary) == (labelled > 0 and not unknown)
    assert ("no_accuracy" in summary) == bool(unknown)
    if unknown:
        assert f"the model knows the labels of {known} of {labelled} labelled rows" in summary["no_accuracy"]
        assert all(f"{label!r} ({rows} row" in summary["no_accuracy"] for label, rows in unknown.items())
        assert (summary["labels"]["known"], summary["labels"]["unknown_labels"]) == (known, unknown)
    assert score(tmp_path / "in.tsv", tmp_path / "out.tsv") == summary | {"already_finished": True}


def test_a_run_that_was_stopped_counts_the_same(tmp_path) -> None:
    labels = [tiny.SNLI_LABELS[number % 3] if number % 5 else f"label {number % 150}" for number in range(4 * CHUNK)]
    (tmp_path / "in.tsv").write_text(table(labels))
    whole = score(tmp_path / "in.tsv", tmp_path / "whole.tsv")
    with pytest.raises(Stop):
        score(tmp_path / "in.tsv", tmp_path / "out.tsv", progress=stop_after(3))
    resumed = score(tmp_path / "in.tsv", tmp_path / "out.tsv")
    assert resumed["resumed_at"] > 0
    for key in ("labelled", "no_accuracy", "labels"):
        assert resumed[key] == whole[key]
    assert "accuracy" not in resumed


def test_partitions_are_put_together() -> None:
    parts: list[dict[str, Any]] = [
        LabelCounts(4, 3).summary(),
        {"rows": 3},
        LabelCounts(1, 1, 5, {"x": 2, "y" * 50: 3}).summary(),
        LabelCounts(0, 0, 1, {"x": 1}).summary(),
    ]
    total = LabelCounts()
    for part in parts[:2]:
        total.add(LabelCounts.of_summary(part))
    assert total.summary() == {"labelled": 4, "accuracy": 0.75}
    for part in parts[2:]:
        total.add(LabelCounts.of_summary(part))
    assert (total.known, total.correct, total.unknown) == (5, 4, 6)
    assert total.unknown_labels == {"x": 3, "y" * 40 + "…": 3}


def test_only_so_many_different_labels_are_kept() -> None:
    counts = LabelCounts()
    for number in range(300):
        counts.add_unknown(str(number))
    other = LabelCounts()
    other.add(counts)
    other.add(counts)
    assert (other.unknown, len(other.unknown_labels), other.unknown_labels["5"]) == (600, 100, 2)
    assert "and others" in other.summary()["no_accuracy"]
