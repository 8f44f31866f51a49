"""Small vocabularies of other kinds than WordPiece, in the files that models of their families have."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


def byte_level(folder: Path) -> int:
    """Writes vocab.json and merges.txt; returns the number of ids."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIALS, "<mask>", *alphabet, "Ġt", "Ġtw", "do"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nĠ t\nĠt w\nd o\n")
    return len(tokens)


def unigram(folder: Path, letters: set[str]) -> int:
    """Writes a tokenizer.json as sentencepiece's models are converted to; returns the number of ids."""
    scored = [(letter, -4.0) for letter in sorted(letters | {"▁"})]
    pieces = [(token, 0.0) for token in SPECIALS] + scored + [("▁two", -5.0)]
    tokenizer = Tokenizer(models.Unigram([*pieces, ("<mask>", 0.0)], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens([*SPECIALS, "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(pieces) + 1
