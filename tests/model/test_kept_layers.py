"""Some blocks of a model: what a model of these blocks computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import transformers

from bertnli.common.errors import InputError
from bertnli.model import pretrained
from bertnli.model.kept_layers import with_layers
from bertnli.model.predictor import TorchPredictor
from tests.support import tiny

PAIRS = ["A man run on a beach.", "Two dogs sing loudly."], ["A man sing loudly.", "An old couple are sleeping."]


def test_it_is_transformers_model_of_these_blocks(tmp_path: Path) -> None:
    folder = tiny.hf_folder(tmp_path / "model", num_layers=4)
    kept = with_layers(pretrained.load(folder), (1, 3))
    assert kept.config.num_layers == 2 and "keep_layers: blocks 1, 3 of 4" in kept.notes
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    theirs.bert.encoder.layer = theirs.bert.encoder.layer[1::2]
    inputs = transformers.AutoTokenizer.from_pretrained(folder)(*PAIRS, padding=True, return_tensors="pt")
    expected = theirs(**inputs).logits.detach().numpy()
    model = kept.build()
    np.testing.assert_allclose(TorchPredictor(model, kept.tokenizer, "cpu").logits(*PAIRS), expected, atol=1e-5)
    pretrained.save(model, kept.tokenizer, tmp_path / "saved")
    again = pretrained.load(tmp_path / "saved")
    assert again.config.num_layers == 2 and again.state.keys() == kept.state.keys()


@pytest.mark.parametrize("kept", [(), (1, 1), (1, 0), (0, 2)])
def test_other_numbers_are_refused(tmp_path: Path, kept: tuple[int, ...]) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path / "model"))
    with pytest.raises(InputError, match=r"keep_layers; found .*; expected numbers from 0 to 1, asc.*: \[1\]"):
        with_layers(source, kept)
