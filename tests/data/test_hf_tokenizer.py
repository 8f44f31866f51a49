"""hf_tokenizer: folders of others give the ids and token types of transformers' AutoTokenizer, or are refused."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from bertnli.common.errors import InputError
from bertnli.data.tokenizer import PairTokenizer

BERTS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OTHERS = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
ROLES = ["pad_token", "unk_token", "cls_token", "sep_token", "mask_token"]
LETTERS = [*"abcdemnopstABCDEé.,<>[]/中文", "the", "The", "man"]
VOCABULARY = [*BERTS, *OTHERS, *LETTERS, *(f"##{letter}" for letter in LETTERS if len(letter) == 1)]
ROOM = 4  # embeddings beyond the vocabulary
POSITIONS = 24
CLASSES = ["BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizerFast", "SqueezeBertTokenizer"]
PAIRS = [
    ("The man", "the MAN é"),
    ("e\u0301 中文的", "a  b\u00a0c\u200bd"),
    ("[SEP] a [MASK] <s>", "</s>b<mask> [PAD]<pad>"),
    ("NEW news [e1]x new", "x [E1] NEW"),
    ("a b c d e " * 8, "m n o p s t"),
    ("The", "the man a b c d e " * 9),
    ("m n o p s t " * 5, "a b c d e " * 5),
    ("", "a"),
]


def folder_of(path: Path, files: dict[str, Any]) -> Path:
    """Texts as they are, tokenizers by their own method, anything else as JSON."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, Tokenizer):
            content.save(str(path / name))
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def config(**more: Any) -> dict[str, Any]:
    sizes = {"vocab_size": len(VOCABULARY) + ROOM, "max_position_embeddings": POSITIONS}
    return {"model_type": "bert", "transformers_version": "5.0.0", **sizes, **more}


def tokenizer_json(
    normalizer: dict[str, Any], names: list[str], *, types: bool = True, special: bool = True
) -> Tokenizer:
    """What a training program saves: BERT's parts, with these flags and names."""
    made = Tokenizer(models.WordPiece({word: number for number, word in enumerate(VOCABULARY)}, unk_token=names[1]))
    made.normalizer = normalizers.BertNormalizer(**normalizer)
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    if special:
        made.add_special_tokens(names)
    first, separator, second = names[2], names[3], int(types)
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {separator}",
        pair=f"{first} $A {separator} $B:{second} {separator}:{second}",
        special_tokens=[(token, VOCABULARY.index(token)) for token in (first, separator)],
    )
    return made


def assert_as_transformers(folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = PairTokenizer.from_folder(folder)
    length = min(theirs.model_max_length, POSITIONS)
    assert ours.max_length == length
    batch = theirs(*map(list, zip(*PAIRS, strict=True)), truncation=True, max_length=length)
    encoded = ours.encode(*zip(*PAIRS, strict=True))
    for at, ids in enumerate(batch["input_ids"]):
        begin, end = encoded.offsets[at : at + 2]
        assert encoded.ids[begin:end].tolist() == ids, PAIRS[at]
        types = batch["token_type_ids"][at] if "token_type_ids" in batch else [0] * len(ids)
        first = int(encoded.first_segment[at])
        assert [0] * first + [1] * (len(ids) - first) == types, PAIRS[at]
    with tempfile.TemporaryDirectory() as saved:  # what we write reads the same, for us and for transformers
        ours.save(saved)
        folder_of(Path(saved), {"config.json": config()})
        again = PairTokenizer.from_folder(saved).encode(*zip(*PAIRS, strict=True))
        assert again.ids.tolist() == encoded.ids.tolist()
        assert again.first_segment.tolist() == encoded.first_segment.tolist()
        written = AutoTokenizer.from_pretrained(saved)
        assert written(*map(list, zip(*PAIRS, strict=True)), truncation=True)["input_ids"] == batch["input_ids"]


def token(content: str, special: bool = False) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": not special,
        "special": special,
    }


