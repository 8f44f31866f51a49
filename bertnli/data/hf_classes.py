"""transformers' tokenizer classes: what each makes of a vocabulary, as version 5 does.

Version 4.57 makes the same of a vocabulary alone, but for what `differs` says. From tokenizer.json it takes every part
as it is, where version 5 takes the vocabulary and makes the other parts anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from bertnli.data import tokenizer_files

Options = Mapping[str, Any]  # keys of tokenizer_config.json, checked, or their defaults
Pieces = list[tuple[str, float]]  # a Unigram vocabulary: pieces with their scores, in the order of the ids


class Vocabulary(NamedTuple):
    """ids: of WordPiece and BPE. pieces: of Unigram, whose unknown piece has the id `unknown` (None: not stated).

    normalization: sentencepiece's compiled map of characters, if there is one.
    """

    ids: Mapping[str, int] = MappingProxyType({})
    merges: Sequence[tuple[str, str]] = ()
    pieces: Sequence[tuple[str, float]] = ()
    unknown: int | None = None
    normalization: bytes = b""


@dataclass(frozen=True)
class TokenizerClass:
    """model: its type. files: that hold its vocabulary if there is no tokenizer.json.

    names: special tokens by role, if no file names them. further: others that it adds. strips_before_mask: its mask
    takes the blank before it. first, separator: roles of the tokens around a pair; separators: how many between.
    has_types: whether types are among the model's inputs; None: in version 4 they are, in 5 they are not.
    options: the keys of tokenizer_config.json that it reads, with their defaults.
    """

    model: str
    files: tuple[str, ...]
    make: Callable[[Vocabulary, Options, Mapping[str, str]], Tokenizer]
    names: Mapping[str, str]
    options: Options = field(default_factory=dict)
    further: tuple[str, ...] = ()
    strips_before_mask: bool = False
    first: str = "cls_token"
    separator: str = "sep_token"
    separators: int = 1
    has_types: bool | None = True
    with_specials: Callable[[Pieces, Mapping[str, str]], Pieces] = lambda pieces, names: pieces
    keeps_template: bool = False  # joins pairs as tokenizer.json says
    differs: str = ""


# --- WordPiece -------------------------------------------------------------------------------------------------------

NORMALIZER = {  # key of tokenizer_config.json: attribute of BertNormalizer
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def _bert(vocabulary: Vocabulary, options: Options, names: Mapping[str, str]) -> Tokenizer:
    attributes = {NORMALIZER[key]: value for key, value in options.items()}
    return tokenizer_files.bert(vocabulary.ids, names["unk_token"], **attributes)


def _word_piece(**more: Any) -> TokenizerClass:
    options = {"do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True}
    return TokenizerClass("WordPiece", ("vocab.txt",), _bert, **{"names": BERT_NAMES, "options": options, **more})


# --- Byte-level BPE --------------------------------------------------------------------------------------------------


def _roberta(vocabulary: Vocabulary, options: Options, names: Mapping[str, str]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            dict(vocabulary.ids),
            list(vocabulary.merges),
            continuing_subword_prefix="",
            end_of_word_suffix="",
            fuse_unk=False,
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options["add_prefix_space"])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


# --- Unigram ---------------------------------------------------------------------------------------------------------


def _unigram(vocabulary: Vocabulary, unknown: int, normalizer: Any, *before: Any, prepend: str) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram(list(vocabulary.pieces), unk_id=unknown, byte_fallback=False))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prepend)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, metaspace])
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=prepend)
    return tokenizer


def _compiled(vocabulary: Vocabulary) -> list[Any]:
    return [normalizers.Precompiled(vocabulary.normalization)] if vocabulary.normalization else []


def _xlm_roberta(vocabulary: Vocabulary, options: Options, names: Mapping[str, str], unknown: int = 3) -> Tokenizer:
    normalizer = next(iter(_compiled(vocabulary)), None)
    prepend = "always" if options["add_prefix_space"] else "never"
    return _unigram(vocabulary, unknown, normalizer, pre_tokenizers.WhitespaceSplit(), prepend=prepend)


def _camembert(vocabulary: Vocabulary, options: Options, names: Mapping[str, str]) -> Tokenizer:
    pieces = [piece for piece, _ in vocabulary.pieces]
    name = names["unk_token"]
    return _xlm_roberta(vocabulary, options, names, pieces.index(name) if name in pieces else 0)


def _albert(vocabulary: Vocabulary, options: Options, names: Mapping[str, str]) -> Tokenizer:
    parts: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    parts += [] if options["keep_accents"] else [normalizers.NFKD(), normalizers.StripAccents()]
    parts += [normalizers.Lowercase()] if options["do_lower_case"] else []
    prepend = "always" if options["add_prefix_space"] else "never"
    normalizer = normalizers.Sequence([*parts, *_compiled(vocabulary)])
    return _unigram(vocabulary, 1, normalizer, pre_tokenizers.WhitespaceSplit(), prepend=prepend)


def _deberta_v2(vocabulary: Vocabulary, options: Options, names: Mapping[str, str]) -> Tokenizer:
    piece = (names["unk_token"], 0.0)
    stated = options["unk_id"] if vocabulary.unknown is None else vocabulary.unknown
    unknown = vocabulary.pieces.index(piece) if piece in vocabulary.pieces else stated
    blanks = normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " ")
    lower = [normalizers.Lowercase()] if options["do_lower_case"] else []
    normalizer = normalizers.Sequence([*lower, blanks, normalizers.NFC(), normalizers.Strip(left=False, right=True)])
    split = [pre_tokenizers.Punctuation(behavior="isolated")] if options["split_by_punct"] else []
    prepend = "always" if options["add_prefix_space"] else "first"
    return _unigram(vocabulary, unknown, normalizer, *split, prepend=prepend)


def _fairseq(pieces: Pieces, names: Mapping[str, str]) -> Pieces:
    """XLM-R's ids: its special tokens first, where fairseq has them, and the mask last."""
    roles = ("bos_token", "pad_token", "eos_token", "unk_token")
    return [*((names[role], 0.0) for role in roles), *pieces[3:], (names["mask_token"], 0.0)]


