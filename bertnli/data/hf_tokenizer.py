"""The tokenizer of a model that others made, read from its folder as transformers' AutoTokenizer reads it.

docs/models.md has the rule in words. It is that of transformers 5. Where version 4.57 reads a folder differently, it is
refused (BERT's classes), or a note says it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bertnli.common.errors import InputError, first_line
from bertnli.common.files import read_map
from bertnli.data import exact_scores, pair_template, sentencepiece_files, special_tokens, tokenizer_files
from bertnli.data.hf_classes import (
    CLASSES,
    FILE_CLASS,
    FILE_CLASSES,
    NORMALIZER,
    OF_MODEL,
    TAKE_THE_FILE,
    Options,
    TokenizerClass,
    Vocabulary,
)

_EXPECTED = f"one of {', '.join(CLASSES)}, or {FILE_CLASS} with a tokenizer.json"


@dataclass(frozen=True)
class HfTokenizer:
    """A tokenizer that joins a pair as the model expects it, and what its files say about its use.

    max_length: of a pair, in tokens; None if the files give no usable number. notes: what the user should know.
    """

    tokenizer: Tokenizer
    pad_id: int
    truncation_side: str
    max_length: int | None
    notes: tuple[str, ...]


def read(folder: Path, config: Mapping[str, Any], vocab_size: int | None) -> HfTokenizer:
    """The tokenizer of a folder that has tokenizer.json or vocab.txt.

    config: the content of config.json. vocab_size: the number of the model's embeddings. Raises InputError that names
    the file, and the class or the key that bertnli cannot read.
    """
    return _Folder(folder, config, read_map(folder / "tokenizer_config.json")).read(vocab_size)


@dataclass(frozen=True)
class _Folder:
    path: Path
    config: Mapping[str, Any]  # config.json
    stated: Mapping[str, Any]  # tokenizer_config.json
    notes: list[str] = field(default_factory=list)

    @property
    def stated_file(self) -> Path:
        return self.path / "tokenizer_config.json"

    @property
    def saved_file(self) -> Path:
        return self.path / "tokenizer.json"

    @cached_property
    def saved(self) -> Tokenizer | None:
        """What is in tokenizer.json; None without one."""
        return tokenizer_files.load(self.saved_file) if self.saved_file.is_file() else None

    @cached_property
    def kind(self) -> TokenizerClass | None:
        """None: its class takes tokenizer.json as it is."""
        return CLASSES.get(self.class_name)

    def read(self, vocab_size: int | None) -> HfTokenizer:
        if self.stated.get("split_special_tokens"):
            raise InputError(
                f"{self.stated_file}: key split_special_tokens",
                found="true",
                expected="false: tokenizer.json cannot keep it, so a bundle would give other ids",
            )
        side = self.truncation_side()
        padding = None if self.saved is None else self.saved.padding
        if self.saved is not None:  # a file may also say how to cut and pad
            self.saved.no_truncation()
            self.saved.no_padding()
        if self.kind is None:
            tokenizer, pad = self._as_it_is(vocab_size, padding)
        else:
            tokenizer, pad = self._of_class(self.kind, vocab_size)
        vocabulary = tokenizer.get_vocab()
        tokenizer_files.check_tokens(vocabulary, [pad], str(self.saved_file))
        return HfTokenizer(tokenizer, vocabulary[pad], side, self.max_length(), tuple(self.notes))

    def _add(
        self,
        tokenizer: Tokenizer,
        tokens: special_tokens.SpecialTokens,
        vocab_size: int | None,
        needed: Sequence[str] = special_tokens.NEEDED,
    ) -> None:
        special_tokens.add(tokenizer, tokens, vocab_size, needed)
        if moved := special_tokens.moved(tokenizer, tokens):
            self.notes.append(f"{self.path}: as in transformers, the token {', '.join(moved[:3])}")

    @cached_property
    def class_name(self) -> str:
        """The tokenizer's class, without `Fast`. Raises InputError unless bertnli knows it."""
        for file, content in ((self.stated_file, self.stated), (self.path / "config.json", self.config)):
            code = content.get("auto_map")
            if isinstance(code, Mapping):
                code = code.get("AutoTokenizer")
            elif content is self.config:
                code = None
            if code:
                raise InputError(
                    f"{file}: key auto_map",
                    found=f"a tokenizer with code of its own, {json.dumps(code)[:100]}",
                    expected=_EXPECTED,
                    do="choose another model, because bertnli runs no code from a model's folder",
                )
            name = content.get("tokenizer_class")
            if name is not None:
                takes_the_file = self.config.get("model_type") in TAKE_THE_FILE
                for known in (name, name.removesuffix("Fast")) if isinstance(name, str) else ():
                    if known in CLASSES or known in FILE_CLASSES:
                        return FILE_CLASS if takes_the_file else known
                if takes_the_file and isinstance(name, str):
                    self.notes.append(
                        f"{file}: key tokenizer_class is {name[:60]}. As in transformers 5, tokenizer.json is read as "
                        "it is. Version 4.57 makes that class of it, which may join a pair in another way"
                    )
                    return FILE_CLASS
                raise InputError(
                    f"{file}: key tokenizer_class",
                    found=repr(name)[:80],
                    expected=_EXPECTED,
                    do="choose a model with one of these tokenizers",
                )
        return OF_MODEL.get(str(self.config.get("model_type")), "BertTokenizer")

    # Classes with a vocabulary: everything else is made anew, as tokenizer_config.json says.

    def _of_class(self, kind: TokenizerClass, vocab_size: int | None) -> tuple[Tokenizer, str]:
        """The tokenizer, and the token for padding."""
        pieces = None if self.saved else self._sentencepiece(kind)
        tokens = special_tokens.read(
            self.path,
            self.stated,
            self.saved,
            special_tokens.Defaults(kind.names, kind.further, kind.strips_before_mask),
            None if pieces is None else pieces.added,
        )
        names = {**kind.names, **{role: str(token) for role, token in tokens.named.items()}}
        if pieces is not None:
            listed = kind.with_specials(_writable(pieces.pieces), names)
            vocabulary = Vocabulary(pieces=listed, unknown=pieces.unknown, normalization=pieces.normalization)
        elif self.saved is not None:
            vocabulary = self._saved_vocabulary(kind, self.saved)
        else:
            vocabulary = self._listed_vocabulary(kind)
        try:
            tokenizer = kind.make(vocabulary, self._options(kind), names)
        except Exception as error:  # the library raises plain Exception
            raise InputError(f"{self._vocabulary_file(kind)}: damaged", found=first_line(error)) from None
        if self.saved is not None:
            self._compare(kind, tokenizer, self.saved)
            special_tokens.check_saved(self.saved, tokens, str(self.stated_file))
        elif kind.differs and pieces is not None:
            self.notes.append(
                f"{self._vocabulary_file(kind)} is read as transformers 5 reads it. Version 4.57 {kind.differs}"
            )
        roles = ("pad_token", kind.first, kind.separator)
        self._add(tokenizer, tokens, vocab_size, roles)
        needed = [str(tokens.named.get(role, f"a {role}")) for role in roles]
        tokenizer_files.check_tokens(tokenizer.get_vocab(), needed, str(self._vocabulary_file(kind)))
        self._join(kind, tokenizer, needed[1], needed[2])
        return tokenizer, needed[0]

    def _options(self, kind: TokenizerClass) -> Options:
        """The keys of tokenizer_config.json that the class reads. Raises InputError for a value of another type."""
        options = {}
        for key, default in kind.options.items():
            options[key] = value = self.stated.get(key, default)
            if isinstance(default, int) and not isinstance(default, bool):
                fits, expected = isinstance(value, int) and not isinstance(value, bool) and value >= 0, "an id"
            else:
                fits = isinstance(value, bool) or (value is None and default is None)
                expected = "true or false" if default is not None else "true, false or null"
            if not fits:
                raise InputError(f"{self.stated_file}: key {key}", found=repr(value)[:80], expected=expected)
        return options

    def _vocabulary_file(self, kind: TokenizerClass) -> Path:
        return self.saved_file if self.saved is not None else self.path / kind.files[0]

    def _sentencepiece(self, kind: TokenizerClass) -> sentencepiece_files.SentencePieces | None:
        file = self.path / kind.files[0]
        if kind.model != "Unigram":
            return None
        self._check_files(kind)
        return sentencepiece_files.read(file)

    def _check_files(self, kind: TokenizerClass) -> None:
        if missing := [name for name in kind.files if not (self.path / name).is_file()]:
            do = "copy it from where the model comes from"
            if (self.path / "vocab.txt").is_file():  # as Chinese models of ALBERT have it
                do += '; if the model reads vocab.txt, write "tokenizer_class": "BertTokenizer" '
                do += f"into {self.stated_file}"
            raise InputError(
                f"{self.path}: no {' and no '.join(missing)}",
                expected=f"tokenizer.json, or {' and '.join(kind.files)}, which {self.class_name} reads",
                do=do,
            )

    def _listed_vocabulary(self, kind: TokenizerClass) -> Vocabulary:
        """Of vocab.txt, or of vocab.json and merges.txt."""
        self._check_files(kind)
        files = [self.path / name for name in kind.files]
        if kind.model == "WordPiece":
            return Vocabulary(ids=tokenizer_files.read_vocabulary(files[0]))
        return Vocabulary(*tokenizer_files.read_bpe(*files))

    def _saved_vocabulary(self, kind: TokenizerClass, saved: Tokenizer) -> Vocabulary:
        """Of tokenizer.json."""
        if (model := tokenizer_files.kind(saved)) != kind.model:
            raise InputError(
                f"{self.saved_file}: model",
                found=model,
                expected=f"{kind.model}, as the tokenizer's class is {self.class_name}",
                do=self._take_the_file,
            )
        content = json.loads(saved.to_str())
        listed = content["model"]["vocab"]
        if kind.model != "Unigram":
            merges = [tuple(pair) for pair in content["model"].get("merges", ())]
            return Vocabulary(ids=listed, merges=merges)
        # Not of `saved`: the library reads some scores with another last digit, and transformers reads them by Python.
        listed = read_map(self.saved_file)["model"]["vocab"]
        maps = (part.get("precompiled_charsmap") for part in _parts(content["normalizer"], "normalizers"))
        compiled = next(filter(None, maps), "")
        return Vocabulary(pieces=_writable(listed), normalization=base64.b64decode(compiled))

    def _compare(self, kind: TokenizerClass, made: Tokenizer, saved: Tokenizer) -> None:
        """transformers 4.57 takes these parts from tokenizer.json, and 5 makes them anew.

        BERT's must be the same. For the other classes, a note says that they are not.
        """
        theirs, ours = _comparable(saved, kind), _comparable(made, kind)
        for part, mine in ours.items():
            if theirs[part] != mine:
                self._differ(
                    kind, part, json.dumps(theirs[part], ensure_ascii=False), json.dumps(mine, ensure_ascii=False)
                )

    def _join(self, kind: TokenizerClass, tokenizer: Tokenizer, first: str, separator: str) -> None:
        """Set how the tokenizer joins a pair, and compare it with tokenizer.json."""
        typed = kind.separators == 1
        pair_template.build(tokenizer, first, separator, separators=kind.separators, has_types=typed)
        where = str(self.saved_file)
        ours = pair_template.read(tokenizer, where)
        if self.saved is not None and (self.saved.post_processor is not None or not kind.keeps_template):
            theirs = pair_template.read(self.saved, where)
            if kind.keeps_template:
                tokenizer.post_processor, ours = self.saved.post_processor, theirs
            elif theirs[:3] != ours[:3] or (ours.has_types and self.has_types and not theirs.has_types):
                self._differ(kind, "post_processor", theirs.in_words(self.saved), ours.in_words(tokenizer))
        if ours.has_types and not self.has_types:
            pair_template.without_types(tokenizer, ours)

    def _differ(self, kind: TokenizerClass, part: str, found: str, made: str) -> None:
        if kind.model == "WordPiece":
            raise InputError(
                f"{self.saved_file}: {part}",
                found=found[:200],
                expected=f"{made}, which {self.class_name} makes in transformers 5",
                do=self._take_the_file,
            )
        self.notes.append(
            f"{self.saved_file}: its {part} is not what {self.class_name} makes in transformers 5, which is read here. "
            f"Version 4.57 takes the file's. For that, {self._take_the_file}"
        )

    @property
    def _take_the_file(self) -> str:
        return f'if tokenizer.json is right, write "tokenizer_class": "{FILE_CLASS}" into {self.stated_file}'

    # The other classes: tokenizer.json as it is.

    def _as_it_is(self, vocab_size: int | None, padding: Mapping[str, Any] | None) -> tuple[Tokenizer, str]:
        """The tokenizer, and the token for padding. padding: what tokenizer.json says of it."""
        if self.saved is None:
            raise InputError(
                f"{self.path}: no tokenizer.json", expected=f"one, which is all that {self.class_name} reads"
            )
        if (model := tokenizer_files.kind(self.saved)) not in tokenizer_files.SUBWORDS:
            raise InputError(f"{self.saved_file}: model", found=model, expected=" or ".join(tokenizer_files.SUBWORDS))
        tokens = special_tokens.read(self.path, self.stated, self.saved, special_tokens.Defaults())
        self._add(self.saved, tokens, vocab_size)
        template = pair_template.read(self.saved, str(self.saved_file))
        if template.has_types and not self.has_types:
            pair_template.without_types(self.saved, template)
        pad = tokens.named.get("pad_token") or (padding or {}).get("pad_token")
        if pad is None:  # transformers pads nothing then; any token does, because the model masks it
            known = (self.saved.id_to_token(self._pad_id()), "[PAD]", "<pad>")
            pad = next((one for one in known if one and self.saved.token_to_id(one) is not None), "[PAD]")
        return self.saved, str(pad)

    def _pad_id(self) -> int:
        number = self.config.get("pad_token_id")
        return number if isinstance(number, int) and 0 <= number < 2**32 else 2**32 - 1

    # How it is used.

    @cached_property
    def has_types(self) -> bool:
        """Whether token types are among the model's inputs."""
        names = self.stated.get("model_input_names")
        if names is None:
            stated = None if self.kind is None else self.kind.has_types
            return self._types_by_version() if stated is None else stated
        if not isinstance(names, list):
            raise InputError(
                f"{self.stated_file}: key model_input_names", found=repr(names)[:80], expected="a list of names"
            )
        return "token_type_ids" in names

    def _types_by_version(self) -> bool:
        """Whether tokenizer.json gives types if nothing is stated: those of its template in transformers 4, none in 5.

        The model was made with the version in config.json.
        """
        version = self.config.get("transformers_version")
        old = isinstance(version, str) and version.startswith(("3.", "4."))
        taken = "4 does: with token types" if old else "5 does: without token types"
        other = "[]" if old else '["input_ids", "token_type_ids", "attention_mask"]'
        self.notes.append(
            f"{self.stated_file} does not say whether the model reads token types. It is read as transformers {taken}. "
            f'If that is wrong, add "model_input_names": {other}'
        )
        return old

    def truncation_side(self) -> str:
        side = self.stated.get("truncation_side")
        if side is None:
            truncation = None if self.saved is None else self.saved.truncation
            side = (truncation or {}).get("direction", "right")
        if side not in ("right", "left"):
            raise InputError(
                f"{self.stated_file}: key truncation_side", found=repr(side)[:80], expected="right or left"
            )
        return str(side)

    def max_length(self) -> int | None:
        """model_max_length, if it is a usable number. transformers writes 1e30 for a tokenizer without a maximum."""
        value = self.stated.get("model_max_length", self.stated.get("max_len"))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return int(value) if is_number and 1 <= value < 1e9 else None


