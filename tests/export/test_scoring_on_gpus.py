"""Scoring on GPUs from the device that the user asks for to the scores, with stand-ins for two of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bertnli_export import pool
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer

from tests.support import tiny
from tests.support.cuda_operators import stand_in_gpu


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_gpu(monkeypatch, count=2)
    monkeypatch.setattr(pool, "_WORKER", "tests.support.cuda_worker")


def test_a_scorer_runs_on_the_gpu_that_is_named() -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(20)]
    expected = Scorer(tiny.bundle(), "cpu").logits(*zip(*pairs, strict=True))
    for asked, description in (("auto", "CUDA GPU 0"), ("cuda", "CUDA GPU 0"), ("cuda:1", "CUDA GPU 1")):
        scorer = Scorer(tiny.bundle(), asked)
        assert scorer.session.description == description
        np.testing.assert_allclose(scorer.logits(*zip(*pairs, strict=True)), expected, atol=1e-5)


def test_a_file_is_scored_on_one_gpu_or_on_all_with_the_same_bytes(tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(60)))
    seen: list[str] = []
    for asked in ("auto", "cuda:1"):
        output = tmp_path / f"{asked}.jsonl"
        summary = score_file(
            tiny.bundle(), file, output, device=asked, progress=lambda rows, note: seen.append(note.split(" on ")[1])
        )
        assert (summary["device"], summary["rows"], summary["errors"]) == ("cuda", 60, 0)
    assert seen == ["CUDA GPU 0 + CUDA GPU 1", "CUDA GPU 1"]
    assert (tmp_path / "auto.jsonl").read_bytes() == (tmp_path / "cuda:1.jsonl").read_bytes()
