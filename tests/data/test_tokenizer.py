"""tokenizer: the ids of transformers for WordPiece, of d2l for its word vocabulary, and the three truncations.

d2l's own ids for some pairs are in reference/d2l_tokens.json, made by reference/make_tokens.py.
"""

from __future__ import annotations

import gzip
import json
import re
import string
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, BertTokenizerFast

from bertnli.common.errors import InputError, Interrupted
from bertnli.common.files import cache_dir
from bertnli.data import penn_treebank
from bertnli.data.encoded import Encoded, pad_batch
from bertnli.data.tokenizer import PairTokenizer, TokenizerSettings
from bertnli.data.truncation import TRUNCATIONS
from tests.conftest import ROOT
from tests.support import tiny

REFERENCE = json.loads((ROOT / "tests" / "reference").joinpath("d2l_tokens.json").read_text())
MINILM = cache_dir() / "models" / "minilm"  # the user's own cache: no test writes to it
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_LETTERS = string.ascii_letters + string.digits + string.punctuation + "éüßñ中文ςσμ…’“”"
WORD_PIECES = [
    *SPECIAL,
    *dict.fromkeys(_LETTERS),
    *(f"##{letter}" for letter in dict.fromkeys(_LETTERS)),
    *("the", "The", "man", "Man", "woman", "dog", "two", "people", "are", "is", "playing", "red", "##s", "##ing"),
]


def unpack(encoded: Encoded) -> Iterator[tuple[list[int], list[int]]]:
    """The ids and the token types of each pair."""
    for start, length, first in zip(encoded.offsets, encoded.lengths, encoded.first_segment, strict=False):
        yield encoded.ids[start : start + length].tolist(), [0] * int(first) + [1] * int(length - first)


def write(folder: Path, **files: Any) -> Path:
    """`vocab_txt=…` becomes vocab.txt; text as it is, anything else as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{stem}.{suffix}").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An HF folder with a vocabulary only."""
    return write(tmp_path_factory.mktemp("bert"), vocab_txt="\n".join(WORD_PIECES) + "\n")


@pytest.fixture(scope="module")
def d2l_words() -> PairTokenizer:
    return PairTokenizer.from_d2l_vocab(REFERENCE["vocab"])