def _writable(pieces: Iterable[Sequence[Any]]) -> list[tuple[str, float]]:
    return [(piece, exact_scores.writable(score)) for piece, score in pieces]


def _parts(content: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, a sequence's one by one."""
    if content is None:
        return []
    return [one for part in content[name] for one in _parts(part, name)] if name in content else [content]


def _comparable(tokenizer: Tokenizer, kind: TokenizerClass) -> dict[str, Any]:
    """The parts of tokenizer.json that ids depend on, but for the vocabulary and what tokenizer_config.json sets."""
    content = json.loads(tokenizer.to_str())
    model = {key: value for key, value in content["model"].items() if key not in ("vocab", "merges")}
    parts = {
        "normalizer": _parts(content["normalizer"], "normalizers"),
        "pre_tokenizer": _parts(content["pre_tokenizer"], "pretokenizers"),
        "model": model,
    }
    # What both versions set, as tokenizer_config.json says.
    theirs = {"BertNormalizer": NORMALIZER.values(), "ByteLevel": ("add_prefix_space", "trim_offsets")}
    for part in (*parts["normalizer"], *parts["pre_tokenizer"]):
        for attribute in theirs.get(part["type"], ()):
            part.pop(attribute, None)
    if kind.model == "BPE":  # all bytes are in a byte-level vocabulary, so nothing is unknown
        unused = ("unk_token", "fuse_unk")
        parts["model"] = {key: value for key, value in model.items() if value and key not in unused}
    return parts
