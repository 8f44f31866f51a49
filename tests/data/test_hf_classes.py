"""hf_classes: every class gives the ids and token types of transformers' AutoTokenizer, from any of its files."""

from __future__ import annotations

import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

from bertnli.common.errors import InputError
from bertnli.data import pair_template
from bertnli.data.tokenizer import PairTokenizer
from tests.support import pair_texts

POSITIONS = 40
SPECIALS = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "mpnet": ["<s>", "<pad>", "</s>", "<unk>", "[UNK]", "<mask>"],
    "roberta": ["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    "albert": ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"],
}
FLAGS = ("content", "lstrip", "rstrip", "single_word", "normalized", "special")
# 5,000 pairs with `pytest --hypothesis-profile=many`
NUMBER = 5000 if settings.get_current_profile_name() != "quick" else 60


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [text for pair in pair_texts.pairs(1000, seed=1) for text in pair]


def trained(texts: list[str], model: Any, trainer: Any, pre_tokenizer: Any) -> dict[str, Any]:
    """The content of tokenizer.json."""
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizer
    made.train_from_iterator(texts, trainer)
    return json.loads(made.to_str())


@pytest.fixture(scope="module")
def word_piece(texts: list[str]) -> Callable[[str], str]:
    def vocabulary(family: str) -> str:
        trainer = trainers.WordPieceTrainer(
            vocab_size=1200, limit_alphabet=350, special_tokens=SPECIALS[family], show_progress=False
        )
        content = trained(texts, models.WordPiece(), trainer, pre_tokenizers.BertPreTokenizer())
        return "".join(f"{token}\n" for token in content["model"]["vocab"])

    return vocabulary


@pytest.fixture(scope="module")
def byte_level(texts: list[str]) -> dict[str, Any]:
    """The vocabulary and merges of a byte-level BPE."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIALS["roberta"], initial_alphabet=alphabet, show_progress=False
    )
    return trained(texts, models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False))["model"]


@pytest.fixture(scope="module")
def sentencepiece_model(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Trains a model with Google's library."""
    library = pytest.importorskip("sentencepiece")
    lines = [line for text in texts if (line := text.replace("\x00", "").replace("\n", " ").strip())]

    def train(**options: Any) -> Path:
        prefix = tmp_path_factory.mktemp("spm") / "model"
        library.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(prefix),
            vocab_size=1600,
            character_coverage=0.98,
            minloglevel=2,
            hard_vocab_limit=False,
            num_threads=1,
            **options,
        )
        return prefix.with_suffix(".model")

    return train


