"""The tokenizer of a model that others made, read from its folder as transformers' AutoTokenizer reads it.

docs/models.md has the rule in words. It is that of transformers 4.57 and 5. Where these two read a folder differently,
it is refused, or a note says which one was taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from bertnli.common.errors import InputError
from bertnli.common.files import read_map
from bertnli.data import special_tokens, tokenizer_files

# Classes that make BERT's tokenizer of a vocabulary, alike in transformers 4.57 and 5: do they give token types?
_BERT_CLASSES = {
    "BertTokenizer": True,
    "DistilBertTokenizer": False,
    "ElectraTokenizer": True,
    "LayoutLMTokenizer": True,
    "LxmertTokenizer": True,
    "MobileBertTokenizer": True,
    "SqueezeBertTokenizer": True,
}
_FILE_CLASS = "PreTrainedTokenizerFast"
_FILE_CLASSES = (_FILE_CLASS, "PreTrainedTokenizer", "TokenizersBackend")  # take tokenizer.json as it is
_EXPECTED = f"one of {', '.join(_BERT_CLASSES)}, or {_FILE_CLASS} with a tokenizer.json"

_NORMALIZER = {  # key of tokenizer_config.json: attribute of BertNormalizer, and its value if the key is absent
    "do_lower_case": ("lowercase", True),
    "strip_accents": ("strip_accents", None),  # None: as lower-casing
    "tokenize_chinese_chars": ("handle_chinese_chars", True),
}


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

    def read(self, vocab_size: int | None) -> HfTokenizer:
        is_berts = self.class_name in _BERT_CLASSES
        if self.stated.get("split_special_tokens"):
            raise InputError(
                f"{self.stated_file}: key split_special_tokens",
                found="true",
                expected="false: tokenizer.json cannot keep it, so a bundle would give other ids",
            )
        tokens = special_tokens.read(self.path, self.stated, self.saved, special_tokens.BERT_NAMES if is_berts else {})
        side = self.truncation_side()
        if self.saved is not None:  # a file may also say how to cut and pad
            self.saved.no_truncation()
            self.saved.no_padding()
        unknown = str(tokens.named.get("unk_token", special_tokens.BERT_NAMES["unk_token"]))
        tokenizer = self._of_bert(unknown) if is_berts else self._as_it_is()
        if is_berts and self.saved is not None:
            special_tokens.check_saved(self.saved, tokens, str(self.stated_file))
        special_tokens.add(tokenizer, tokens, vocab_size)
        if moved := special_tokens.moved(tokenizer, tokens):
            self.notes.append(f"{self.path}: as in transformers, the token {', '.join(moved[:3])}")
        vocabulary = tokenizer.get_vocab()
        if is_berts:
            where = f"{self.saved_file if self.saved else self.path / 'vocab.txt'}"
            needed = [str(tokens.named.get(role, f"a {role}")) for role in special_tokens.NEEDED]
            tokenizer_files.check_tokens(vocabulary, needed, where)
            _, first, separator = needed
            tokenizer_files.set_pair_template(tokenizer, first, separator, has_types=self.has_types())
            self._check_template(tokenizer)
        elif tokenizer_files.pair_template(tokenizer, str(self.saved_file)).has_types and not self.has_types():
            tokenizer_files.join_without_types(tokenizer, str(self.saved_file))
        pad = str(tokens.named.get("pad_token", special_tokens.BERT_NAMES["pad_token"]))
        tokenizer_files.check_tokens(vocabulary, [pad], str(self.saved_file))
        return HfTokenizer(tokenizer, vocabulary[pad], side, self.max_length(), tuple(self.notes))

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
                for known in (name, name.removesuffix("Fast")) if isinstance(name, str) else ():
                    if known in _BERT_CLASSES or known in _FILE_CLASSES:
                        return known
                raise InputError(
                    f"{file}: key tokenizer_class",
                    found=repr(name)[:80],
                    expected=_EXPECTED,
                    do="choose a model with BERT's WordPiece tokenizer",
                )
        return "BertTokenizer"  # that of model_type bert

    # BERT's classes: everything but the vocabulary is made anew, as tokenizer_config.json says.

    def _of_bert(self, unknown: str) -> Tokenizer:
        """BERT's tokenizer with the vocabulary of tokenizer.json or vocab.txt, without a template and added tokens."""
        options = {}
        for key, (attribute, default) in _NORMALIZER.items():
            options[attribute] = value = self.stated.get(key, default)
            if not isinstance(value, bool) and not (value is None and default is None):
                expected = "true or false" if default is not None else "true, false or null"
                raise InputError(f"{self.stated_file}: key {key}", found=repr(value)[:80], expected=expected)
        if self.saved is None:
            return tokenizer_files.bert(tokenizer_files.read_vocabulary(self.path / "vocab.txt"), unknown, **options)
        if (model := tokenizer_files.kind(self.saved)) != "WordPiece":
            expected = f"WordPiece, as the tokenizer's class is {self.class_name}"
            raise InputError(f"{self.saved_file}: model", found=model, expected=expected)
        found = json.loads(self.saved.to_str())
        made = tokenizer_files.bert(found["model"].pop("vocab"), unknown, **options)
        self._check_parts(found, json.loads(made.to_str()))
        return made

    def _check_parts(self, found: dict[str, Any], made: dict[str, Any]) -> None:
        """transformers 4.57 takes these parts from tokenizer.json, and 5 makes them anew: they must be the same."""
        del made["model"]["vocab"]
        for part in ("normalizer", "pre_tokenizer", "model"):
            theirs, ours = found[part], made[part]
            if part == "normalizer" and isinstance(theirs, dict) and theirs.get("type") == ours["type"]:
                theirs = theirs | {attribute: ours[attribute] for attribute, _ in _NORMALIZER.values()}
            if theirs != ours:
                self._refuse(part, json.dumps(theirs, ensure_ascii=False)[:200], json.dumps(ours, ensure_ascii=False))

    def _check_template(self, tokenizer: Tokenizer) -> None:
        """As `_check_parts` for the way in which a pair is joined."""
        if self.saved is None:
            return
        ours = tokenizer_files.pair_template(tokenizer, str(self.saved_file))
        theirs = tokenizer_files.pair_template(self.saved, str(self.saved_file))
        if theirs[:2] != ours[:2] or (ours.has_types and not theirs.has_types):
            self._refuse("post_processor", theirs.in_words(self.saved), ours.in_words(tokenizer))

    def _refuse(self, part: str, found: str, made: str) -> None:
        raise InputError(
            f"{self.saved_file}: {part}",
            found=found,
            expected=f"{made}, which {self.class_name} makes in transformers 5",
            do=f'if tokenizer.json is right, write "tokenizer_class": "{_FILE_CLASS}" into {self.stated_file}',
        )

    # The other classes: tokenizer.json as it is.

    def _as_it_is(self) -> Tokenizer:
        if self.saved is None:
            raise InputError(
                f"{self.path}: no tokenizer.json", expected=f"one, which is all that {self.class_name} reads"
            )
        if (model := tokenizer_files.kind(self.saved)) != "WordPiece":
            raise InputError(
                f"{self.saved_file}: model",
                found=model,
                expected="WordPiece",
                do="choose a model with BERT's WordPiece tokenizer",
            )
        return self.saved

    # How it is used.

    def has_types(self) -> bool:
        """Whether token types are among the model's inputs."""
        names = self.stated.get("model_input_names")
        if names is None:
            berts = _BERT_CLASSES.get(self.class_name)
            return self._types_by_version() if berts is None else berts
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
