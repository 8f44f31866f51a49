"""Sentence pairs to token ids, with one `tokenizer.json` (the tokenizers library) for every kind of vocabulary.

A pair becomes [CLS] premise [SEP] hypothesis [SEP], or as tokenizer.json's template has it. The library encodes each
sentence; numpy truncates and joins them here, because the library does not have d2l's truncation. For pairs that need
no truncation, tokenizer.json alone, read by `tokenizers.Tokenizer.from_file`, gives the same ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bertnli.common.errors import InputError
from bertnli.common.files import read_json, read_map
from bertnli.data import exact_scores, hf_tokenizer, pair_template, tokenizer_files
from bertnli.data.encoded import Encoded
from bertnli.data.positions import usable_positions
from bertnli.data.sentence_pool import SentencePool
from bertnli.data.truncation import TRUNCATIONS, unfit

MIN_LENGTH = 5  # three special tokens, or more, and one token of each sentence
MAX_CHARACTERS = 1 << 20  # the rest of a longer sentence is ignored: it would cost memory and time, and be truncated
DEFAULT_LENGTH = 128
_SENTENCES = 8192  # sentences that are encoded in one call, at most
_PADDING = {"WordPiece": "[PAD]", "WordLevel": "<pad>", "BPE": "<pad>", "Unigram": "<pad>"}  # if not stated
_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json"),  # vocab.json is d2l's, or RoBERTa's with merges.txt
    *("sentencepiece.bpe.model", "spm.model", "spiece.model"),
)
_SIDES = ("right", "left")


@dataclass(frozen=True)
class TokenizerSettings:
    """The settings that, with tokenizer.json, determine the model's input; in config.json under the key `bertnli`."""

    truncation: str  # a name in TRUNCATIONS
    max_length: int  # tokens of a pair, special tokens included
    reads_parse: bool  # the model reads SNLI's binary-parse columns, as d2l's models do, not the raw sentences
    hypothesis_only: bool = False  # a baseline that sees no premise: [CLS] [SEP] hypothesis [SEP]
    truncation_side: str = "right"  # where tokens of a sentence are cut off: at its end (right) or its beginning (left)

    def check(self, where: str, max_positions: int | None = None) -> None:
        """Raises InputError that names `where` for an impossible value, or a length above `max_positions`."""
        if not isinstance(self.truncation, str) or self.truncation not in TRUNCATIONS:
            raise InputError(f"{where}: truncation", found=repr(self.truncation), expected=" or ".join(TRUNCATIONS))
        if self.truncation_side not in _SIDES:
            raise InputError(
                f"{where}: truncation_side", found=repr(self.truncation_side), expected=" or ".join(_SIDES)
            )
        is_int = isinstance(self.max_length, int) and not isinstance(self.max_length, bool)
        if not is_int or self.max_length < MIN_LENGTH:
            expected = f"a whole number of tokens, {MIN_LENGTH} or more"
            raise InputError(f"{where}: max_length", found=repr(self.max_length), expected=expected)
        if max_positions is not None and self.max_length > max_positions:
            expected = f"{max_positions} or less, what the model's positions are for"
            raise InputError(f"{where}: max_length", found=str(self.max_length), expected=expected)
        for key in ("reads_parse", "hypothesis_only"):
            if not isinstance(getattr(self, key), bool):
                raise InputError(f"{where}: {key}", found=repr(getattr(self, key)), expected="true or false")

    def changed(self, **settings: Any) -> TokenizerSettings:
        """The same with these settings; None: as it is."""
        return replace(self, **{name: value for name, value in settings.items() if value is not None})