def rows(folder: Path, split: str) -> Iterator[dict[str, str]]:
    with gzip.open(folder / "snli_1.0" / f"snli_1.0_{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def without_parentheses(parse: str) -> str:
    return re.sub(r"\s{2,}", " ", re.sub(r"[()]", "", parse)).strip()


# --- Truncation ------------------------------------------------------------------------------------------------------

lengths = st.integers(0, 60)


@given(lengths, lengths, st.integers(2, 70))
def test_longest_first_is_the_librarys(len_p: int, len_h: int, room: int) -> None:
    tokenizer = Tokenizer(models.WordLevel({"x": 0, "y": 1}, unk_token="x"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.enable_truncation(room, strategy="longest_first")
    ids = tokenizer.encode("x " * len_p, "y " * len_h).ids
    assert truncated("longest_first", len_p, len_h, room) == (ids.count(0), ids.count(1))


@given(lengths, lengths, st.integers(2, 70))
def test_d2l_is_its_loop(len_p: int, len_h: int, room: int) -> None:
    keep_p, keep_h = len_p, len_h
    while keep_p + keep_h > room:
        if keep_p > keep_h:
            keep_p -= 1
        else:
            keep_h -= 1
    assert truncated("d2l", len_p, len_h, room) == (keep_p, keep_h)


@given(st.integers(0, 2_000_000), st.integers(0, 2_000_000), st.integers(2, 509))
def test_proportional_fills_the_room_in_proportion(len_p: int, len_h: int, room: int) -> None:
    keep_p, keep_h = truncated("proportional", len_p, len_h, room)
    if len_p + len_h <= room:
        assert (keep_p, keep_h) == (len_p, len_h)
    else:
        assert keep_p + keep_h == room
        assert min(len_p, 1) <= keep_p <= len_p
        assert min(len_h, 1) <= keep_h <= len_h
        exact = room * len_p / (len_p + len_h)
        if 1 <= exact <= room - 1:
            assert abs(keep_p - exact) <= 0.5


KEPT = {
    "longest_first": ((10, 10), (4, 5)),
    "d2l": ((10, 10), (5, 4)),
    "proportional": ((20, 10), (6, 3)),
    "only_first": ((10, 4), (5, 4)),
    "only_second": ((4, 10), (4, 5)),
}


@pytest.mark.parametrize("rule", TRUNCATIONS)
def test_the_rules_differ(rule: str) -> None:
    lengths, kept = KEPT[rule]
    assert truncated(rule, *lengths, 9) == kept


def test_proportional_rounds_halves_to_the_premise() -> None:
    assert truncated("proportional", 10, 10, 9) == (5, 4)


def truncated(rule: str, len_p: int, len_h: int, room: int) -> tuple[int, int]:
    """By the vectorised rule, which must give every row what it gives the row alone."""
    many_p, many_h = np.array([len_p, 3, len_h, len_p]), np.array([len_h, 100, len_p, len_h])
    keep_p, keep_h = TRUNCATIONS[rule](many_p, many_h, room)
    assert (keep_p[0], keep_h[0]) == (keep_p[3], keep_h[3])
    return int(keep_p[0]), int(keep_h[0])


# --- WordPiece: transformers' BertTokenizerFast ----------------------------------------------------------------------

FRAGMENTS = [
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "[PAD]",
    "[sep]",
    "the man",
    "中文",
    "e\u0301",
    "İ",
    "\x00",
    "\ufffd",
    "\u00ad",
]
any_text = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(FRAGMENTS), max_size=6
).map(" ".join)


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
def test_unicode_text_as_transformers(bert: Path, tmp_path_factory: pytest.TempPathFactory, lower: bool) -> None:
    folder = tmp_path_factory.mktemp("lower")
    write(folder, vocab_txt=(bert / "vocab.txt").read_text(), tokenizer_config_json={"do_lower_case": lower})
    theirs = BertTokenizerFast.from_pretrained(folder)

    @given(st.lists(st.tuples(any_text, any_text), min_size=1, max_size=4), st.integers(5, 40))
    def same(pairs: list[tuple[str, str]], max_length: int) -> None:
        assert_as_transformers(PairTokenizer.from_folder(folder, max_length=max_length), theirs, pairs)

    same()


every_pair_or_some = pytest.mark.parametrize("step", [8, pytest.param(1, marks=pytest.mark.system)])


@every_pair_or_some
def test_snli_as_transformers(bert: Path, shared_data: Path, step: int) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows(shared_data, "test")][::step]
    theirs = BertTokenizerFast.from_pretrained(bert)
    assert_as_transformers(PairTokenizer.from_folder(bert, max_length=40), theirs, pairs)


@pytest.mark.skipif(not (MINILM / "tokenizer.json").is_file(), reason="`bertnli fetch minilm` has not been run here")
@every_pair_or_some
def test_minilm_as_transformers(shared_data: Path, step: int) -> None:
    """Its tokenizer.json has settings for truncation and padding to 128."""
    pairs = [(row["sentence1"], row["sentence2"]) for row in rows(shared_data, "test")][::step]
    theirs = BertTokenizerFast.from_pretrained(MINILM)
    for max_length in (128, 24):
        assert_as_transformers(PairTokenizer.from_folder(MINILM, max_length=max_length), theirs, pairs)


def assert_as_transformers(ours: PairTokenizer, theirs: BertTokenizerFast, pairs: list[tuple[str, str]]) -> None:
    premises, hypotheses = map(list, zip(*pairs, strict=True))
    encoded = ours.encode(premises, hypotheses)
    expected = theirs(premises, hypotheses, truncation=True, max_length=ours.max_length)
    assert list(unpack(encoded)) == list(zip(expected["input_ids"], expected["token_type_ids"], strict=True))


@pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])
def test_saved_for_transformers(bert: Path, tmp_path: Path, lower: bool) -> None:
    """tokenizer.json and tokenizer_config.json are all that AutoTokenizer needs; the truncation comes with them."""
    write(tmp_path / "hf", vocab_txt=(bert / "vocab.txt").read_text(), tokenizer_config_json={"do_lower_case": lower})
    ours = PairTokenizer.from_folder(tmp_path / "hf", max_length=9)
    model = write(tmp_path / "model", config_json={"model_type": "bert"})
    ours.save(model)
    theirs = AutoTokenizer.from_pretrained(model)
    premises, hypotheses = ["The Man é", "a dog"], ["[SEP] Two people playing", "IS RED"]
    padded = theirs(premises, hypotheses, truncation=True, padding=True)
    batch = pad_batch(ours.encode(premises, hypotheses), [0, 1], ours.pad_id)
    assert {name: values.tolist() for name, values in batch.items()} == dict(padded)


