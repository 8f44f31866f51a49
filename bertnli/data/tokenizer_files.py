"""Makes a `Tokenizer` of the tokenizers library: from tokenizer.json, for BERT's vocabulary, for d2l's vocab.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertnli.common import rust
from bertnli.common.errors import InputError, Interrupted
from bertnli.data import penn_treebank


def kind(tokenizer: Tokenizer) -> str:
    """The type of its model: WordPiece, WordLevel, BPE or Unigram."""
    return type(tokenizer.model).__name__


def load(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json. Raises InputError that names the file if it is damaged."""
    try:
        return rust.call(Tokenizer.from_str, file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{file}: damaged", found=str(error), expected="a tokenizer like BERT's") from None


def read_vocabulary(file: Path) -> dict[str, int]:
    """HF's vocab.txt: a token on each line, its id the number of the line. Raises InputError if it is damaged."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged", found=str(error), expected="a token on each line, in UTF-8") from None
    return {token: number for number, token in enumerate(text.removesuffix("\n").split("\n"))}


def bert(vocabulary: Mapping[str, int], unknown: str, **normalizer: Any) -> Tokenizer:
    """BERT's tokenizer without a template. normalizer: attributes of BertNormalizer."""
    tokenizer = Tokenizer(models.WordPiece(dict(vocabulary), unk_token=unknown))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def d2l(vocab: object, where: str) -> Tokenizer:
    """d2l's tokenizer: splits punctuation from words (in raw text), lower-cases, splits at white space, looks words up.

    vocab: the list in vocab.json, tokens ordered by id. Raises InputError that names `where` for anything else.
    """
    if not isinstance(vocab, Sequence) or isinstance(vocab, str) or not all(isinstance(word, str) for word in vocab):
        raise InputError(f"{where}: not a d2l vocabulary", expected="a list of words, ordered by id")
    ids = {word: number for number, word in enumerate(vocab)}
    needed = ("<pad>", "<cls>", "<sep>", "<unk>")
    check_tokens(ids, needed, where)
    try:
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    except TypeError:  # the library raises it for a string that is not Unicode
        raise InputError(
            f"{where}: not Unicode text", found="a word with a lone surrogate", do="get the model again"
        ) from None
    tokenizer.normalizer = penn_treebank.normalizer()
    tokenizer.pre_tokenizer = penn_treebank.pre_tokenizer()
    set_pair_template(tokenizer, "<cls>", "<sep>")
    return tokenizer


def check_tokens(vocabulary: Mapping[str, int], needed: Sequence[str], where: str) -> None:
    """Raises InputError that names `where` if the vocabulary lacks one of the tokens that every pair needs."""
    lacking = [token for token in needed if token not in vocabulary]
    if lacking:
        raise InputError(f"{where}: vocabulary", found=f"no {' '.join(lacking)}", expected=" ".join(needed))


# --- How a pair is joined --------------------------------------------------------------------------------------------


class PairTemplate(NamedTuple):
    """A pair is joined as `first` premise `separator` hypothesis `separator` (ids).

    has_types: the hypothesis and its separator have token type 1; otherwise all tokens have type 0.
    """

    first: int
    separator: int
    has_types: bool

    def in_words(self, tokenizer: Tokenizer) -> str:
        tokens = f"{tokenizer.id_to_token(self.first)} {tokenizer.id_to_token(self.separator)}"
        return f"{tokens} around a pair, {'two' if self.has_types else 'no'} token types"


def set_pair_template(tokenizer: Tokenizer, first: str, separator: str, *, has_types: bool = True) -> None:
    """Join pairs like BERT. Both tokens must be in the vocabulary."""
    second = int(has_types)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {separator}",
        pair=f"{first} $A {separator} $B:{second} {separator}:{second}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (first, separator)],
    )


def pair_template(tokenizer: Tokenizer, where: str) -> PairTemplate:
    """How the tokenizer joins a pair. Raises InputError that names `where` if it is not BERT's way."""
    pair = call(tokenizer.encode, where, "a", "b")
    premise, hypothesis = (call(tokenizer.encode, where, text, add_special_tokens=False).ids for text in "ab")
    if len(pair.ids) == len(premise) + len(hypothesis) + 3:
        first, separator = pair.ids[0], pair.ids[-1]
        in_first = len(premise) + 2
        types = [0] * in_first + [1] * (len(hypothesis) + 1)
        as_berts = pair.ids == [first, *premise, separator, *hypothesis, separator]
        if as_berts and pair.type_ids in (types, [0] * len(types)):
            return PairTemplate(first, separator, pair.type_ids == types)
    raise InputError(
        f"{where}: post_processor",
        found=f"the pair (a, b) joined as {' '.join(pair.tokens)}, token types {pair.type_ids}",
        expected="[CLS] a [SEP] b [SEP], token type 1 for b and its [SEP], or 0 for all",
    )


def join_without_types(tokenizer: Tokenizer, where: str) -> None:
    """Give all tokens of a pair type 0. Raises InputError as `pair_template`."""
    first, separator, _ = pair_template(tokenizer, where)
    set_pair_template(
        tokenizer, str(tokenizer.id_to_token(first)), str(tokenizer.id_to_token(separator)), has_types=False
    )


def call(method: Callable[..., Any], where: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the library. Raises InputError if it fails, which a damaged tokenizer.json makes it do."""
    try:
        return method(*arguments, **options)
    except BaseException as error:  # Exception, or a Rust panic, which is a BaseException
        if isinstance(error, TypeError | KeyboardInterrupt | Interrupted):
            raise
        raise InputError(f"{where}: cannot encode text", found=str(error), expected="a tokenizer like BERT's") from None