class PairTokenizer:
    """Sentence pairs to token ids, by WordPiece, byte-level BPE, Unigram or d2l's word vocabulary.

    If the text of a sentence contains a special token, it becomes the id of that token, as in transformers ("[SEP]"
    anywhere in a WordPiece sentence) and in d2l ("<sep>" as a word of its own).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: TokenizerSettings,
        where: str,
        pad_id: int | None = None,
        notes: tuple[str, ...] = (),
    ):
        """Raises InputError that names `where` (the file) if the tokenizer is not one of an encoder.

        pad_id: default: the id of [PAD] or <pad>. notes: what the user should know about how it was read.
        """
        self.settings = settings
        self.notes = notes
        self._tokenizer = tokenizer
        self._where = where
        tokenizer.no_truncation()  # published files may set a maximum length and padding
        tokenizer.no_padding()
        model = tokenizer_files.kind(tokenizer)
        if model not in _PADDING:
            raise InputError(f"{where}: model", found=model, expected=" or ".join(_PADDING))
        unknown = getattr(tokenizer.model, "unk_token", None)  # byte-level BPE needs none, Unigram has an id
        # The model uses no added token as unk_token.
        if unknown is not None and tokenizer.model.token_to_id(unknown) is None:
            raise InputError(f"{where}: vocabulary", found=f"no {unknown}", expected=unknown)
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        if pad_id is None:
            tokenizer_files.check_tokens(vocabulary, [_PADDING[model]], where)
            pad_id = vocabulary[_PADDING[model]]
        self.pad_id = pad_id
        # All ids are below it; some may be unused. A blank line of vocab.txt makes an empty token, which no text has.
        self.vocab_size = 1 + max(number for token, number in vocabulary.items() if token)
        if pad_id >= self.vocab_size:
            raise InputError(
                f"{where}: pad_token_id", found=f"{pad_id}", expected=f"below {self.vocab_size}, as all ids"
            )
        # The file's own template, because other programs that read the file use it.
        self.template = pair_template.read(tokenizer, where)
        if settings.max_length < self.template.special_tokens + 2:
            expected = f"{self.template.special_tokens + 2} or more: special tokens, and a token of each sentence"
            raise InputError(f"{where}: max_length", found=str(settings.max_length), expected=expected)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        max_length: int | None = None,
        truncation: str | None = None,
        hypothesis_only: bool | None = None,
        max_positions: int | None = None,
        vocab_size: int | None = None,
    ) -> PairTokenizer:
        """The tokenizer of a model folder or bundle.

        What bertnli wrote is read as it is; a folder that others made as transformers reads it (hf_tokenizer.py); d2l's
        folder by its vocab.json. Each setting is the argument, else the value in config.json's key `bertnli`, else the
        folder's own: for the maximum length model_max_length, or the number of positions. Default of `max_positions`
        and `vocab_size`: the values in config.json. Raises InputError that names the file if there is no tokenizer, or
        it is damaged or does not fit the model (ids or token types that have no embedding).
        """
        folder = Path(folder)
        config_file = folder / "config.json"
        config = read_map(config_file)
        _size(config, "max_position_embeddings", config_file)
        max_positions = max_positions or usable_positions(config)
        vocab_size = vocab_size or _size(config, "vocab_size", config_file)
        kept = config.get("bertnli", {})
        if not isinstance(kept, dict):
            raise InputError(f"{config_file}: key bertnli", found=repr(kept), expected="a map")
        file = next((folder / name for name in _FILES if (folder / name).is_file()), None)
        if file is None:
            raise InputError(f"{folder}: no tokenizer", expected=f"one of {', '.join(_FILES)} in it")

        side, own_length, pad_id, notes = "right", None, None, []
        is_ours = file.name == "tokenizer.json" and ("max_length" in kept or config.get("model_type") == "d2l-bert")
        if file.name == "vocab.json" and config.get("model_type") in (None, "d2l-bert"):
            tokenizer = tokenizer_files.d2l(read_json(file), str(file))
        elif is_ours:
            tokenizer = tokenizer_files.load(file)
            pad_id = _size(config, "pad_token_id", config_file, least=0)
        else:
            theirs = hf_tokenizer.read(folder, config, vocab_size)
            tokenizer, pad_id, side = theirs.tokenizer, theirs.pad_id, theirs.truncation_side
            own_length, notes = theirs.max_length, list(theirs.notes)

        is_d2l = tokenizer_files.kind(tokenizer) == "WordLevel"
        length, origin = _length(None if is_d2l else own_length, max_positions, is_d2l)
        settings = TokenizerSettings(
            truncation="d2l" if is_d2l else "longest_first",
            max_length=length,
            reads_parse=is_d2l,
            truncation_side=side,
        )
        settings = replace(settings, **{key: kept[key] for key in asdict(settings) if key in kept})
        settings.check(f"{config_file}: key bertnli", max_positions)
        if max_length is None and "max_length" not in kept and origin:
            notes.append(f"{folder}: of a pair up to {length} tokens are read, {origin}")
        settings = settings.changed(max_length=max_length, truncation=truncation, hypothesis_only=hypothesis_only)
        settings.check(f"tokenizer of {folder}", max_positions)

        pairs = cls(tokenizer, settings, str(file), pad_id, tuple(notes))
        if vocab_size is not None and pairs.vocab_size > vocab_size:
            raise InputError(
                f"{file}: ids",
                found=f"up to {pairs.vocab_size - 1}",
                expected=f"below {vocab_size}, the number of the model's embeddings",
                do="use the tokenizer that the model was trained with",
            )
        if pairs.has_token_types and config.get("type_vocab_size") == 1:  # as in klue/roberta-base
            raise InputError(
                f"{config_file}: key type_vocab_size",
                found="1, and a tokenizer that gives a pair's second sentence another type than its first",
                expected="a tokenizer without token types, or 2 types",
                do='if the model was trained without them, add "model_input_names": ["input_ids", "attention_mask"] '
                "to tokenizer_config.json",
            )
        return pairs

    @classmethod
    def from_d2l_vocab(
        cls,
        vocab: Sequence[str],
        *,
        max_length: int = DEFAULT_LENGTH,
        truncation: str = "d2l",
        hypothesis_only: bool = False,
        max_positions: int | None = None,
    ) -> PairTokenizer:
        """The tokenizer of d2l's `vocab.json`, a list of tokens ordered by id. Raises InputError for anything else."""
        settings = TokenizerSettings(truncation, max_length, reads_parse=True, hypothesis_only=hypothesis_only)
        settings.check("tokenizer of d2l's vocabulary", max_positions)
        return cls(tokenizer_files.d2l(vocab, "d2l vocabulary"), settings, "d2l vocabulary")

    def changed(self, max_length: int | None, truncation: str | None, max_positions: int) -> PairTokenizer:
        """The same with other settings; None: as they are. Raises InputError for an impossible one."""
        settings = self.settings.changed(max_length=max_length, truncation=truncation)
        settings.check(f"tokenizer of {self._where}", max_positions)
        return PairTokenizer(self._tokenizer, settings, self._where, self.pad_id, self.notes)

    def to_json(self) -> str:
        """The text of tokenizer.json. Equal tokenizers have equal texts."""
        return exact_scores.rewrite(self._tokenizer.to_str(pretty=True))

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, and unless it is d2l's also tokenizer_config.json.

        Without tokenizer_config.json, transformers uses only the vocabulary, with lower case, and CrossEncoder does not
        truncate. The caller writes the settings into config.json (`asdict(settings)`).
        """
        folder = Path(folder)
        (folder / "tokenizer.json").write_text(self.to_json(), encoding="utf-8")
        if self.in_transformers:
            content = json.dumps(self._transformers_config(), indent=2, ensure_ascii=False)
            (folder / "tokenizer_config.json").write_text(content + "\n", encoding="utf-8")

    @property
    def in_transformers(self) -> bool:
        """Whether transformers can read the files that `save` writes; it has no tokenizer such as d2l's."""
        return tokenizer_files.kind(self._tokenizer) in tokenizer_files.SUBWORDS

    def _transformers_config(self) -> dict[str, Any]:
        named = {
            "cls_token": self._tokenizer.id_to_token(self.cls_id),
            "sep_token": self._tokenizer.id_to_token(self.sep_id),
            "unk_token": getattr(self._tokenizer.model, "unk_token", None),
        }
        # transformers looks for named tokens in texts, so only those that the tokenizer looks for as well are named.
        added = {token.content for token in self._tokenizer.get_added_tokens_decoder().values()}
        special = {role: token for role, token in named.items() if token in added}
        types = ["token_type_ids"] if self.has_token_types else []
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "model_input_names": ["input_ids", *types, "attention_mask"],
            "truncation_side": self.settings.truncation_side,
            "pad_token": self._tokenizer.id_to_token(self.pad_id),
            **special,
        }

    @property
    def cls_id(self) -> int:
        """The id of the token that begins a pair."""
        return self.template.prefix[0]

    @property
    def sep_id(self) -> int:
        """The id of the token after the premise."""
        return self.template.separators[0]

    @property
    def has_token_types(self) -> bool:
        """Whether tokens of the hypothesis have another type than those of the premise."""
        return self.template.has_types

    @property
    def room(self) -> int:
        """How many tokens of a pair may be its own: the maximum length without special tokens."""
        return self.max_length - self.template.special_tokens

    @property
    def max_length(self) -> int:
        """The maximum number of tokens of a pair, special tokens included."""
        return self.settings.max_length

    @property
    def lower_case(self) -> bool:
        """Whether the tokenizer lower-cases the text."""
        normalizer = self._tokenizer.normalizer
        return normalizer is not None and bool(normalizer.normalize_str("A") == "a")

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of everything that the ids of a text depend on."""
        parts = [self._tokenizer.to_str(pretty=True), self.settings.truncation, str(self.settings.max_length)]
        if self.settings.hypothesis_only:  # only then, so that the fingerprints in existing bundles stay valid
            parts.append("hypothesis only")
        if self.settings.truncation_side != "right":
            parts.append(self.settings.truncation_side)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def encode(self, premises: Sequence[str], hypotheses: Sequence[str], *, truncation: str | None = None) -> Encoded:
        """Each pair as [CLS] premise [SEP] hypothesis [SEP], truncated to `max_length`, in the same order.

        With `hypothesis_only`, every premise is taken as empty: [CLS] [SEP] hypothesis [SEP]. Of a sentence longer than
        `MAX_CHARACTERS` the rest is ignored (at its end or its beginning, as `truncation_side` says), and its pair
        counts as truncated. truncation: a rule in place of the settings' own.

        Raises InputError that names the pair if a sentence is not text or has a lone surrogate, which is not Unicode.
        """
        rule = truncation or self.settings.truncation
        if self.settings.hypothesis_only:
            if not all(isinstance(premise, str) for premise in premises):
                _refuse(premises, hypotheses)
            premises = [""] * len(premises)
        pool = self.pool(premises, hypotheses)
        p, h = pool.premises, pool.hypotheses
        len_p, len_h = pool.lengths[p], pool.lengths[h]
        keep_p, keep_h = TRUNCATIONS[rule](len_p, len_h, self.room)
        start_p, start_h = pool.starts[p], pool.starts[h]
        if self.cuts_beginnings:
            start_p, start_h = start_p + pool.kept[p] - keep_p, start_h + pool.kept[h] - keep_h
        truncated = (keep_p + keep_h < len_p + len_h) | pool.too_long[p] | pool.too_long[h]
        refused = np.flatnonzero(unfit(rule, len_p, len_h, self.room))
        return pool.join(start_p, keep_p, start_h, keep_h, truncated=truncated, unfit=refused)

    def pool(self, premises: Sequence[str], hypotheses: Sequence[str], *, whole: bool = False) -> SentencePool:
        """The sentences of pairs, each tokenised once, up to `MAX_CHARACTERS` of its text.

        Its `ids` have those tokens that fit into a pair; with `whole` all, and their places in the text. Raises as
        `encode` does.
        """
        assert len(premises) == len(hypotheses), (len(premises), len(hypotheses))
        if not all(isinstance(text, str) for text in chain(premises, hypotheses)):
            _refuse(premises, hypotheses)
        number = {text: i for i, text in enumerate(dict.fromkeys(chain(premises, hypotheses)))}
        try:
            ids, lengths, characters = self._encode_sentences(list(number), whole)
        except TypeError:  # the library raises it for a string that is not Unicode
            _refuse(premises, hypotheses)
            raise
        kept = lengths if whole else np.minimum(lengths, self.room)
        return SentencePool(
            template=self.template,
            ids=ids,
            starts=np.concatenate(([0], np.cumsum(kept)))[:-1] + self.template.special_tokens,
            kept=kept,
            lengths=lengths,
            too_long=np.fromiter((len(text) > MAX_CHARACTERS for text in number), np.bool_, len(number)),
            premises=np.fromiter(map(number.__getitem__, premises), np.int64, len(premises)),
            hypotheses=np.fromiter(map(number.__getitem__, hypotheses), np.int64, len(hypotheses)),
            characters=characters,
        )

    @property
    def cuts_beginnings(self) -> bool:
        """Whether tokens of a sentence are cut off at its beginning."""
        return self.settings.truncation_side == "left"

    @property
    def may_refuse(self) -> bool:
        """Whether `encode` can find pairs that truncation cannot shorten."""
        return self.settings.truncation in ("only_first", "only_second")

    @property
    def refusal(self) -> str:
        """What is wrong with a pair in `Encoded.unfit`."""
        kept, cut = ("hypothesis", "premise") if self.settings.truncation == "only_first" else ("premise", "hypothesis")
        return (
            f"the {kept} alone fills the {self.max_length} tokens of a pair, "
            f"and truncation {self.settings.truncation} cuts only the {cut}"
        )

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The tokens of `ids`, as written in the vocabulary."""
        return [self._tokenizer.id_to_token(token) or f"?{token}" for token in ids]

    def _encode_sentences(
        self, sentences: list[str], whole: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64] | None]:
        """The ids of a pool, full lengths, and the characters of a pool if it is `whole`."""
        special = self.template.join([], [])
        parts = [np.array(special, np.int32)]
        places = [np.zeros((len(special), 2), np.int64)]
        lengths = np.zeros(len(sentences), np.int64)
        encode = self._tokenizer.encode_batch if whole else self._tokenizer.encode_batch_fast  # fast: without places
        begin = 0
        while begin < len(sentences):
            # The library's results take a hundred bytes for each token, so only few exist at the same time.
            characters = np.cumsum([len(text) for text in sentences[begin : begin + _SENTENCES]])
            end = begin + max(1, int(np.searchsorted(characters, MAX_CHARACTERS, side="right")))
            read = slice(-MAX_CHARACTERS, None) if self.cuts_beginnings else slice(MAX_CHARACTERS)
            some = [text[read] for text in sentences[begin:end]]
            results = self._call(encode, some, add_special_tokens=False)
            lengths[begin:end] = [len(result) for result in results]
            kept = slice(None) if whole else slice(-self.room, None) if self.cuts_beginnings else slice(self.room)
            parts.append(np.fromiter(chain.from_iterable(result.ids[kept] for result in results), np.int32))
            if whole:
                for text, cut, result in zip(sentences[begin:end], some, results, strict=True):
                    before = len(text) - len(cut) if self.cuts_beginnings else 0
                    places.append(np.array(result.offsets, np.int64).reshape(-1, 2) + before)
            begin = end
        return np.concatenate(parts), lengths, np.concatenate(places) if whole else None

    def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return tokenizer_files.call(method, self._where, *arguments, **options)