def folder_of(path: Path, files: dict[str, Any]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if isinstance(content, Path):
            (path / name).write_bytes(content.read_bytes())
        else:
            (path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def config(model_type: str, **more: Any) -> dict[str, Any]:
    return {"model_type": model_type, "vocab_size": 3000, "max_position_embeddings": 514, **more}


def assert_as_transformers(folder: Path, number: int = NUMBER, **more: Any) -> PairTokenizer:
    """Of whole pairs and of truncated ones, and what we write reads the same, for us and for transformers."""
    pairs = pair_texts.pairs(number, **{"seed": 2, **more})
    columns = list(map(list, zip(*pairs, strict=True)))
    theirs, ours = AutoTokenizer.from_pretrained(folder), None
    for length in (480, 24):
        ours = PairTokenizer.from_folder(folder, max_length=length)
        assert_equal(ours, theirs, columns, length)
    assert ours is not None and ours.pad_id == theirs.pad_token_id
    written = folder / "written"
    written.mkdir()
    ours.save(written)
    content = json.loads((folder / "config.json").read_text())
    folder_of(written, {"config.json": content | {"bertnli": asdict(ours.settings), "pad_token_id": ours.pad_id}})
    assert PairTokenizer.from_folder(written).fingerprint == ours.fingerprint
    assert_equal(ours, AutoTokenizer.from_pretrained(written), columns, 24)
    return ours


def assert_equal(ours: PairTokenizer, theirs: Any, columns: list[list[str]], length: int) -> None:
    batch = theirs(*columns, truncation=True, max_length=length)
    encoded = ours.encode(*columns)
    for at, ids in enumerate(batch["input_ids"]):
        begin, end = encoded.offsets[at : at + 2]
        found = encoded.ids[begin:end].tolist()
        assert found == ids, (columns[0][at], columns[1][at], ours.tokens(found), ours.tokens(ids))
        first = int(encoded.first_segment[at])
        types = batch["token_type_ids"][at] if "token_type_ids" in batch else [0] * len(ids)
        assert types == [0] * first + [1] * (len(ids) - first)


# --- WordPiece -------------------------------------------------------------------------------------------------------

WORD_PIECE = {
    "bert": ("BertTokenizer", "bert"),
    "distilbert": ("DistilBertTokenizer", "bert"),
    "electra": ("ElectraTokenizerFast", "bert"),
    "ernie": ("BertTokenizer", "bert"),
    "mpnet": ("MPNetTokenizer", "mpnet"),
}


CASED = {"do_lower_case": False}


@pytest.mark.parametrize(
    ("model_type", "stated"),
    [*((one, {}) for one in WORD_PIECE), ("bert", CASED), ("mpnet", CASED), ("mpnet", {"strip_accents": False})],
)
def test_word_piece(model_type: str, stated: dict[str, Any], word_piece: Callable[[str], str], tmp_path: Path) -> None:
    name, family = WORD_PIECE[model_type]
    files = {"config.json": config(model_type), "vocab.txt": word_piece(family)}
    old = folder_of(tmp_path / "old", {**files, "tokenizer_config.json": stated})  # no class: the model's own
    ours = assert_as_transformers(old)
    folder = folder_of(tmp_path / "new", {**files, "tokenizer_config.json": {"tokenizer_class": name, **stated}})
    saved = tmp_path / "saved"
    AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
    folder_of(saved, {"config.json": config(model_type)})
    assert_as_transformers(saved)
    assert ours.template.special_tokens == (4 if family == "mpnet" else 3)


# --- Byte-level BPE --------------------------------------------------------------------------------------------------


def bpe_files(model: dict[str, Any]) -> dict[str, str]:
    merges = "#version: 0.2\n" + "".join(f"{' '.join(pair)}\n" for pair in model["merges"])
    return {"vocab.json": json.dumps(model["vocab"]), "merges.txt": merges}


@pytest.mark.parametrize("stated", [{}, {"add_prefix_space": True}, {"cls_token": "</s>", "sep_token": "<s>"}])
def test_roberta(stated: dict[str, Any], byte_level: dict[str, Any], tmp_path: Path) -> None:
    files = {"config.json": config("roberta"), **bpe_files(byte_level)}
    old = folder_of(tmp_path / "old", {**files, **({"tokenizer_config.json": stated} if stated else {})})
    ours = assert_as_transformers(old)
    assert ours.template.special_tokens == 4 and not ours.has_token_types
    named = {"tokenizer_class": "RobertaTokenizer", **stated}
    folder = folder_of(tmp_path / "new", {**files, "tokenizer_config.json": named})
    saved = tmp_path / "saved"
    AutoTokenizer.from_pretrained(folder).save_pretrained(saved)
    folder_of(saved, {"config.json": config("roberta")})
    again = assert_as_transformers(saved)
    assert not any("4.57" in note for note in again.notes)


def test_roberta_of_version_4(byte_level: dict[str, Any], tmp_path: Path) -> None:
    """As FacebookAI/roberta-base and cross-encoder/nli-roberta-base: a mask that takes the blank before it."""
    made = Tokenizer(models.BPE(byte_level["vocab"], [tuple(pair) for pair in byte_level["merges"]]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    for token in SPECIALS["roberta"]:
        made.add_special_tokens([AddedToken(token, special=True, normalized=True, lstrip=token == "<mask>")])
    mask = {"content": "<mask>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False}
    named = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    files = {
        "config.json": config("roberta", tokenizer_class=None),
        "tokenizer.json": made.to_str(),
        "special_tokens_map.json": {**named, "unk_token": "<unk>", "mask_token": mask},
        "tokenizer_config.json": {"model_max_length": 512, "tokenizer_class": "RobertaTokenizer"},
        **bpe_files(byte_level),
    }
    ours = assert_as_transformers(folder_of(tmp_path, files))
    assert not any("4.57" in note for note in ours.notes)


MODERNBERT = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "<|padding|>", "|||EMAIL_ADDRESS|||"]


@pytest.mark.parametrize(
    "name", ["PreTrainedTokenizerFast", "GPTNeoXTokenizerFast", "LlamaTokenizer", "TokenizersBackend"]
)
def test_modernbert(name: str, byte_level: dict[str, Any], tmp_path: Path) -> None:
    """Byte-level BPE, NFC, BERT's way to join a pair, blanks as added tokens, and no token types."""
    made = Tokenizer(models.BPE(byte_level["vocab"], [tuple(pair) for pair in byte_level["merges"]]))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_tokens([AddedToken(" " * width, normalized=True) for width in (2, 3, 4)])
    made.add_special_tokens(MODERNBERT)
    first, separator = map(made.token_to_id, ("[CLS]", "[SEP]"))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", first), ("[SEP]", separator)],
    )
    decoder = {
        number: json.loads(json.dumps({key: getattr(token, key) for key in FLAGS}))
        for number, token in made.get_added_tokens_decoder().items()
    }
    stated = {
        "added_tokens_decoder": decoder,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 8192,
        "tokenizer_class": name,
    }
    files = {"config.json": config("modernbert"), "tokenizer.json": made.to_str(), "tokenizer_config.json": stated}
    ours = assert_as_transformers(folder_of(tmp_path, files))
    assert ours.template.special_tokens == 3 and not ours.has_token_types
    is_said = any(f"tokenizer_class is {name}." in note and "4.57" in note for note in ours.notes)
    assert is_said == (name in ("GPTNeoXTokenizerFast", "LlamaTokenizer"))


# --- Unigram ---------------------------------------------------------------------------------------------------------

FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}  # XLM-R's and CamemBERT's
DEBERTA = {"pad_id": 0, "pad_piece": "[PAD]", "bos_id": 1, "bos_piece": "[CLS]", "eos_id": 2, "eos_piece": "[SEP]"}
UNIGRAM: dict[str, tuple[str, str, dict[str, Any]]] = {
    "xlm-roberta": ("XLMRobertaTokenizer", "sentencepiece.bpe.model", FAIRSEQ),
    "bert": ("XLMRobertaTokenizer", "sentencepiece.bpe.model", FAIRSEQ),  # multilingual MiniLM
    "camembert": ("CamembertTokenizer", "sentencepiece.bpe.model", FAIRSEQ),
    "deberta-v2": ("DebertaV2Tokenizer", "spm.model", {**DEBERTA, "unk_id": 3, "unk_piece": "[UNK]"}),
    "albert": (
        "AlbertTokenizer",
        "spiece.model",
        {
            "pad_id": 0,
            "unk_id": 1,
            "bos_id": -1,
            "eos_id": -1,
            "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
            "user_defined_symbols": ["(", ")"],
            "normalization_rule_name": "nmt_nfkc_cf",
        },
    ),
}


@pytest.mark.parametrize("model_type", UNIGRAM)
def test_unigram(model_type: str, sentencepiece_model: Callable[..., Path], tmp_path: Path) -> None:
    """From the sentencepiece file alone, as transformers saves it, and with added tokens of old files."""
    name, file, options = UNIGRAM[model_type]
    model = sentencepiece_model(**options)
    stated = {"tokenizer_class": name} if model_type == "bert" else {}
    files: dict[str, Any] = {"config.json": config(model_type, **stated), file: model}
    if model_type == "deberta-v2":
        files["added_tokens.json"] = {"[MASK]": 900}
        files["tokenizer_config.json"] = {"do_lower_case": False, "vocab_type": "spm"}
    ours = assert_as_transformers(folder_of(tmp_path / "old", files))
    is_berts = model_type in ("deberta-v2", "albert")
    assert ours.template.special_tokens == (3 if is_berts else 4)
    assert ours.has_token_types == (model_type == "deberta-v2")
    saved = tmp_path / "saved"
    AutoTokenizer.from_pretrained(tmp_path / "old").save_pretrained(saved)
    folder_of(saved, {"config.json": config(model_type)})
    assert_as_transformers(saved)


# --- Any folder ------------------------------------------------------------------------------------------------------


class Vocabularies(dict[str, Any]):
    def __repr__(self) -> str:
        return "the vocabularies"


@pytest.fixture(scope="module")
def vocabularies(texts: list[str], byte_level: dict[str, Any], word_piece: Callable[[str], str]) -> dict[str, Any]:
    """The `model` of tokenizer.json by family."""
    found = Vocabularies(roberta=byte_level)
    words = word_piece("mpnet").split("\n")[:-1]
    made = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    found["mpnet"] = json.loads(made.to_str())["model"]
    counts = Counter(piece for text in texts[:600] for word in text.split() for piece in pieces_of(f"▁{word}"))
    pieces = [[piece, -math.log(counts.total() / count)] for piece, count in counts.most_common(1200)]
    for family in ("roberta", "albert", "bert"):
        first = [[token, 0.0] for token in SPECIALS[family]]
        unknown = 3 if family == "roberta" else 1
        found[f"unigram-{family}"] = {"type": "Unigram", "unk_id": unknown, "vocab": first + pieces}
    return found


def pieces_of(word: str) -> Iterator[str]:
    return (word[begin:end] for begin in range(len(word)) for end in range(begin + 1, min(begin + 4, len(word)) + 1))


FAMILIES = {  # class: its family in `vocabularies`, its keys, parts that version 4 wrote, its special tokens
    "RobertaTokenizer": ("roberta", ["add_prefix_space"], "roberta"),
    "MPNetTokenizer": ("mpnet", ["do_lower_case", "strip_accents", "tokenize_chinese_chars"], "mpnet"),
    "XLMRobertaTokenizer": ("unigram-roberta", ["add_prefix_space"], "roberta"),
    "CamembertTokenizer": ("unigram-roberta", ["add_prefix_space"], "roberta"),
    "DebertaV2Tokenizer": ("unigram-bert", ["do_lower_case", "split_by_punct", "add_prefix_space"], "bert"),
    "AlbertTokenizer": ("unigram-albert", ["do_lower_case", "keep_accents", "add_prefix_space"], "albert"),
}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
SPLIT = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
STRIP = {"type": "Strip", "strip_left": True, "strip_right": True}
SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
BYTES = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
BERTS = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
PARTS: dict[str, list[tuple[Any, Any]]] = {  # of tokenizer.json: what version 4 or another program may have written
    "roberta": [(None, BYTES | {"add_prefix_space": space}) for space in (True, False)],
    "mpnet": [(BERTS | {"strip_accents": None, "lowercase": True}, {"type": "BertPreTokenizer"})],
    "unigram": [
        (None, METASPACE),
        (STRIP, SPLIT),
        ({"type": "Sequence", "normalizers": [STRIP, {"type": "NFKC"}, SPACES]}, SPLIT),
    ],
}


def added(content: str, **flags: bool) -> dict[str, Any]:
    every = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **every, **flags}


@st.composite
def folders(draw: st.DrawFn, vocabularies: dict[str, Any]) -> dict[str, Any]:
    """The files of a folder with one of the classes: any of the ways in which its tokenizer is written down."""
    name = draw(st.sampled_from(list(FAMILIES)))
    family, keys, specials = FAMILIES[name]
    model, names = vocabularies[family], SPECIALS[specials]
    tokens = [piece[0] for piece in model["vocab"]] if isinstance(model["vocab"], list) else list(model["vocab"])
    stated: dict[str, Any] = {"tokenizer_class": name + draw(st.sampled_from(["", "Fast"]))}
    stated |= {key: draw(st.booleans()) for key in keys if draw(st.booleans())}
    stated |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "truncation_side": st.sampled_from(["left", "right"]),
                "model_input_names": st.sampled_from([["input_ids"], ["input_ids", "token_type_ids"]]),
                "additional_special_tokens": st.sampled_from([[], ["[E1]"]]),
            },
        )
    )
    roles = {"mask_token": names[-1], "pad_token": names[1] if specials in ("roberta", "mpnet") else names[0]}
    if specials in ("roberta", "mpnet"):
        cls = "<s>" if specials == "mpnet" else draw(st.sampled_from(["<s>", "<unk>"]))
        roles |= {"bos_token": "<s>", "eos_token": "</s>", "cls_token": cls, "sep_token": "</s>"}
    mask = draw(st.sampled_from([names[-1], added(names[-1], lstrip=True)]))
    files: dict[str, Any] = {"config.json": config(draw(st.sampled_from(["bert", "roberta", "deberta-v2"])))}
    way = draw(st.sampled_from(["none", "decoder", "map", "file", "tokenizer.json"]))
    number = len(tokens)
    if way == "decoder":
        every = {str(tokens.index(one)): added(one, lstrip=one == names[-1]) for one in names}
        every |= {str(number): added("NEW", normalized=True, special=False)}
        stated |= {"added_tokens_decoder": every, **roles}
    elif way == "map":
        files["special_tokens_map.json"] = {**roles, "mask_token": mask}
    elif way == "file":
        files["added_tokens.json"] = {"NEW": number, "[e1]": number + 1}
        stated |= roles if draw(st.booleans()) else {}
    if "vocab" in model and family in ("roberta", "mpnet") and draw(st.booleans()):
        files |= bpe_files(model) if family == "roberta" else {"vocab.txt": "".join(f"{one}\n" for one in tokens)}
    else:
        normalizer, pre_tokenizer = draw(st.sampled_from(PARTS[family.partition("-")[0]]))
        separators = 1 if specials in ("albert", "bert") else 2
        first, last = ("[CLS]", "[SEP]") if separators == 1 else ("<s>", "</s>")
        empty = {"version": "1.0", "added_tokens": [], "post_processor": None, "decoder": None}
        parts = {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model}
        made = Tokenizer.from_str(json.dumps(empty | parts))
        if way != "none" or draw(st.booleans()):
            made.add_special_tokens([AddedToken(**added(one, lstrip=one == names[-1])) for one in names])
        if way == "tokenizer.json":
            made.add_tokens(["NEW"])
        pair_template.build(made, first, last, separators=separators, has_types=separators == 1)
        files["tokenizer.json"] = made.to_str()
    files["tokenizer_config.json"] = stated
    return files


