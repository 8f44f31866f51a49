"""Training on soft labels: a file that `bertnli score` wrote is a training file as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bertnli_export.score import score_file

from bertnli.common.errors import InputError
from bertnli.run.folder import read_metrics
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from tests.support import tiny
from tests.support.runs import losses, train


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 rows as `bertnli score` writes them; 10 have no gold label."""
    folder = tmp_path_factory.mktemp("scores")
    rows = [
        {**row, "gold_label": "-" if number < 10 else row["gold_label"]}
        for number, row in enumerate(row for row in tiny.snli_rows(100) if row["gold_label"] != "-")
    ][:60]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(tiny.bundle(), folder / "pairs.jsonl", folder / "scores.jsonl", device="cpu")
    return folder / "scores.jsonl"


def test_a_step_has_torchs_loss_of_the_mixed_targets(tmp_path, run, ranks, scores):
    """The only step of a run without dropout and learning: torch's loss of the starting model's logits."""
    keys = {"max_steps": 1, "global_batch_size": 64, "dropout": 0.0, "loss": {"soft": 0.25, "label_smoothing": 0.1}}
    lines: list[str] = []
    path = run(data={"train": str(scores)}, micro_batch_tokens=100, **keys)
    training.train(load_run(path), ranks, lines.append)
    assert any("10 of these pairs have soft labels alone" in line for line in lines)
    rows = [json.loads(line) for line in scores.read_text().splitlines()]
    names = ("entailment", "neutral", "contradiction")
    targets = torch.tensor([[row[f"p_{name}"] for name in names] for row in rows], dtype=torch.float64)
    targets /= targets.sum(1, keepdim=True)
    for row, target in zip(rows, targets, strict=True):
        if row["gold_label"] != "-":
            target *= 0.25
            target[names.index(row["gold_label"])] += 0.75
    logits = start_logits(tmp_path, rows)
    expected = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, targets.float())
    assert losses(tmp_path / "run") == pytest.approx([expected.item()], rel=1e-5)
    [row] = read_metrics(tmp_path / "run" / "metrics.jsonl")
    gold = np.where([row["gold_label"] != "-" for row in rows], [*map(gold_index, rows)], targets.argmax(1))
    assert row["accuracy"] == pytest.approx((logits.argmax(1).numpy() == gold).mean())


def start_logits(tmp_path: Path, rows: list[dict[str, str]]) -> torch.Tensor:
    from bertnli.model import pretrained
    from bertnli.model.predictor import TorchPredictor

    source = pretrained.load(tmp_path / "start")
    pairs = zip(*((row["sentence1"], row["sentence2"]) for row in rows), strict=True)
    return torch.from_numpy(TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*pairs))


def gold_index(row: dict[str, str]) -> int:
    names = ("entailment", "neutral", "contradiction")
    return names.index(row["gold_label"]) if row["gold_label"] in names else -1


def test_rows_to_evaluate_on_need_gold_labels(run, ranks, scores):
    with pytest.raises(InputError, match=r"data.eval.holdout; found 10 pairs of data.train with soft labels alone"):
        train(run(data={"train": str(scores), "eval": {"holdout": 5}}, loss={"soft": 1}), ranks)


def test_probabilities_that_are_not_read_are_said(run, ranks, scores):
    lines: list[str] = []
    training.train(load_run(run(data={"train": str(scores)}, max_steps=1)), ranks, lines.append)
    assert any("its columns p_… are not read; loss: {soft: 1} trains on these" in line for line in lines)