def test_what_tokenizer_config_says_wins_as_in_transformers(bert: Path, tmp_path: Path) -> None:
    write(
        tmp_path / "cased", vocab_txt=(bert / "vocab.txt").read_text(), tokenizer_config_json={"do_lower_case": False}
    )
    PairTokenizer.from_folder(tmp_path / "cased").save(tmp_path)  # tokenizer.json, cased
    cased = PairTokenizer.from_folder(tmp_path).encode(["The Man"], ["é"]).ids.tolist()
    write(tmp_path, tokenizer_config_json={"do_lower_case": True, "strip_accents": False})
    theirs = BertTokenizerFast.from_pretrained(tmp_path)
    uncased = PairTokenizer.from_folder(tmp_path).encode(["The Man"], ["é"]).ids.tolist()
    assert uncased == theirs("The Man", "é")["input_ids"] != cased


# --- d2l -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", map(int, REFERENCE["encoded"]))
def test_ids_of_the_d2l_package(max_length: int) -> None:
    tokenizer = PairTokenizer.from_d2l_vocab(REFERENCE["vocab"], max_length=max_length)
    encoded = tokenizer.encode(*zip(*REFERENCE["pairs"], strict=True))
    expected = REFERENCE["encoded"][str(max_length)]
    assert list(unpack(encoded)) == [(pair["ids"], pair["segments"]) for pair in expected]
    assert tokenizer.settings == TokenizerSettings("d2l", max_length, reads_parse=True)


@pytest.mark.parametrize("splits", [["test"], pytest.param(["train_100k", "test"], marks=pytest.mark.system)])
def test_snli_parses_have_d2ls_ids(shared_data: Path, splits: list[str]) -> None:
    """All binary-parse sentences: no word changes, and the ids are d2l's (`text.lower().split()`)."""
    sentences = dict.fromkeys(
        (without_parentheses(row[f"{sentence}_binary_parse"]), row[sentence])
        for split in splits
        for row in rows(shared_data, split)
        for sentence in ("sentence1", "sentence2")
    )
    parses, raw = map(list, zip(*sentences, strict=True))
    counts = Counter(word for parse in parses for word in parse.lower().split())
    special = ["<unk>", "<pad>", "<mask>", "<cls>", "<sep>"]
    every = [*special, *counts]
    frequent = [*special, *(word for word, n in counts.items() if n >= 5)]

    # With every word known, equal ids are equal words.
    nothing = [""] * len(parses)
    encoded = PairTokenizer.from_d2l_vocab(every).encode(parses, nothing)
    assert np.array_equal(encoded.ids, d2l_ids(every, parses, nothing))
    some = (parses[:5000], parses[5000:10_000])
    encoded_some = PairTokenizer.from_d2l_vocab(frequent).encode(*some)
    assert np.array_equal(encoded_some.ids, d2l_ids(frequent, *some))
    assert 0 < np.mean(encoded_some.ids == 0) < 0.1  # some words are unknown

    # A word that no parse holds is <unk> here, which is never equal.
    from_raw = PairTokenizer.from_d2l_vocab(every).encode(raw, nothing)
    same = sum(ours == theirs for ours, theirs in zip(unpack(from_raw), unpack(encoded), strict=True))
    assert same / len(raw) > 0.9995


def d2l_ids(vocabulary: list[str], premises: list[str], hypotheses: list[str]) -> list[int]:
    index = {word: number for number, word in enumerate(vocabulary)}
    words = (
        ["<cls>", *premise.lower().split(), "<sep>", *hypothesis.lower().split(), "<sep>"]
        for premise, hypothesis in zip(premises, hypotheses, strict=True)
    )
    return [index.get(word, index["<unk>"]) for pair in words for word in pair]