@given(data=st.data())
def test_any_folder_reads_as_in_transformers(vocabularies: dict[str, Any], data: st.DataObject) -> None:
    files = data.draw(folders(vocabularies))
    with tempfile.TemporaryDirectory() as place:
        folder = folder_of(Path(place) / "model", files)
        albert = "Albert" in files["tokenizer_config.json"]["tokenizer_class"]
        special = ("[e1]", "NEW", "new", "aNEWb", "<unk>NOTUSED")
        ours = assert_as_transformers(folder, 12, seed=data.draw(st.integers(0, 10**6)), special=special)
        if albert and "model_input_names" not in files["tokenizer_config.json"]:
            assert any("token types" in note for note in ours.notes)


# --- Where versions 4.57 and 5 differ --------------------------------------------------------------------------------


def test_a_normalizer_that_the_class_does_not_make_is_said(vocabularies: dict[str, Any], tmp_path: Path) -> None:
    """DeBERTa's of version 4: the file's normalizer counts in 4.57 alone. The advice takes the file, in both."""
    parts = {"normalizer": {"type": "Sequence", "normalizers": [STRIP, {"type": "NFKC"}, SPACES]}}
    parts |= {"pre_tokenizer": METASPACE, "model": vocabularies["unigram-bert"], "post_processor": None}
    made = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], "decoder": None, **parts}))
    pair_template.build(made, "[CLS]", "[SEP]")
    stated: dict[str, Any] = {"tokenizer_class": "DebertaV2Tokenizer", "pad_token": "[PAD]"}
    files = {"config.json": config("deberta-v2"), "tokenizer.json": made.to_str(), "tokenizer_config.json": stated}
    ours = assert_as_transformers(folder_of(tmp_path / "class", files), 20)
    (note,) = (note for note in ours.notes if "4.57" in note)
    assert "its normalizer is not what DebertaV2Tokenizer makes in transformers 5, which is read here" in note
    assert '"tokenizer_class": "PreTrainedTokenizerFast"' in note
    stated |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "token_type_ids"]}
    taken = assert_as_transformers(folder_of(tmp_path / "file", files), 20)
    assert not any("4.57" in note for note in taken.notes)
    assert taken.encode(["Ｔｈｅ"], ["a"]).ids.tolist() != ours.encode(["Ｔｈｅ"], ["a"]).ids.tolist()


