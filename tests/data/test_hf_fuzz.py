"""Whatever a folder's files say, its tokenizer is read or refused with an InputError, for every class."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from bertnli.common.errors import InputError
from bertnli.data import pair_template
from bertnli.data.hf_classes import CLASSES, FILE_CLASS, OF_MODEL
from bertnli.data.tokenizer import PairTokenizer
from tests.data.test_hf_tokenizer import json_values

NAMES = ["<s>", "<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]", "<mask>"]
WORDS = {word: at for at, word in enumerate([*NAMES, "a", "b", "▁", "##a", "NEW"])}
PIECES = [(word, -float(at)) for word, at in WORDS.items()]
KEYS = [
    *("add_prefix_space", "do_lower_case", "keep_accents", "split_by_punct", "strip_accents", "unk_id"),
    *("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder", "model_max_length"),
    *("bos_token", "eos_token", "cls_token", "sep_token", "pad_token", "unk_token", "mask_token"),
]
MODELS = {
    "WordPiece": models.WordPiece(WORDS, unk_token="[UNK]"),
    "BPE": models.BPE(WORDS, []),
    "Unigram": models.Unigram(PIECES, unk_id=3),
}


def saved(kind: str, separators: int) -> str:
    made = Tokenizer(MODELS[kind])
    pair_template.build(made, "<s>", "</s>", separators=separators, has_types=False)
    return str(made.to_str())


@given(
    name=st.sampled_from([*CLASSES, FILE_CLASS]),
    model_type=st.sampled_from([*OF_MODEL, "bert"]),
    stated=st.dictionaries(st.sampled_from(KEYS), json_values | st.sampled_from([*NAMES, 3, 10**9]), max_size=4),
    more=st.dictionaries(st.sampled_from(["pad_token_id", "max_position_embeddings"]), json_values, max_size=2),
    file=st.sampled_from(["tokenizer.json", "slow"]),
    damaged=st.sampled_from([None, "{", "[]", "a b c\n"]),
)
def test_it_is_read_or_refused(
    name: str, model_type: str, stated: dict[str, Any], more: dict[str, Any], file: str, damaged: str | None
) -> None:
    kind = CLASSES.get(name)
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(InputError):
        folder = Path(place)
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 30, **more}))
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **stated}))
        if file == "tokenizer.json" or kind is None:
            text = saved(kind.model if kind else "BPE", kind.separators if kind else 1)
            (folder / "tokenizer.json").write_text(text if damaged is None else damaged)
        else:
            contents = {"vocab.json": json.dumps(WORDS), "merges.txt": "", "vocab.txt": "\n".join(WORDS)}
            for part in kind.files:
                (folder / part).write_text(contents.get(part, "") if damaged is None else damaged)
        pairs = PairTokenizer.from_folder(folder)
        assert len(pairs.encode(["a NEW"], ["b"])) == 1
        assert PairTokenizer.from_folder(folder).fingerprint == pairs.fingerprint