@pytest.mark.parametrize(
    ("raw", "split"),
    [
        ("The dog's bowl isn't empty, is it?", "the dog 's bowl is n't empty , is it ?"),
        ("They can't; I'll say we've won't.", "they ca n't ; i 'll say we 've wo n't ."),
        ("You cannot, I'm gonna.", "you can not , i 'm gon na ."),
        ('He says "STOP!" (twice).', "he says `` stop ! '' -lrb- twice -rrb- ."),
        ("“Don’t,” she said…", "`` do n't , '' she said ..."),
        ("The boys' 'club' in the '60s", "the boys ' ` club ' in the '60s"),
        ("rock 'n' roll", "rock 'n' roll"),
        (
            "Mr. Smith of the U.S. Navy at 9:30 a.m. on St. John St.",
            "mr. smith of the u.s. navy at 9:30 a.m. on st. john st.",
        ),
        ("$10,000, 50% off; #44 at 4:06pm.", "$ 10,000 , 50 % off ; # 44 at 4:06 pm ."),
        ("a blond-haired man--an A&M fan-and his/her dog-", "a blond-haired man -- an a&m fan-and his/her dog -"),
        ("hat,coat and what?!", "hat , coat and what ?!"),
        ("see https://example.org/a,b?c=d!e.", "see https://example.org/a,b?c=d!e ."),
        ("cups, plates, etc. .", "cups , plates , etc. ."),
        ("Cups etc. on Dr. Smith's table", "cups etc. on dr. smith 's table"),
        ("to catch a fish.,", "to catch a fish. ,"),
        ("a figure.. [sic]", "a figure . . -lsb- sic -rsb-"),
    ],
)
def test_raw_text_is_split_as_snli_is(raw: str, split: str) -> None:
    assert words_of(raw) == split.split()
    assert words_of(split) == split.split()


# What the rules look at; text without it is Python's affair alone.
_MARKS = "".join(mark for mark in string.punctuation if mark not in "*+<=>@^_|~") + "…–—‘’“”"
_known = st.characters(exclude_categories=["Cs", "Cn"])  # Cn: unknown to this Python's Unicode tables
_SPACES = "".join(character for character in map(chr, range(0x110000)) if character.isspace())


@given(st.text(_known.filter(lambda c: c not in _MARKS) | st.sampled_from("ΣσİIǅßA" + _SPACES), max_size=40))
def test_lower_and_split_are_pythons(text: str) -> None:
    if not re.search(r"(?i)can|gon|wan|got|n't", text):
        assert words_of(text) == text.lower().split()


@given(st.text(st.sampled_from("ΣσΑaʰ.:-\u0301\u00ad ,1"), max_size=12))
def test_final_sigma_is_pythons(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.lower().split())


def test_every_character_is_lower_cased_as_by_python() -> None:
    known = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
    normalizer = normalizers.Lowercase()
    lower = normalizer.normalize_str("\n".join(known)).split("\n")
    python = "\n".join(known).lower().split("\n")
    # The joined text has no final sigma: a line break stands on either side of it.
    assert [c for c, ours, theirs in zip(known, lower, python, strict=False) if ours != theirs] == []


def words_of(text: str) -> list[str]:
    normal = penn_treebank.normalizer().normalize_str(text)
    return [word for word, _ in penn_treebank.pre_tokenizer().pre_tokenize_str(normal)]


# --- The file --------------------------------------------------------------------------------------------------------

HARD = ["", " ", "the man [SEP] <sep>", "ΟΔΟΣ İ é中", "Is it “so”, isn't it? \x1f\x85 x.", "dog " * 40]


@pytest.fixture(params=["bert", "d2l"])
def any_tokenizer(request: pytest.FixtureRequest, bert: Path, d2l_words: PairTokenizer) -> PairTokenizer:
    return PairTokenizer.from_folder(bert) if request.param == "bert" else d2l_words


def test_tokenizer_json_alone_gives_the_ids(any_tokenizer: PairTokenizer, tmp_path: Path) -> None:
    any_tokenizer.save(tmp_path)
    alone = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    pairs = [(p, h) for p in HARD for h in HARD]
    ours = unpack(any_tokenizer.encode(*zip(*pairs, strict=True)))
    assert list(ours) == [(theirs.ids, theirs.type_ids) for theirs in alone.encode_batch(pairs)]


def test_saved_and_read_again_is_the_same(any_tokenizer: PairTokenizer, tmp_path: Path) -> None:
    any_tokenizer.save(tmp_path)
    write(tmp_path, config_json={"bertnli": asdict(any_tokenizer.settings)})
    again = PairTokenizer.from_folder(tmp_path)
    assert again.to_json() == any_tokenizer.to_json()
    assert again.fingerprint == any_tokenizer.fingerprint
    assert again.settings == any_tokenizer.settings


