"""Training of families other than BERT: it learns, at any stage of ZeRO, and the result opens in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from bertnli.model import pretrained
from tests.model.test_families import ROWS, V3, of_eval, of_transformers, save, theirs_of
from tests.support.runs import losses, train

STARTS: dict[str, dict[str, Any]] = {
    "roberta": {"type_vocab_size": 1},
    "distilbert": {},
    "electra": {"embedding_size": 16},
    "ernie": {"use_task_id": True},
    "deberta-v2": V3 | {"conv_kernel_size": 3},
    "modernbert": {"local_attention": 8},
}


def start(folder: Path, model_type: str, auto: Any = AutoModelForSequenceClassification, **changes: Any) -> Path:
    row = next(row for row in ROWS if row.model_type == model_type)
    return save(theirs_of(row.config(**STARTS[model_type], **changes), auto), folder)


@pytest.mark.parametrize(
    ("model_type", "auto", "changes"),
    [
        ("roberta", AutoModel, {}),
        ("distilbert", AutoModelForSequenceClassification, {"num_labels": 5}),  # a new one takes its place
        ("electra", AutoModelForSequenceClassification, {}),
        ("deberta-v2", AutoModelForSequenceClassification, {}),
        ("modernbert", AutoModel, {"classifier_pooling": "mean"}),
    ],
)
def test_a_run_learns_and_leaves_what_transformers_reads(tmp_path, run, ranks, model_type, auto, changes):
    folder = start(tmp_path / "model", model_type, auto, **changes)
    labels = ["contradiction", "neutral", "entailment"]
    keys = {"dropout": 0.0, "learning_rate": 3e-3, "labels": labels, "max_steps": 50}
    train(run(model=str(folder), **keys), ranks, **{"data.max_train_pairs": 16})
    assert np.mean(losses(tmp_path / "run")[-5:]) < np.mean(losses(tmp_path / "run")[:5]) / 2
    source = pretrained.load(tmp_path / "run" / "model")
    assert list(source.config.labels) == labels and source.config.family == model_type
    np.testing.assert_allclose(of_eval(source), of_transformers(tmp_path / "run" / "model"), atol=1e-5)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert f"- {model_type}\n" in card and "With transformers:" in card


def test_a_new_classifier_keeps_the_layer_before_it(tmp_path):
    """As transformers does with ignore_mismatched_sizes=True."""
    for model_type in ("roberta", "distilbert", "electra"):
        folder = start(tmp_path / model_type, model_type, num_labels=5)
        before = pretrained.load(folder)
        after = pretrained.load(folder, labels=("yes", "no"), new_classifier=True)
        assert torch.equal(after.state["pooler.weight"], before.state["pooler.weight"])
        assert not after.has_classifier and after.build().classifier.weight.shape[0] == 2


@pytest.mark.parametrize("model_type", ["roberta", "ernie", "deberta-v2", "modernbert"])
def test_stages_of_zero_train_a_family_the_same(tmp_path, run, ranks, model_type):
    """Stage 3 gathers weights where they are used: one row of the token types, and of ERNIE's tasks; and DeBERTa's
    projections, for the tokens and for the positions."""
    folder = start(tmp_path / "model", model_type)
    for stage in (0, 3):
        train(run(f"z{stage}", model=str(folder), dropout=0.0, zero_stage=stage, max_steps=3), ranks)
    assert losses(tmp_path / "z3") == pytest.approx(losses(tmp_path / "z0"), rel=1e-5)
