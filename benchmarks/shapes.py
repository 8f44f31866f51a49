"""Classifiers in the shape of well-known models, with random weights: a rate does not depend on what they have learned.

Their vocabularies are made from SNLI's sentences by the same kind of tokenizer, because the real ones cannot be had
everywhere. The tables of embeddings are as large as the real ones where training updates them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.work import kept
from bertnli.fetch.cache import lock

_WORDS = 30_000  # tokens of a vocabulary, at most
_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
_DEBERTA_V3 = {
    **_BASE,
    "vocab_size": 128_100,
    "max_position_embeddings": 512,
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
_ROBERTA = {**_BASE, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


@dataclass(frozen=True)
class Shape:
    """model_type and config: as in transformers' config.json. tokenizer: what its tokenizer is made of, and the special
    tokens of a pair. labels: of its classifier."""

    model_type: str
    config: dict[str, Any]
    tokenizer: Literal["bpe", "unigram"]
    begin: str = "<s>"
    end: str = "</s>"
    between: str = "</s> </s>"
    pad: str = "<pad>"
    unknown: str = "<unk>"
    mask: str = "<mask>"
    labels: tuple[str, ...] = field(default=("entailment", "neutral", "contradiction"))

    @property
    def special_tokens(self) -> list[str]:
        """In the order of their ids: RoBERTa's."""
        return [self.begin, self.pad, self.end, self.unknown, self.mask]


_BERT_TOKENS = {"begin": "[CLS]", "end": "[SEP]", "between": "[SEP]", "pad": "[PAD]", "unknown": "[UNK]"}

SHAPES = {
    "roberta-base": Shape("roberta", {**_ROBERTA, "vocab_size": 50_265}, "bpe"),
    "xlm-roberta-base": Shape("xlm-roberta", {**_ROBERTA, "vocab_size": _WORDS}, "unigram"),
    "deberta-v3-small": Shape(
        "deberta-v2", {**_DEBERTA_V3, "num_hidden_layers": 6}, "unigram", mask="[MASK]", **_BERT_TOKENS
    ),
    "deberta-v3-base": Shape("deberta-v2", _DEBERTA_V3, "unigram", mask="[MASK]", **_BERT_TOKENS),
    "modernbert-base": Shape(
        "modernbert",
        {**_BASE, "num_hidden_layers": 22, "intermediate_size": 1152, "vocab_size": _WORDS},
        "bpe",
        mask="[MASK]",
        **_BERT_TOKENS,
    ),
}


def shaped_model(name: str, sentences: Path) -> Path:
    """The folder of the classifier of SHAPES with this name, as transformers writes it; it is kept in bertnli's cache.

    sentences: JSON lines with sentence1 and sentence2, which the vocabulary is made from.
    """
    path = kept() / "shapes" / name
    with lock(f"benchmarks-shape-{name}"):
        if not (path / "config.json").exists():
            path.mkdir(parents=True, exist_ok=True)
            _save(SHAPES[name], sentences, path)
    return path


def _save(shape: Shape, sentences: Path, path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(shape, sentences),
        cls_token=shape.begin,
        sep_token=shape.end,
        pad_token=shape.pad,
        unk_token=shape.unknown,
        mask_token=shape.mask,
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )
    config = AutoConfig.for_model(
        shape.model_type,
        **shape.config,
        **{f"{role}_token_id": tokenizer.convert_tokens_to_ids(getattr(shape, role)) for role in ("pad",)},
        id2label=dict(enumerate(shape.labels)),
        label2id={label: number for number, label in enumerate(shape.labels)},
    )
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        model.get_submodule(_last_linear(model)).weight *= 20  # so that labels differ from row to row
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)


def _last_linear(model: Any) -> str:
    return "classifier.out_proj" if hasattr(model.classifier, "out_proj") else "classifier"


def _tokenizer(shape: Shape, sentences: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    settings: dict[str, Any] = {"vocab_size": _WORDS, "special_tokens": shape.special_tokens, "show_progress": False}
    if shape.tokenizer == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **settings)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token=shape.unknown, **settings)
    tokenizer.train_from_iterator(_texts(sentences), trainer)
    begin, end, between = shape.begin, shape.end, shape.between
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {between} $B {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )
    return tokenizer


def _texts(sentences: Path) -> Iterator[str]:
    with sentences.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            yield row["sentence1"]
            yield row["sentence2"]
