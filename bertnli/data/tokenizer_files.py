"""The library's tokenizer from a file: tokenizer.json, HF's vocab.txt or d2l's vocab.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bertnli.common.errors import InputError
from bertnli.common.files import _read_json, read_map
from bertnli.data import penn_treebank

_BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_BERT_NORMALIZER = {  # key of tokenizer_config.json: attribute of BertNormalizer
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def kind(tokenizer: Tokenizer) -> str:
    """Its model: WordPiece, WordLevel, BPE or Unigram."""
    return type(tokenizer.model).__name__


def read(file: Path) -> Tokenizer:
    """The tokenizer of a file with one of the three names; InputError naming it if it is damaged.

    A WordPiece tokenizer is what transformers' BertTokenizerFast makes of the folder: where tokenizer_config.json says
    do_lower_case, strip_accents or tokenize_chinese_chars, that wins.
    """
    if file.name == "vocab.json":
        return d2l(_read_json(file), str(file))
    try:
        if file.name == "vocab.txt":
            tokenizer = _bert(models.WordPiece.read_file(str(file)))
        else:
            tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{file}: damaged", found=str(error), expected="a tokenizer of BERT's kind") from None
    if kind(tokenizer) == "WordPiece":
        # Typed into a sentence they are special tokens, as to transformers. None of them gets a new id.
        tokenizer.add_special_tokens([token for token in _BERT_SPECIAL if tokenizer.token_to_id(token) is not None])
    if isinstance(tokenizer.normalizer, normalizers.BertNormalizer):
        stated = read_map(file.parent / "tokenizer_config.json")
        for key, attribute in _BERT_NORMALIZER.items():
            if isinstance(stated.get(key), bool):
                setattr(tokenizer.normalizer, attribute, stated[key])
    return tokenizer


def d2l(vocab: object, where: str) -> Tokenizer:
    """d2l's reading of text: lower-cased, split on white space, looked up; punctuation in raw text is split off before.

    vocab: the list that vocab.json holds, token by id. Raises InputError naming `where` for anything else.
    """
    if not isinstance(vocab, Sequence) or isinstance(vocab, str) or not all(isinstance(word, str) for word in vocab):
        raise InputError(f"{where}: not d2l's vocabulary", expected="a list of words, each at its id")
    ids = {word: number for number, word in enumerate(vocab)}
    try:
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    except TypeError:  # its complaint about a string that is not Unicode
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
    if all(number is not None for _, number in special):  # else PairTokenizer says what is lacking
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {separator}", pair=f"{first} $A {separator} $B:1 {separator}:1", special_tokens=special
        )