def test_the_same_tokenizer_is_the_same_bytes_in_another_process(bert: Path) -> None:
    code = "import sys, bertnli.data.tokenizer as t; print(t.PairTokenizer.from_folder(sys.argv[1]).fingerprint)"
    root = str(ROOT)
    other = subprocess.run([sys.executable, "-c", code, bert], cwd=root, capture_output=True, text=True, check=True)
    assert other.stdout.strip() == PairTokenizer.from_folder(bert).fingerprint


def test_fingerprint_changes_with_what_changes_ids(bert: Path, tmp_path: Path) -> None:
    write(tmp_path, vocab_txt="\n".join([*WORD_PIECES, "more"]))
    tokenizers = [
        PairTokenizer.from_folder(bert),
        PairTokenizer.from_folder(bert, max_length=64),
        PairTokenizer.from_folder(bert, truncation="proportional"),
        PairTokenizer.from_folder(tmp_path),
    ]
    assert len({tokenizer.fingerprint for tokenizer in tokenizers}) == 4


def test_no_torch() -> None:
    code = "import sys, bertnli.data.tokenizer; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_baked_in_truncation_and_padding_are_taken_out(bert: Path, tmp_path: Path) -> None:
    plain = PairTokenizer.from_folder(bert)
    baked = Tokenizer.from_str(plain.to_json())
    baked.enable_truncation(6)
    baked.enable_padding(length=6)
    baked.save(str(tmp_path / "tokenizer.json"))
    read = PairTokenizer.from_folder(tmp_path)
    assert read.encode(["the man"], ["two people are playing"]).lengths.tolist() == [9]
    assert read.encode(["a"], ["a"]).lengths.tolist() == [5]
    assert read.to_json() == plain.to_json()


def test_settings_come_from_what_is_given_then_config_then_the_family(bert: Path, tmp_path: Path) -> None:
    assert PairTokenizer.from_folder(bert).settings == TokenizerSettings("longest_first", 128, False)
    folder = write(tmp_path, vocab_txt=(bert / "vocab.txt").read_text(), config_json={"max_position_embeddings": 64})
    assert PairTokenizer.from_folder(folder).settings == TokenizerSettings("longest_first", 64, False)
    kept = {"truncation": "d2l", "max_length": 32, "reads_parse": True, "temperature": 1.5}
    write(folder, config_json={"max_position_embeddings": 64, "bertnli": kept})
    assert PairTokenizer.from_folder(folder).settings == TokenizerSettings("d2l", 32, True)
    given = PairTokenizer.from_folder(folder, max_length=16, truncation="proportional")
    assert given.settings == TokenizerSettings("proportional", 16, True)


def test_d2l_folder_with_vocab_json(tmp_path: Path, d2l_words: PairTokenizer) -> None:
    write(tmp_path, vocab_json=REFERENCE["vocab"])
    assert PairTokenizer.from_folder(tmp_path).fingerprint == d2l_words.fingerprint
    assert PairTokenizer.from_folder(tmp_path).vocab_size == len(REFERENCE["vocab"])


# --- Refusals --------------------------------------------------------------------------------------------------------


def bert_json(bert: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads(PairTokenizer.from_folder(bert).to_json()), **changes}


def without(vocabulary: list[str], token: str) -> str:
    return "\n".join(word for word in vocabulary if word != token)


@pytest.mark.parametrize("token", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
def test_a_missing_special_token_is_named(tmp_path: Path, token: str) -> None:
    write(tmp_path, vocab_txt=without(WORD_PIECES, token))
    with pytest.raises(InputError, match=re.escape(f"vocab.txt: vocabulary; found no {token}; expected")):
        PairTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("token", ["<pad>", "<unk>", "<cls>", "<sep>"])
def test_a_missing_d2l_token_is_named(tmp_path: Path, token: str) -> None:
    write(tmp_path, vocab_json=[word for word in REFERENCE["vocab"] if word != token])
    with pytest.raises(InputError, match=f"vocab.json: vocabulary; found no {token}; expected"):
        PairTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("vocab", [{"a": 0}, ["<unk>", 3], "words", None, 7, ["<unk>", "\ud800"]])
def test_not_a_d2l_vocabulary(tmp_path: Path, vocab: Any) -> None:
    write(tmp_path, vocab_json=vocab)
    with pytest.raises(InputError, match=r"vocab\.json"):
        PairTokenizer.from_folder(tmp_path)
    with pytest.raises(InputError, match="d2l vocabulary"):
        PairTokenizer.from_d2l_vocab(vocab)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no tokenizer; expected one of tokenizer\.json, vocab\.txt, "):
        PairTokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"version": "1.0"}', b"\xff\xfe", b"[" * 100_000])