def _camemberts(pieces: Pieces, names: Mapping[str, str]) -> Pieces:
    first = [("<s>NOTUSED", 0.0), (names["pad_token"], 0.0), ("</s>NOTUSED", 0.0), (names["unk_token"], 0.0)]
    return [*first, ("<unk>NOTUSED", -100.0), *pieces[1:], (names["mask_token"], 0.0)]


# --- The classes -----------------------------------------------------------------------------------------------------

BERT_NAMES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_ROBERTA_NAMES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": "<mask>",
}
_BERT = _word_piece()
_DEBERTA_NAMES = {"bos_token": "[CLS]", "eos_token": "[SEP]", **BERT_NAMES}

CLASSES: dict[str, TokenizerClass] = {
    "AlbertTokenizer": TokenizerClass(
        "Unigram",
        ("spiece.model",),
        _albert,
        names={**_DEBERTA_NAMES, "unk_token": "<unk>", "pad_token": "<pad>"},
        options={"do_lower_case": True, "keep_accents": False, "add_prefix_space": True},
        has_types=None,
        keeps_template=True,
        differs="gives pieces that end in a digit and a comma a lower score",
    ),
    "BertTokenizer": _BERT,
    "CamembertTokenizer": TokenizerClass(
        "Unigram",
        ("sentencepiece.bpe.model",),
        _camembert,
        names=_ROBERTA_NAMES,
        options={"add_prefix_space": True},
        further=("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"),
        strips_before_mask=True,
        first="bos_token",
        separator="eos_token",
        separators=2,
        has_types=False,
        with_specials=_camemberts,
    ),
    "DebertaV2Tokenizer": TokenizerClass(
        "Unigram",
        ("spm.model",),
        _deberta_v2,
        names=_DEBERTA_NAMES,
        options={"do_lower_case": False, "split_by_punct": False, "add_prefix_space": True, "unk_id": 1},
        differs="replaces characters as the sentencepiece model says (as … by three full stops)",
    ),
    "DistilBertTokenizer": _word_piece(has_types=False),
    "ElectraTokenizer": _BERT,
    "LayoutLMTokenizer": _BERT,
    "LxmertTokenizer": _BERT,
    "MPNetTokenizer": _word_piece(
        names={**_ROBERTA_NAMES, "unk_token": "[UNK]"}, strips_before_mask=True, separators=2, has_types=False
    ),
    "MobileBertTokenizer": _BERT,
    "RobertaTokenizer": TokenizerClass(
        "BPE",
        ("vocab.json", "merges.txt"),
        _roberta,
        names=_ROBERTA_NAMES,
        options={"add_prefix_space": False},
        separators=2,
        has_types=False,
    ),
    "SqueezeBertTokenizer": _BERT,
    "XLMRobertaTokenizer": TokenizerClass(
        "Unigram",
        ("sentencepiece.bpe.model",),
        _xlm_roberta,
        names=_ROBERTA_NAMES,
        options={"add_prefix_space": True},
        first="bos_token",
        separator="eos_token",
        separators=2,
        has_types=False,
        with_specials=_fairseq,
    ),
}
CLASSES["BartTokenizer"] = CLASSES["RobertaTokenizer"]  # transformers has one class for them

FILE_CLASS = "PreTrainedTokenizerFast"
FILE_CLASSES = (FILE_CLASS, "PreTrainedTokenizer", "TokenizersBackend")  # take tokenizer.json as it is

OF_MODEL = {  # model_type: its class if no file names one
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "modernbert": FILE_CLASS,
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
TAKE_THE_FILE = ("modernbert",)  # model types of which transformers 5 reads tokenizer.json as it is, whatever the class