flags = st.fixed_dictionaries(
    {},
    optional={
        "lowercase": st.booleans(),
        "strip_accents": st.sampled_from([None, True, False]),
        "handle_chinese_chars": st.booleans(),
    },
)
stated = st.fixed_dictionaries(
    {},
    optional={
        "tokenizer_class": st.sampled_from(CLASSES),
        "do_lower_case": st.booleans(),
        "strip_accents": st.sampled_from([None, True, False]),
        "tokenize_chinese_chars": st.booleans(),
        "truncation_side": st.sampled_from(["left", "right"]),
        "model_max_length": st.sampled_from([9, 16, 512, int(1e30)]),
        "model_input_names": st.sampled_from([["input_ids", "attention_mask"], ["input_ids", "token_type_ids"]]),
        "additional_special_tokens": st.sampled_from([[], ["[E1]"]]),
        "never_split": st.just(["the"]),
        "do_basic_tokenize": st.booleans(),
    },
)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    """The files of a folder: any of the ways in which BERT's tokenizer is written down."""
    names = draw(st.sampled_from([BERTS, OTHERS, [*BERTS[:2], *OTHERS[2:4], "[MASK]"]]))
    said = dict(draw(stated))
    files: dict[str, Any] = {"config.json": config()}
    if draw(st.booleans()):
        files["config.json"] |= {"tokenizer_class": draw(st.sampled_from(CLASSES))}
    named = dict(zip(ROLES, names, strict=True))
    if names is not BERTS or draw(st.booleans()):
        if draw(st.booleans()):
            files["special_tokens_map.json"] = {
                role: draw(st.sampled_from([name, token(name, True)])) for role, name in named.items()
            }
            said |= {role: name for role, name in named.items() if draw(st.booleans())}
        else:
            said |= named
    number = len(VOCABULARY)
    added = draw(st.sampled_from(["none", "decoder", "file", "tokenizer.json"]))
    if added == "decoder":
        every = {VOCABULARY.index(name): token(name, True) for name in names}
        every |= {number: token("NEW"), number + 1: token("[e1]", draw(st.booleans()))}
        said |= {"added_tokens_decoder": {str(one): fields for one, fields in every.items()}, **named}
    elif added == "file":
        files["added_tokens.json"] = {"NEW": number, "[e1]": number + 1}
    if added == "tokenizer.json" or draw(st.booleans()):
        files["tokenizer.json"] = tokenizer_json(draw(flags), names)
        if added == "tokenizer.json":
            files["tokenizer.json"].add_tokens(["NEW"])
        if draw(st.booleans()):
            files["tokenizer.json"].enable_truncation(8, direction=draw(st.sampled_from(["left", "right"])))
    if "tokenizer.json" not in files or draw(st.booleans()):
        files["vocab.txt"] = "\n".join(VOCABULARY) + "\n"
    if said or draw(st.booleans()):
        files["tokenizer_config.json"] = said
    return files


