"""Windows of long premises: those of transformers, for every kind of vocabulary."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from bertnli.common.errors import InputError
from bertnli.data import tokenizer as tokenizers
from bertnli.data.tokenizer import PairTokenizer
from bertnli.data.windows import MOST_WINDOWS, WindowedPairs, encode_windows
from tests.support import tiny
from tests.support.family_vocabularies import byte_level, unigram

LONG = "Two men  wait; the dog, do not run to two trains [and] é two-handed. "
PAIRS = [
    (LONG * 9, "a dog"),
    ("two dogs", "two men wait for a train"),  # fits
    (LONG * 3, "a " * 16),
    (LONG * 9, "a " * 43 + "dog"),  # leaves no room, or less than the stride
    (LONG, "\u200b"),  # no token, for WordPiece
    ("\u200b", "a dog"),
    *(("a", "a " * length) for length in range(20, 46)),  # those that fill the pair fit, whatever the stride
    *((LONG[:length] * 9, "do") for length in range(1, 60, 2)),
]
LENGTH = 48


def folder_of(kind: str, folder: Path) -> Path:
    """A tokenizer as its family has it, that reads up to LENGTH tokens."""
    stated: dict[str, object] = {"model_max_length": LENGTH}
    if kind == "WordPiece":
        (folder / "vocab.txt").write_text("\n".join(tiny.word_pieces()) + "\n")
        config, stated["tokenizer_class"] = "bert", "BertTokenizer"
    elif kind == "BPE":
        byte_level(folder)
        config, stated["tokenizer_class"] = "roberta", "RobertaTokenizer"
    else:
        unigram(folder, set(LONG))
        config, stated["tokenizer_class"] = "xlm-roberta", "XLMRobertaTokenizer"
    (folder / "config.json").write_text(json.dumps({"model_type": config}))
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


def rows_of(found: WindowedPairs) -> list[list[list[int]]]:
    """The ids of the windows of each pair."""
    windows = [ids.tolist() for ids in np.split(found.encoded.ids, found.encoded.offsets[1:-1])]
    ends = np.cumsum(found.counts)
    return [windows[end - count : end] for end, count in zip(ends, found.counts, strict=True)]


@pytest.mark.parametrize("stride", [0, 1, 7, 32])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["WordPiece", "BPE", "Unigram"])
def test_they_are_those_of_transformers(kind: str, side: str, stride: int, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path)
    theirs = AutoTokenizer.from_pretrained(folder, truncation_side=side)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": side}))
    ours = PairTokenizer.from_folder(folder)
    assert ours.max_length == LENGTH and ours.cuts_beginnings == (side == "left")
    found = encode_windows(ours, *map(list, zip(*PAIRS, strict=True)), stride)
    several = 0
    for number, ((premise, hypothesis), windows) in enumerate(zip(PAIRS, rows_of(found), strict=True)):
        room = LENGTH - theirs.num_special_tokens_to_add(pair=True)
        len_p, len_h = (len(theirs(text, add_special_tokens=False).input_ids) for text in (premise, hypothesis))
        if len_p + len_h > room and room - len_h <= stride:  # their library has an error for it
            assert windows == []
            continue
        expected = theirs(
            premise,
            hypothesis,
            max_length=LENGTH,
            truncation="only_first",
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_token_type_ids=True,
        )
        order = slice(None, None, -1 if side == "left" else 1)  # theirs begin with the one at the kept side
        assert windows == expected.input_ids[order]
        several += len(windows) > 1
        at = int(found.counts[:number].sum())
        for window in range(len(windows)):
            encoding = expected.encodings[order][window]
            theirs_at = [span for span, of in zip(encoding.offsets, encoding.sequence_ids, strict=True) if of == 0]
            begin, end = found.characters[at + window]
            assert theirs_at or (begin, end) == (0, 0)
            assert premise[begin:end] == (premise[theirs_at[0][0] : theirs_at[-1][1]] if theirs_at else "").strip()
            types = int(found.encoded.first_segment[at + window])
            assert expected.token_type_ids[order][window] == [0] * types + [1] * (len(windows[window]) - types)
    assert several > 20 and not found.truncated.any()


def test_a_text_that_is_not_read_to_its_end_counts_as_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "MAX_CHARACTERS", 100)
    for side in ("right", "left"):
        folder = folder_of("WordPiece", tmp_path)
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": side}))
        text = "a dog " * 30
        found = encode_windows(PairTokenizer.from_folder(folder), [text, "a dog"], ["a man", "a man"], 4)
        assert found.truncated.tolist() == [True, False]
        spans = found.characters[: found.counts[0]]
        assert (spans[0][0], spans[-1][1]) == ((0, 100) if side == "right" else (80, 179))


def test_a_window_of_blanks_alone_has_no_characters(tmp_path: Path) -> None:
    ours = PairTokenizer.from_folder(folder_of("BPE", tmp_path))
    found = encode_windows(ours, ["a" + " " * 90 + "b"], ["do"], 0)  # every blank is a token
    assert [end - begin for begin, end in found.characters] == [1, 0, 1]
    assert found.characters[1][0] <= found.characters[2][0]


def test_no_pairs_and_no_text(tmp_path: Path) -> None:
    ours = PairTokenizer.from_folder(folder_of("WordPiece", tmp_path))
    assert len(encode_windows(ours, [], [], 4).encoded) == 0
    with pytest.raises(InputError, match="premise of pair 0; found a lone surrogate"):
        encode_windows(ours, ["\ud800"], ["a"], 4)


def test_a_premise_has_so_many_windows_at_most(tmp_path: Path) -> None:
    """A window with one new token after another would take the memory of thousands of rows."""
    tokenizer = PairTokenizer.from_folder(folder_of("WordPiece", tmp_path))
    hypothesis = "a " * (tokenizer.room - 33)  # leaves 33 tokens, of which 32 are the stride
    most = MOST_WINDOWS + 32  # tokens of a premise: a window for each new one
    pairs = [("two " * most, hypothesis), ("two " * (most + 1), hypothesis), ("a dog", "a dog")]
    found = encode_windows(tokenizer, *map(list, zip(*pairs, strict=True)), 32)
    assert found.counts.tolist() == [MOST_WINDOWS, 0, 1]
    assert len(found.encoded) == MOST_WINDOWS + 1