def test_damaged_tokenizer_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: damaged; found .*; expected"):
        PairTokenizer.from_folder(tmp_path)


def test_another_kind_of_model(tmp_path: Path) -> None:
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(InputError, match=r"tokenizer\.json: model; found BPE; expected WordPiece"):
        PairTokenizer.from_folder(tmp_path)


def test_another_way_to_join_a_pair(bert: Path, tmp_path: Path) -> None:
    other = Tokenizer.from_str(PairTokenizer.from_folder(bert).to_json())
    other.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        InputError,
        match=re.escape("post_processor; found [CLS] a [SEP] [SEP] b [SEP], no token types; expected [CLS] a"),
    ):
        PairTokenizer.from_folder(tmp_path)
    write(tmp_path, tokenizer_json=bert_json(bert, post_processor=None))
    with pytest.raises(InputError, match="post_processor"):
        PairTokenizer.from_folder(tmp_path)


def test_a_file_that_makes_the_library_panic(d2l_words: PairTokenizer, tmp_path: Path) -> None:
    damaged = json.loads(d2l_words.to_json())
    damaged["post_processor"]["special_tokens"] = {}
    write(tmp_path, tokenizer_json=damaged, config_json={"model_type": "d2l-bert"})
    with pytest.raises(InputError, match=r"tokenizer\.json: cannot encode text"):
        PairTokenizer.from_folder(tmp_path)


def test_a_signal_while_the_library_works_is_no_damage(d2l_words: PairTokenizer) -> None:
    def interrupted() -> None:
        raise Interrupted(2, "interrupted")

    with pytest.raises(Interrupted):
        d2l_words._call(interrupted)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": 20}, r"ids; found up to \d+; expected below 20"),
        ({"vocab_size": "many"}, "key vocab_size; found 'many'"),
        ({"max_position_embeddings": -1}, "key max_position_embeddings; found -1"),
        ({"max_position_embeddings": 64, "bertnli": {"max_length": 65}}, "max_length; found 65; expected 64 or less"),
        ({"bertnli": {"max_length": 4}}, "max_length; found 4; expected a whole number of tokens, 5 or more"),
        ({"bertnli": {"max_length": True}}, "max_length; found True"),
        ({"bertnli": {"max_length": "128"}}, "max_length; found '128'"),
        (
            {"bertnli": {"truncation": "tail"}},
            "truncation; found 'tail'; expected longest_first or d2l or proportional",
        ),
        ({"bertnli": {"truncation": []}}, r"truncation; found \[\]"),
        ({"bertnli": {"reads_parse": "no"}}, "reads_parse; found 'no'"),
        ({"bertnli": []}, r"key bertnli; found \[\]; expected a map"),
        ([], "found a JSON list; expected a JSON map"),
        ("{", "cannot be read"),
    ],
)
def test_config_that_does_not_fit(bert: Path, tmp_path: Path, config: Any, message: str) -> None:
    write(tmp_path, vocab_txt=(bert / "vocab.txt").read_text(), config_json=config)
    with pytest.raises(InputError, match=message):
        PairTokenizer.from_folder(tmp_path)


def test_given_values_that_do_not_fit(bert: Path) -> None:
    with pytest.raises(InputError, match="max_length; found 600; expected 512 or less"):
        PairTokenizer.from_folder(bert, max_length=600, max_positions=512)
    size = PairTokenizer.from_folder(bert, vocab_size=len(WORD_PIECES)).vocab_size
    assert size == len(WORD_PIECES)
    with pytest.raises(InputError, match=f"found up to {size - 1}; expected below {size - 1}"):
        PairTokenizer.from_folder(bert, vocab_size=size - 1)
    with pytest.raises(InputError, match="max_length; found 600; expected 512 or less"):
        PairTokenizer.from_d2l_vocab(REFERENCE["vocab"], max_length=600, max_positions=512)
    with pytest.raises(InputError, match="truncation; found 'tail'"):
        PairTokenizer.from_d2l_vocab(REFERENCE["vocab"], truncation="tail")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
