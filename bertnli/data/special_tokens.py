"""The special and added tokens of a folder, in the order in which transformers adds them to its tokenizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer

from bertnli.common.errors import InputError
from bertnli.common.files import read_map

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FURTHER = ("extra_special_tokens", "additional_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
NEEDED = ("pad_token", "cls_token", "sep_token")  # every pair has them, so they must be in the vocabulary


class Defaults(NamedTuple):
    """What a tokenizer's class says: names by role, tokens without one, whether a mask takes the blank before it."""

    names: Mapping[str, str] = MappingProxyType({})
    further: Sequence[str] = ()
    strips_before_mask: bool = False


class SpecialTokens(NamedTuple):
    """named: by their role, as cls_token. further: without one. declared: tokens that the files add, by their ids."""

    named: Mapping[str, AddedToken]
    further: list[AddedToken]
    declared: Mapping[int, AddedToken]

    def contents(self) -> set[str]:
        return {token.content for token in (*self.named.values(), *self.further, *self.declared.values())}


def read(
    folder: Path,
    stated: Mapping[str, Any],
    saved: Tokenizer | None,
    defaults: Defaults,
    listed: Sequence[AddedToken] | None = None,
) -> SpecialTokens:
    """What tokenizer_config.json says (`stated`); without its `added_tokens_decoder` the older files count too.

    These are special_tokens_map.json, added_tokens.json and the added tokens of tokenizer.json (`saved`). listed: those
    of a sentencepiece model. Raises InputError that names the file and the key.
    """
    config = folder / "tokenizer_config.json"
    is_old = "added_tokens_decoder" not in stated
    content = {**stated, **(read_map(folder / "special_tokens_map.json") if is_old else {})}
    named = {}
    for role in _ROLES:
        value = content.get(role, defaults.names.get(role))
        if value is not None:
            if role == "mask_token" and isinstance(value, str):
                value = {"content": value, "lstrip": defaults.strips_before_mask}
            named[role] = _token(value, f"{config}: key {role}")
    further: list[AddedToken] = []
    for key in _FURTHER:
        values = content.get(key) or []
        if not isinstance(values, list | dict):
            raise InputError(f"{config}: key {key}", found=repr(values)[:80], expected="a list of tokens")
        values = values.values() if isinstance(values, dict) else values
        further += [_token(value, f"{config}: key {key}") for value in values]
    if not is_old:
        where = f"{config}: key added_tokens_decoder"
        declared = {
            number: _token(value, where, False) for number, value in _items(stated["added_tokens_decoder"], where)
        }
    else:
        stated_names = {token.content for role, token in named.items() if content.get(role) is not None}
        special = stated_names | {token.content for token in further}
        names = {token.content for token in named.values()}
        declared = _added_tokens_json(folder / "added_tokens.json", special, names)
        declared |= {} if saved is None else saved.get_added_tokens_decoder()
    if not any(key in (content if listed is None else stated) for key in _FURTHER):
        further = [_token(name, "") for name in defaults.further] if listed is None else list(listed)
    tokens = SpecialTokens(named, further, dict(sorted(declared.items())))
    known = tokens.contents()
    for key, value in content.items():
        if key.endswith("_token") and key not in _ROLES and isinstance(value, str) and value not in known:
            raise InputError(
                f"{config}: key {key}",
                found=repr(value)[:80],
                expected="a token that is added elsewhere too: transformers 5 adds it by this key, 4.57 does not",
                do=f"add it to additional_special_tokens, or remove {key}",
            )
    return tokens


def add(tokenizer: Tokenizer, tokens: SpecialTokens, vocab_size: int | None, needed: Sequence[str] = NEEDED) -> None:
    """Add those that the tokenizer does not have yet; one that is not in the vocabulary gets the next free id.

    vocab_size: the number of the model's embeddings. A name that has none, as the [MASK] of a vocabulary without it, is
    not added. The tokens with a role in `needed` must have one.
    """
    present = tokenizer.get_added_tokens_decoder().values()
    known = {repr(token) for token in present}
    new = [token for token in tokens.declared.values() if repr(token) not in known]
    contents = {token.content for token in (*present, *tokens.declared.values())}
    size = tokenizer.get_vocab_size() + sum(tokenizer.token_to_id(token.content) is None for token in new)
    for role, token in [*tokens.named.items(), *(("", token) for token in tokens.further)]:
        is_unknown = tokenizer.token_to_id(token.content) is None
        if token.content in contents or (is_unknown and (role in needed or size >= (vocab_size or 0))):
            continue
        contents.add(token.content)
        new.append(token)
        size += is_unknown
    tokenizer.add_tokens(new)


def moved(tokenizer: Tokenizer, tokens: SpecialTokens) -> list[str]:
    """Tokens with another id than their files say, and both ids: transformers gives a new one the next free id."""
    return [
        f"{token.content} has the id {found}; its files say {number}"
        for number, token in tokens.declared.items()
        if (found := tokenizer.token_to_id(token.content)) != number
    ]


def check_saved(saved: Tokenizer, tokens: SpecialTokens, where: str) -> None:
    """Raises InputError if tokenizer.json has an added token that nothing else names.

    transformers 4.57 knows it, and 5 does not.
    """
    known = tokens.contents()
    only = [token.content for token in saved.get_added_tokens_decoder().values() if token.content not in known]
    if only:
        raise InputError(
            f"{where}: key added_tokens_decoder",
            found=f"no {' '.join(only[:5])}",
            expected="every added token of tokenizer.json: transformers 4.57 reads them from there, 5 does not",
            do="add them, or remove the key added_tokens_decoder so that tokenizer.json counts",
        )


def _added_tokens_json(file: Path, special: set[str], named: set[str]) -> dict[int, AddedToken]:
    """special: contents of those that a file calls special; they are looked for in the text as it is written.

    named: those with a role, also by their class alone, as DeBERTa's [MASK]: in transformers these are looked for in
    the normalized text.
    """
    tokens = {}
    for content, number in read_map(file).items():
        if not isinstance(number, int):
            raise InputError(f"{file}: token {content!r}", found=repr(number)[:80], expected="its id")
        flags = {"normalized": content not in special, "special": content in special or content in named}
        tokens[number] = _token({"content": content, **flags}, str(file))
    return tokens


def _token(value: Any, where: str, special: bool = True) -> AddedToken:
    """The token that a JSON value describes: its text, or a map with `content` and flags."""
    fields = {"content": value} if isinstance(value, str) else value if isinstance(value, Mapping) else {}
    flags = {"special": special} | {flag: fields[flag] for flag in _FLAGS if flag in fields}
    if isinstance(fields.get("content"), str) and all(isinstance(flag, bool) for flag in flags.values()):
        with contextlib.suppress(TypeError, UnicodeError):  # a lone surrogate is not Unicode
            return AddedToken(fields["content"], **flags)
    raise InputError(where, found=repr(value)[:80], expected="a token, or a map with its content")


def _items(value: Any, where: str) -> Iterator[tuple[int, Any]]:
    try:
        yield from ((int(number), token) for number, token in value.items())
    except (AttributeError, ValueError):
        raise InputError(where, found=repr(value)[:80], expected="a map from ids to tokens") from None