def _refuse(premises: Sequence[object], hypotheses: Sequence[object]) -> None:
    """Raise InputError that names the first sentence that is not Unicode text."""
    for name, sentences in (("premise", premises), ("hypothesis", hypotheses)):
        for pair, text in enumerate(sentences):
            if not isinstance(text, str):
                raise InputError(f"{name} of pair {pair}", found=repr(text), expected="text")
            try:
                text.encode()
            except UnicodeEncodeError as error:
                found = f"a lone surrogate at character {error.start}"
                raise InputError(f"{name} of pair {pair}", found=found, expected="Unicode text") from None


def _length(own: int | None, max_positions: int | None, is_d2l: bool) -> tuple[int, str]:
    """The maximum length of a model whose files bertnli did not write, and where it comes from, for a note."""
    if is_d2l or (max_positions is None and own is None):
        return min(DEFAULT_LENGTH, max_positions or DEFAULT_LENGTH), ""  # 128: the book's
    if own is not None and MIN_LENGTH <= own <= (max_positions or own):
        return own, "its model_max_length"
    assert max_positions is not None or own is not None
    return max_positions or DEFAULT_LENGTH, "as many as its positions are for"


def _size(config: Mapping[str, Any], key: str, file: Path, least: int = 1) -> int | None:
    value = config.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise InputError(f"{file}: key {key}", found=repr(value), expected=f"a whole number of {least} or more")
    return value