def test_a_tampered_tokenizer_json_works_or_is_refused(
    bert: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Any value of the file replaced by another, or removed."""
    content = bert_json(bert)
    place: Any = content
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(_json)
    folder = write(tmp_path_factory.mktemp("tampered"), tokenizer_json=content)
    try:
        encoded = PairTokenizer.from_folder(folder).encode(["the man's [SEP]"], ["é 中文."])
    except InputError:
        return
    assert encoded.lengths[0] == len(encoded.ids)


@pytest.mark.parametrize("sentence", ["a\ud800b", None, 3, ("a", "b"), ["a"]])
@pytest.mark.parametrize("side", ["premise", "hypothesis"])
def test_a_sentence_that_is_no_text_is_named(any_tokenizer: PairTokenizer, sentence: Any, side: str) -> None:
    good, bad = ["a", "b", "c"], ["a", sentence, "c"]
    with pytest.raises(InputError, match=f"{side} of pair 1; found .*; expected (Unicode )?text"):
        any_tokenizer.encode(*((bad, good) if side == "premise" else (good, bad)))


# --- Encoded pairs ---------------------------------------------------------------------------------------------------


def test_nothing_to_encode(any_tokenizer: PairTokenizer) -> None:
    encoded = any_tokenizer.encode([], [])
    assert len(encoded) == len(encoded.ids) == len(encoded.truncated) == 0
    assert {name: values.shape for name, values in pad_batch(encoded, []).items()} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), (0, 0)
    )


def test_truncated_pairs_are_marked(any_tokenizer: PairTokenizer) -> None:
    word = "a"
    lengths = [(63, 62), (63, 63), (125, 0), (126, 0), (0, 126), (1, 1)]
    encoded = any_tokenizer.encode([f"{word} " * p for p, _ in lengths], [f"{word} " * h for _, h in lengths])
    assert encoded.truncated.tolist() == [False, True, False, True, True, False]
    assert encoded.lengths.tolist() == [128] * 5 + [5]


def test_empty_sentences(any_tokenizer: PairTokenizer) -> None:
    first, separator = any_tokenizer.cls_id, any_tokenizer.sep_id
    encoded = any_tokenizer.encode(["", "the"], ["", ""])
    assert next(unpack(encoded)) == ([first, separator, separator], [0, 0, 1])
    assert encoded.lengths.tolist() == [3, 4]
    assert not encoded.truncated.any()


def test_a_pair_is_the_same_alone_and_in_a_batch(any_tokenizer: PairTokenizer) -> None:
    pairs = [(p, h) for p in HARD for h in reversed(HARD)]
    together = list(unpack(any_tokenizer.encode(*zip(*pairs, strict=True))))
    assert together == [next(unpack(any_tokenizer.encode([p], [h]))) for p, h in pairs]


def test_more_sentences_than_the_library_is_given_at_once(bert: Path) -> None:
    tokenizer = PairTokenizer.from_folder(bert, max_length=8)
    premises, hypotheses = [f"man {i}" for i in range(10_000)], [f"dog {i % 7}" for i in range(10_000)]
    encoded = tokenizer.encode(premises, hypotheses)
    assert encoded.ids.dtype == encoded.lengths.dtype == encoded.first_segment.dtype == np.int32
    every = list(unpack(encoded))
    for i in (0, 8191, 8192, 9999):
        assert every[i] == next(unpack(tokenizer.encode([premises[i]], [hypotheses[i]])))


@pytest.mark.parametrize("length", [50_000, pytest.param(1_000_000, marks=pytest.mark.system)])
@pytest.mark.parametrize("piece", ["a", "a ", ".", "(", "Σ.", ". ", "http://", "don't ", "a.", '"x" '])
def test_a_very_long_sentence(any_tokenizer: PairTokenizer, piece: str, length: int) -> None:
    """If a pattern backtracks too often, Oniguruma gives up after ten million steps, and the library panics."""
    long = piece * (length // len(piece))
    encoded = any_tokenizer.encode([long, long], ["the", long])
    assert encoded.lengths.max() <= any_tokenizer.max_length
    assert encoded.truncated.tolist() == (encoded.lengths == any_tokenizer.max_length).tolist()


def test_pad_batch(bert: Path) -> None:
    tokenizer = PairTokenizer.from_folder(bert)
    ids = {token: number for number, token in enumerate(WORD_PIECES)}
    batch = pad_batch(tokenizer.encode(["the man", "dog", "a"], ["red", "two people", "a"]), [1, 0, 2], pad_id=7)
    word = lambda text: [ids[token] for token in text.split()]  # noqa: E731
    assert batch["input_ids"].tolist() == [
        word("[CLS] dog [SEP] two people [SEP]"),
        word("[CLS] the man [SEP] red [SEP]"),
        [*word("[CLS] a [SEP] a [SEP]"), 7],
    ]
    assert batch["attention_mask"].tolist() == [[1] * 6, [1] * 6, [1] * 5 + [0]]
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]
    assert {values.dtype for values in batch.values()} == {np.dtype(np.int64)}


def test_rules_are_in_the_file(d2l_words: PairTokenizer) -> None:
    """Whoever reads tokenizer.json gets the splitting with it, not only our own code."""
    split = json.loads(d2l_words.to_json())["pre_tokenizer"]["pretokenizers"][0]
    pre_tokenizer = pre_tokenizers.Split(Regex(split["pattern"]["Regex"]), behavior=split["behavior"].lower())
    assert [word for word, _ in pre_tokenizer.pre_tokenize_str("isn't.")] == ["is", "n't", "."]


def test_of_an_endless_sentence_the_beginning_is_looked_at(tmp_path, monkeypatch) -> None:
    most = 5000
    monkeypatch.setattr("bertnli.data.tokenizer.MAX_CHARACTERS", most)
    pairs = PairTokenizer.from_folder(tiny.hf_folder(tmp_path))
    endless = "a dog " * (most // 6 + 5)
    encoded_at_once = []
    call = pairs._call
    monkeypatch.setattr(
        pairs, "_call", lambda method, texts, **more: encoded_at_once.append(texts) or call(method, texts, **more)
    )
    premises = [endless, "a dog", endless + ".", "a dog", " " * (most + 1) + "dog"]
    found = pairs.encode(premises, ["a man"] * 5)
    assert found.truncated.tolist() == [True, False, True, False, True]
    assert all(sum(map(len, texts)) <= most or len(texts) == 1 for texts in encoded_at_once)
    for at in range(5):  # the other pairs of the batch change nothing
        alone = pairs.encode([premises[at]], ["a man"])
        assert alone.ids.tolist() == found.ids[found.offsets[at] : found.offsets[at + 1]].tolist()


# --- Truncation that cuts one sentence only --------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["only_first", "only_second"])
def test_one_sentence_is_cut_as_in_transformers(rule: str, bert: Path) -> None:
    theirs = BertTokenizerFast.from_pretrained(bert)
    ours = PairTokenizer.from_folder(bert, max_length=9, truncation=rule)
    sentences = ["", "man", "the man man", "the man the man the man", "man " * 12]
    pairs = [(premise, hypothesis) for premise in sentences for hypothesis in sentences]
    encoded = ours.encode(*zip(*pairs, strict=True))
    for at, pair in enumerate(pairs):
        begin, end = encoded.offsets[at : at + 2]
        premise, hypothesis = ([text] for text in pair)
        try:
            (ids,) = theirs(premise, hypothesis, truncation=rule, max_length=9)["input_ids"]
        except Exception as error:
            assert "too short to respect the provided max_length" in str(error)
            assert at in encoded.unfit, pair
        else:
            assert at not in encoded.unfit, pair
            assert encoded.ids[begin:end].tolist() == ids, pair
        assert encoded.truncated[at] == (len(theirs(premise, hypothesis)["input_ids"][0]) > 9)
    assert 0 < len(encoded.unfit) < len(pairs)
    kept = "hypothesis" if rule == "only_first" else "premise"
    assert ours.refusal.startswith(f"the {kept} alone fills the 9 tokens of a pair, and truncation {rule} cuts only")


def test_another_length_and_truncation_than_the_folders(bert: Path) -> None:
    changed = PairTokenizer.from_folder(bert).changed(16, "only_first", 512)
    assert changed.settings == PairTokenizer.from_folder(bert, max_length=16, truncation="only_first").settings
    assert changed.fingerprint != PairTokenizer.from_folder(bert).fingerprint
    with pytest.raises(InputError, match="max_length; found 600; expected 512 or less"):
        changed.changed(600, None, 512)
    with pytest.raises(InputError, match="truncation; found 'first'; expected longest_first or"):
        changed.changed(None, "first", 512)
