"""Reads a `Tokenizer` of the tokenizers library from tokenizer.json, HF's vocab.txt or d2l's vocab.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertnli.common import rust
from bertnli.common.errors import InputError
from bertnli.common.files import read_json, read_map
from bertnli.data import penn_treebank

_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BERT_NORMALIZER = {  # key of tokenizer_config.json: attribute of BertNormalizer
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def kind(tokenizer: Tokenizer) -> str:
    """The type of its model: WordPiece, WordLevel, BPE or Unigram."""
    return type(tokenizer.model).__name__


def read(file: Path) -> Tokenizer:
    """The tokenizer in a file with one of the three names. Raises InputError that names the file if it is damaged.

    A WordPiece tokenizer is the same as transformers' BertTokenizerFast for the folder: do_lower_case, strip_accents
    and tokenize_chinese_chars in tokenizer_config.json override the file.
    """
    if file.name == "vocab.json":
        return d2l(read_json(file), str(file))
    try:
        if file.name == "vocab.txt":
            tokenizer = _bert(models.WordPiece.read_file(str(file)))
        else:
            tokenizer = rust.call(Tokenizer.from_str, file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{file}: damaged", found=str(error), expected="a tokenizer like BERT's") from None
    if kind(tokenizer) == "WordPiece":
        # In the text of a sentence these are special tokens, as in transformers. They keep their ids.
        tokenizer.add_special_tokens([token for token in _BERT_SPECIAL if tokenizer.token_to_id(token) is not None])
    if isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        stated = read_map(file.parent / "tokenizer_config.json")
        for key, attribute in _BERT_NORMALIZER.items():
            if isinstance(stated.get(key), bool):
                setattr(tokenizer.normalizer, attribute, stated[key])
    return tokenizer


def d2l(vocab: object, where: str) -> Tokenizer:
    """d2l's tokenizer: splits punctuation from words (in raw text), lower-cases, splits at white space, looks words up.

    vocab: the list in vocab.json, tokens ordered by id. Raises InputError that names `where` for anything else.
    """
    if not isinstance(vocab, Sequence) or isinstance(vocab, str) or not all(isinstance(word, str) for word in vocab):
        raise InputError(f"{where}: not a d2l vocabulary", expected="a list of words, ordered by id")
    ids = {word: number for number, word in enumerate(vocab)}
    try:
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    except TypeError:  # the library raises it for a string that is not Unicode
        raise InputError(
            f"{where}: not Unicode text", found="a word with a lone surrogate", do="get the model again"
        ) from None
    tokenizer.normalizer = penn_treebank.normalizer()
    tokenizer.pre_tokenizer = penn_treebank.pre_tokenizer()
    _set_pair_template(tokenizer, "<cls>", "<sep>")
    return tokenizer


def _bert(vocab: Mapping[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(dict(vocab), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    _set_pair_template(tokenizer, "[CLS]", "[SEP]")
    return tokenizer


def _set_pair_template(tokenizer: Tokenizer, first: str, separator: str) -> None:
    special = [(token, tokenizer.token_to_id(token)) for token in (first, separator)]
    if all(number is not None for _, number in special):  # otherwise PairTokenizer raises an error
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {separator}", pair=f"{first} $A {separator} $B:1 {separator}:1", special_tokens=special
        )
