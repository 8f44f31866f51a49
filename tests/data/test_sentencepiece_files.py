"""sentencepiece_files: what is refused; what is read is in test_hf_classes.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertnli.common.errors import InputError
from bertnli.data import sentencepiece_files
from bertnli.data.tokenizer import PairTokenizer


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2", "max_position_embeddings": 512}')
    (tmp_path / "spm.model").write_bytes(b"")
    with pytest.raises(InputError) as error:
        PairTokenizer.from_folder(tmp_path)
    assert "no tokenizer.json, so it is read with the library sentencepiece" in str(error.value)
    assert "pip install 'bertnli[export]'" in str(error.value)


@pytest.mark.parametrize(("content", "found"), [(b"\xff" * 9, "damaged"), (b"", "found an empty one")])
def test_a_damaged_file(content: bytes, found: str, tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece")
    file = tmp_path / "spm.model"
    file.write_bytes(content)
    with pytest.raises(InputError, match=found):
        sentencepiece_files.read(file)


def test_another_type_of_model(tmp_path: Path) -> None:
    library = pytest.importorskip("sentencepiece")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(["a man eats a cake", "the man is eating"] * 20),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=20,
        model_type="bpe",
        minloglevel=2,
        hard_vocab_limit=False,
    )
    with pytest.raises(InputError, match="type of the model; found BPE; expected Unigram"):
        sentencepiece_files.read(tmp_path / "spm.model")