@given(folders())
def test_any_folder_of_berts_reads_as_in_transformers(files: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        assert_as_transformers(folder_of(Path(place), files))


ALL_CLASSES = ("Bert", "DistilBert", "Electra", "LayoutLM", "Lxmert", "MobileBert", "SqueezeBert")


@pytest.mark.parametrize("name", [f"{name}Tokenizer{fast}" for name in ALL_CLASSES for fast in ("", "Fast")])
@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_every_class_that_reads_like_berts(name: str, place: str, tmp_path: Path) -> None:
    saved = tokenizer_json({"lowercase": False}, BERTS)
    saved.enable_truncation(8, direction="left")
    files = {"config.json": config(), "tokenizer.json": saved, "tokenizer_config.json": {}}
    files[place] |= {"tokenizer_class": name}
    assert_as_transformers(folder_of(tmp_path, files))
    pairs = PairTokenizer.from_folder(tmp_path)
    assert pairs.settings.truncation_side == "left"
    assert pairs.has_token_types is not name.startswith("Distil")


# --- The other class: tokenizer.json as it is ------------------------------------------------------------------------


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("inputs", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids"], None])
@pytest.mark.parametrize("more", [{}, {"added_tokens_decoder": {str(len(VOCABULARY)): token("NEW")}}])
def test_tokenizer_json_as_it_is(types: bool, inputs: list[str] | None, more: dict[str, Any], tmp_path: Path) -> None:
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": True, "pad_token": "<pad>", **more}
    said |= {} if inputs is None else {"model_input_names": inputs}
    saved = tokenizer_json({"lowercase": False, "strip_accents": True}, OTHERS, types=types, special=types)
    folder = folder_of(
        tmp_path / "model", {"config.json": config(), "tokenizer.json": saved, "tokenizer_config.json": said}
    )
    assert_as_transformers(folder)
    pairs = PairTokenizer.from_folder(folder)
    assert not pairs.lower_case
    assert pairs.has_token_types is bool(types and inputs and "token_type_ids" in inputs)
    assert any("token types" in note for note in pairs.notes) is (types and inputs is None)


def test_what_transformers_4_wrote_has_the_token_types_of_its_template(tmp_path: Path) -> None:
    """Where transformers 4 and 5 differ, the version in config.json decides, and a note says so."""
    files = {
        "config.json": config(transformers_version="4.57.6"),
        "tokenizer.json": tokenizer_json({}, BERTS),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }
    pairs = PairTokenizer.from_folder(folder_of(tmp_path, files))
    assert pairs.has_token_types
    assert "as transformers 4 does" in pairs.notes[0]


# --- What is refused, by name ----------------------------------------------------------------------------------------

ODD = tokenizer_json({}, BERTS)
ODD.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
PIECES = tokenizer_json({}, BERTS)
PIECES.model = models.WordPiece(
    dict(zip(VOCABULARY, range(99), strict=False)), unk_token="[UNK]", max_input_chars_per_word=9
)
UNCLEAN = tokenizer_json({"clean_text": False}, BERTS)
BPE = Tokenizer(models.BPE())
AS_IT_IS = {"tokenizer_class": "PreTrainedTokenizerFast"}


@pytest.mark.parametrize(
    ("said", "more", "named"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, {}, ["tokenizer_config.json: key tokenizer_class", "Japanese"]),
        ({}, {"tokenizer_class": "BertJapaneseTokenizer"}, ["/config.json: key tokenizer_class", "BertJapanese"]),
        ({"tokenizer_class": "T5TokenizerFast"}, {}, ["'T5TokenizerFast'"]),
        ({"tokenizer_class": "XLMRobertaTokenizerFast"}, {}, ["no sentencepiece.bpe.model; expected tokenizer.json"]),
        ({"tokenizer_class": "RobertaTokenizer"}, {}, ["no vocab.json and no merges.txt; expected tokenizer.json, or"]),
        ({}, {"model_type": "deberta-v2"}, ["no spm.model; expected tokenizer.json, or spm.model, which DebertaV2Tok"]),
        ({}, {"model_type": "albert"}, ["no spiece.model", 'vocab.txt, write "tokenizer_class": "BertTokenizer" into']),
        ({"tokenizer_class": "ConvBertTokenizer"}, {}, ["'ConvBertTokenizer'"]),
        ({"tokenizer_class": ["BertTokenizer"]}, {}, ["key tokenizer_class; found ['BertTokenizer']"]),
        ({"auto_map": {"AutoTokenizer": ["my.Tokens", None]}}, {}, ["key auto_map", "my.Tokens", "code of its own"]),
        ({"auto_map": ["my.Tokens", None]}, {}, ["tokenizer_config.json: key auto_map", "my.Tokens"]),
        ({}, {"auto_map": {"AutoTokenizer": ["my.Tokens", None]}}, ["/config.json: key auto_map", "my.Tokens"]),
        (AS_IT_IS, {}, ["no tokenizer.json", "PreTrainedTokenizerFast"]),
        ({"split_special_tokens": True}, {}, ["key split_special_tokens"]),
        ({"do_lower_case": None}, {}, ["key do_lower_case; found None; expected true or false"]),
        ({"do_lower_case": "false"}, {}, ["key do_lower_case; found 'false'; expected true or false"]),
        ({"strip_accents": 0}, {}, ["key strip_accents; found 0; expected true, false or null"]),
        ({"truncation_side": "middle"}, {}, ["key truncation_side; found 'middle'; expected right or left"]),
        ({"model_input_names": "input_ids"}, {}, ["key model_input_names"]),
        ({"cls_token": 3}, {}, ["key cls_token; found 3"]),
        ({"cls_token": "[BOS]"}, {}, ["vocab.txt: vocabulary; found no [BOS]"]),
        ({"cls_token": "[BOS]", "sep_token": "[EOS]"}, {}, ["found no [BOS] [EOS]"]),
        ({"added_tokens_decoder": {"one": token("NEW")}}, {}, ["key added_tokens_decoder"]),
        ({"added_tokens_decoder": {"3": "NEW"}, "mask_token": 1.5}, {}, ["key mask_token; found 1.5"]),
        ({"image_token": "NEW"}, {}, ["key image_token; found 'NEW'", "additional_special_tokens"]),
        ({"extra_special_tokens": "NEW"}, {}, ["key extra_special_tokens; found 'NEW'"]),
        ({}, {"vocab_size": 20}, ["ids; found up to", "expected below 20"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(
    said: dict[str, Any], more: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    files = {"config.json": config(**more), "tokenizer_config.json": said, "vocab.txt": "\n".join(VOCABULARY) + "\n"}
    with pytest.raises(InputError) as error:
        PairTokenizer.from_folder(folder_of(tmp_path, files))
    assert all(part in str(error.value) for part in named), str(error.value)


def test_robertas_vocabulary_without_its_merges_is_not_taken_for_d2ls(tmp_path: Path) -> None:
    files = {"config.json": config(model_type="roberta"), "vocab.json": {"<s>": 0, "<pad>": 1}}
    with pytest.raises(InputError, match=r"no merges.txt; expected tokenizer.json, or vocab.json and merges.txt"):
        PairTokenizer.from_folder(folder_of(tmp_path, files))


KEYS = [
    *("tokenizer_class", "auto_map", "do_lower_case", "strip_accents", "cls_token", "pad_token", "unk_token"),
    *("added_tokens_decoder", "extra_special_tokens", "additional_special_tokens", "truncation_side", "NEW"),
    *("model_max_length", "max_len", "model_input_names", "split_special_tokens", "image_token"),
]
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["NEW", "[CLS]", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "5", "x"]), inner),
    max_leaves=5,
)


@given(
    file=st.sampled_from(["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]),
    content=st.dictionaries(st.sampled_from(KEYS), json_values, max_size=3),
    saved=st.booleans(),
)
def test_any_values_are_read_or_refused(file: str, content: dict[str, Any], saved: bool) -> None:
    files = {"config.json": config(), "vocab.txt": "\n".join(VOCABULARY) + "\n", file: content}
    files |= {"tokenizer.json": tokenizer_json({}, BERTS)} if saved else {}
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(InputError):
        assert len(PairTokenizer.from_folder(folder_of(Path(place), files)).encode(["a NEW"], ["b"])) == 1


@pytest.mark.parametrize(
    ("saved", "said", "named"),
    [
        (ODD, {}, ["tokenizer.json: normalizer", "NFKC", '"tokenizer_class": "PreTrainedTokenizerFast"']),
        (UNCLEAN, {}, ["tokenizer.json: normalizer", '"clean_text": false']),
        (PIECES, {}, ["tokenizer.json: model", '"max_input_chars_per_word": 9']),
        (tokenizer_json({}, BERTS, types=False), {}, ["tokenizer.json: post_processor", "no token types"]),
        (tokenizer_json({}, OTHERS), {"unk_token": "<unk>"}, ["post_processor; found <s> a </s> b", "[CLS] a [SEP]"]),
        (BPE, {}, ["tokenizer.json: model; found BPE; expected WordPiece"]),
        (BPE, AS_IT_IS, ["tokenizer.json: post_processor; found the pair (a, b) joined as , token types []"]),
    ],
)  # fmt: skip
def test_files_that_disagree_are_refused_with_a_fix_that_works(
    saved: Tokenizer, said: dict[str, Any], named: list[str], tmp_path: Path
) -> None:
    files = {"config.json": config(), "tokenizer.json": saved, "tokenizer_config.json": said}
    with pytest.raises(InputError) as error:
        PairTokenizer.from_folder(folder_of(tmp_path, files))
    assert all(part in str(error.value) for part in named), str(error.value)
    if saved is not BPE:
        files["tokenizer_config.json"] = AS_IT_IS | {"model_input_names": ["input_ids"], "pad_token": "[PAD]"}
        assert_as_transformers(folder_of(tmp_path, files))


@pytest.mark.parametrize(
    ("said", "length", "note"),
    [
        ({"model_max_length": 16}, 16, "up to 16 tokens are read, its model_max_length"),
        ({"max_len": 16}, 16, "its model_max_length"),
        ({"model_max_length": 16.0}, 16, "its model_max_length"),
        ({"model_max_length": 512}, POSITIONS, f"up to {POSITIONS} tokens are read, as many as its"),
        ({"model_max_length": int(1e30)}, POSITIONS, "positions are for"),
        ({"model_max_length": None}, POSITIONS, "positions are for"),
        ({"model_max_length": -1}, POSITIONS, "positions are for"),
        ({"model_max_length": 3}, POSITIONS, "positions are for"),
        ({"model_max_length": "512"}, POSITIONS, "positions are for"),
        ({"model_max_length": True}, POSITIONS, "positions are for"),
        ({}, POSITIONS, "positions are for"),
    ],
)  # fmt: skip
def test_the_maximum_length_is_the_models_own_and_said(
    said: dict[str, Any], length: int, note: str, tmp_path: Path
) -> None:
    files = {"config.json": config(), "tokenizer_config.json": said, "vocab.txt": "\n".join(VOCABULARY) + "\n"}
    pairs = PairTokenizer.from_folder(folder_of(tmp_path, files))
    assert pairs.max_length == length
    assert len(pairs.notes) == 1 and note in pairs.notes[0]
    assert PairTokenizer.from_folder(tmp_path, max_length=9).notes == ()
    kept = {"bertnli": {"max_length": 9, "truncation": "longest_first", "reads_parse": False}}
    ours = PairTokenizer.from_folder(folder_of(tmp_path, {"config.json": config(**kept)}))
    assert (ours.max_length, ours.notes) == (9, ())


def test_added_tokens_that_only_tokenizer_json_has(tmp_path: Path) -> None:
    """transformers 4.57 reads them, 5 does not: refused, and each fix works."""
    saved = tokenizer_json({}, BERTS)
    saved.add_tokens(["NEW"])
    every = {str(VOCABULARY.index(name)): token(name, True) for name in BERTS}
    files = {
        "config.json": config(),
        "tokenizer.json": saved,
        "tokenizer_config.json": {"added_tokens_decoder": every},
    }
    with pytest.raises(InputError, match="key added_tokens_decoder; found no NEW; expected every added token"):
        PairTokenizer.from_folder(folder_of(tmp_path, files))
    for said in ({"added_tokens_decoder": every | {str(len(VOCABULARY)): token("NEW")}}, {}):
        assert_as_transformers(folder_of(tmp_path, {"tokenizer_config.json": said}))


def test_a_token_that_transformers_gives_another_id_is_said(tmp_path: Path) -> None:
    number = len(VOCABULARY)
    files = {
        "config.json": config(),
        "vocab.txt": "\n".join(VOCABULARY),
        "added_tokens.json": {"NEW": number + 2},
        "tokenizer_config.json": {"cls_token": token("[CLS]", True) | {"__type": "AddedToken"}},
    }
    assert_as_transformers(folder_of(tmp_path, files))
    note = PairTokenizer.from_folder(tmp_path).notes[0]
    assert f"the token NEW has the id {number}; its files say {number + 2}" in note


@pytest.mark.parametrize("ending", ["", "\r\n", "\n\n"])
def test_lines_of_a_vocabulary(ending: str, tmp_path: Path) -> None:
    """Windows' line ends, no last one, or a blank last line, for which the model has no embedding."""
    text = ("\r\n" if "\r" in ending else "\n").join(VOCABULARY) + ending
    files = {"config.json": config(vocab_size=len(VOCABULARY)), "vocab.txt": ""}
    folder_of(tmp_path, files)
    (tmp_path / "vocab.txt").write_bytes(text.encode())
    assert_as_transformers(tmp_path)
    (tmp_path / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())  # a byte-order mark is no part of a token
    assert PairTokenizer.from_folder(tmp_path).encode(["a"], ["e"]).ids[0] == VOCABULARY.index("[CLS]")


def test_a_temperature_that_bertnli_kept_does_not_make_the_folder_its_own(tmp_path: Path) -> None:
    files = {
        "config.json": config(bertnli={"temperature": 1.5}),
        "tokenizer.json": tokenizer_json({"lowercase": False}, BERTS),
        "tokenizer_config.json": {"do_lower_case": True},
    }
    assert PairTokenizer.from_folder(folder_of(tmp_path, files)).lower_case


def test_a_mask_that_has_no_embedding_is_left_out(tmp_path: Path) -> None:
    words = [word for word in VOCABULARY if word != "[MASK]"]
    files = {
        "config.json": config(vocab_size=len(words)),
        "tokenizer_config.json": {"mask_token": "[MASK]"},
        "vocab.txt": "\n".join(words) + "\n",
    }
    pairs = PairTokenizer.from_folder(folder_of(tmp_path, files))
    assert pairs.vocab_size == len(words)
    assert re.search(r"\[ .*\]", " ".join(pairs.tokens(pairs.encode(["[MASK]"], ["a"]).ids.tolist())))
