"""Makes a `Tokenizer` of the tokenizers library: of tokenizer.json, vocab.txt, BPE's files or d2l's vocab.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertnli.common import rust
from bertnli.common.errors import InputError, Interrupted, first_line
from bertnli.data import penn_treebank

SUBWORDS = ("WordPiece", "BPE", "Unigram")  # types of model of others' tokenizers


def kind(tokenizer: Tokenizer) -> str:
    """The type of its model: WordPiece, WordLevel, BPE or Unigram."""
    return type(tokenizer.model).__name__


def load(file: Path) -> Tokenizer:
    """The tokenizer in a tokenizer.json. Raises InputError that names the file if it is damaged."""
    try:
        return rust.call(Tokenizer.from_str, file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        expected = "a tokenizer.json as the library tokenizers writes it"
        raise InputError(f"{file}: damaged", found=str(error), expected=expected) from None


def read_vocabulary(file: Path) -> dict[str, int]:
    """HF's vocab.txt: a token on each line, its id the number of the line. Raises InputError if it is damaged."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: damaged", found=str(error), expected="a token on each line, in UTF-8") from None
    return {token: number for number, token in enumerate(text.removesuffix("\n").split("\n"))}


def read_bpe(vocabulary: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """HF's vocab.json (tokens and their ids) and merges.txt. Raises InputError if one of them is damaged."""
    try:
        return models.BPE.read_file(str(vocabulary), str(merges))
    except Exception as error:  # the library raises plain Exception
        expected = "tokens with their ids, and pairs of tokens to merge, of a byte-level BPE"
        raise InputError(
            f"{vocabulary} and {merges.name}: damaged", found=first_line(error), expected=expected
        ) from None


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
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[(token, ids[token]) for token in ("<cls>", "<sep>")],
    )
    return tokenizer


def check_tokens(vocabulary: Mapping[str, int], needed: Sequence[str], where: str) -> None:
    """Raises InputError that names `where` if the vocabulary lacks one of the tokens that every pair needs."""
    lacking = [token for token in needed if token not in vocabulary]
    if lacking:
        raise InputError(f"{where}: vocabulary", found=f"no {' '.join(lacking)}", expected=" ".join(needed))


def call(method: Callable[..., Any], where: str, *arguments: Any, **options: Any) -> Any:
    """Call a method of the library. Raises InputError if it fails, which a damaged tokenizer.json makes it do."""
    try:
        return method(*arguments, **options)
    except BaseException as error:  # Exception, or a Rust panic, which is a BaseException
        if isinstance(error, TypeError | KeyboardInterrupt | Interrupted):
            raise
        raise InputError(f"{where}: cannot encode text", found=str(error), expected="a tokenizer that can") from None
