"""Bundles of families other than BERT: fp32's scores are transformers', int8's do not depend on the other pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bertnli_export.build import export_bundle
from bertnli_export.scorer import Scorer

from bertnli.evaluation.metrics import softmax
from bertnli.model import pretrained
from tests.model.test_families import PAIRS, ROWS, V3, of_transformers, save, theirs_of

pytestmark = pytest.mark.system


@pytest.mark.parametrize(
    ("model_type", "precision", "changes"),
    [
        ("roberta", "fp32", {"type_vocab_size": 1}),
        ("roberta", "int8", {"type_vocab_size": 1}),
        ("distilbert", "int8", {}),
        ("electra", "int8", {"embedding_size": 16}),
        ("deberta-v2", "fp32", V3),
        ("deberta-v2", "int8", V3),
        ("deberta-v2", "int8", V3 | {"conv_kernel_size": 3, "share_att_key": False}),
    ],
)
def test_a_bundle_scores_as_transformers(model_type: str, precision: str, changes: Any, tmp_path: Path) -> None:
    row = next(row for row in ROWS if row.model_type == model_type)
    folder = save(theirs_of(row.config(**changes)), tmp_path / "model")
    summary = export_bundle(pretrained.load(folder), tmp_path / "bundle", precision=precision)
    assert summary["fused_attention"] == summary["layers"] == 2
    scorer = Scorer(tmp_path / "bundle", "cpu")
    together = scorer.score(PAIRS)
    found = np.array([list(score.probabilities.values()) for score in together])
    within = {"fp32": 1e-4, "int8": 0.05}[precision]
    np.testing.assert_allclose(found, softmax(of_transformers(folder)), atol=within)
    assert [scorer.score([pair])[0] for pair in PAIRS[-6:]] == together[-6:]  # to the last bit