def test_a_class_with_another_model_in_its_file_is_refused(byte_level: dict[str, Any], tmp_path: Path) -> None:
    made = Tokenizer(models.BPE(byte_level["vocab"], [tuple(pair) for pair in byte_level["merges"]]))
    files = {"config.json": config("xlm-roberta"), "tokenizer.json": made.to_str()}
    with pytest.raises(InputError, match=r"model; found BPE; expected Unigram, as the tokenizer's class is XLMRoberta"):
        PairTokenizer.from_folder(folder_of(tmp_path, files))


def test_a_pair_that_is_joined_backwards_is_refused(byte_level: dict[str, Any], tmp_path: Path) -> None:
    """As XLNet does: the token that a classifier reads is the last."""
    made = Tokenizer(models.BPE(byte_level["vocab"], [tuple(pair) for pair in byte_level["merges"]]))
    made.post_processor = processors.TemplateProcessing(
        single="$A </s> <s>", pair="$A </s> $B </s> <s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}
    files = {"config.json": config("roberta"), "tokenizer.json": made.to_str(), "tokenizer_config.json": stated}
    with pytest.raises(InputError, match=r"post_processor; found the pair .a, b. joined as a </s> b </s> <s>"):
        PairTokenizer.from_folder(folder_of(tmp_path, files))
