"""Models with their family's own tokenizer, from the files to the logits, and in what we write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertnli.model import pretrained
from tests.model.test_families import PAIRS as OF_BERT
from tests.model.test_families import ROWS, SIZES, of_eval, of_transformers, save, theirs_of
from tests.support import family_vocabularies
from tests.support.family_vocabularies import byte_level

PAIRS = [tuple(text.replace("[PAD]", "<pad>") for text in pair) for pair in OF_BERT]


def unigram(folder: Path) -> int:
    return family_vocabularies.unigram(folder, set("".join(map("".join, PAIRS))))


CASES: list[tuple[str, str, Any, dict[str, Any]]] = [
    ("roberta", "RobertaTokenizer", byte_level, {"type_vocab_size": 1}),
    ("xlm-roberta", "XLMRobertaTokenizer", unigram, {"type_vocab_size": 1}),
    ("camembert", "CamembertTokenizer", unigram, {"type_vocab_size": 1}),
    ("bert", "XLMRobertaTokenizer", unigram, {"type_vocab_size": 2}),  # multilingual MiniLM
]


@pytest.mark.parametrize(
    ("model_type", "tokenizer_class", "write", "changes"), CASES, ids=[f"{case[1]} of {case[0]}" for case in CASES]
)
def test_logits_are_those_of_transformers(model_type, tokenizer_class, write, changes, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.model.test_families.PAIRS", PAIRS)
    row = next(row for row in ROWS if row.model_type == model_type)
    folder = save(theirs_of(row.config(**changes, vocab_size=300)), tmp_path / "model")
    (folder / "vocab.txt").unlink()
    assert write(folder) <= 300
    room = SIZES["max_position_embeddings"] - (0 if model_type == "bert" else 2)
    stated = {"tokenizer_class": tokenizer_class, "model_max_length": room}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    source, expected = pretrained.load(folder), of_transformers(folder)
    np.testing.assert_allclose(of_eval(source), expected, atol=1e-5)
    assert (source.tokenizer.max_length, source.tokenizer.has_token_types) == (room, False)
    pretrained.save(source.build(), source.tokenizer, tmp_path / "ours")
    np.testing.assert_allclose(of_transformers(tmp_path / "ours"), expected, atol=1e-5)
    np.testing.assert_allclose(of_eval(pretrained.load(tmp_path / "ours")), expected, atol=1e-5)
