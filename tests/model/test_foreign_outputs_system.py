"""Bundles of rerankers, of models of similarity and of independent labels give the scores of CrossEncoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bertnli_export.build import export_bundle
from bertnli_export.scorer import Scorer
from bertnli_export.verify import verify

from bertnli.model import pretrained
from tests.model.test_foreign_models import made_by_transformers
from tests.model.test_foreign_outputs import KINDS, PAIRS, by_cross_encoder, check_int8, values

pytestmark = pytest.mark.system  # an export each


@pytest.mark.parametrize("kind", ["reranker", "similarity", "independent"])
def test_a_bundle_gives_cross_encoders_scores(kind: str, tmp_path: Path) -> None:
    folder = made_by_transformers(tmp_path / "model", **KINDS[kind])
    export_bundle(pretrained.load(folder), tmp_path / "bundle")
    expected = by_cross_encoder(folder)
    scores = Scorer(tmp_path / "bundle", "cpu").score(PAIRS)
    np.testing.assert_allclose([values(score) for score in scores], expected, atol=1e-4)
    assert [score.truncated for score in scores] == [False] * 21 + [True]
    for score, row in zip(scores, expected.tolist(), strict=True):
        assert score.label is None
        named = list(zip(score.probabilities, row, strict=True)) if score.score is None else []
        assert list(score.labels) == [label for label, probability in named if probability > 0.5]
    figures = verify(tmp_path / "bundle", device="cpu")
    assert figures["score_error"] < 1e-3
    assert ("label_flips" in figures) == (expected.shape[1] > 1)


@pytest.mark.parametrize("kind", ["similarity", "independent"])
def test_int8_has_its_gate(kind: str, tmp_path: Path) -> None:
    check_int8(KINDS[kind], tmp_path)
