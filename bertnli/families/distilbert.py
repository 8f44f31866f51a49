"""DistilBERT (Sanh et al. 2019): BERT without token types, with names of its own and a ReLU in the head."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field

from bertnli.families.config import Head
from bertnli.families.family import Activation, Family, FolderConfig


class _DistilBert(FolderConfig):
    family: ClassVar[str] = "distilbert"

    hidden_size: int = Field(alias="dim", gt=0, le=2**16)
    num_layers: int = Field(alias="n_layers", gt=0, le=2**9)
    num_heads: int = Field(alias="n_heads", gt=0)
    intermediate_size: int = Field(alias="hidden_dim", gt=0, le=2**20)
    activation: Activation = "gelu"
    hidden_dropout: float = Field(0.1, alias="dropout", ge=0, lt=1)
    attention_dropout: float = Field(0.1, ge=0, lt=1)
    classifier_dropout: float = Field(0.2, alias="seq_classif_dropout", ge=0, lt=1)

    def derived(self) -> dict[str, Any]:
        return {
            "type_vocab_size": 0,
            "embedding_dropout": self.hidden_dropout,
            "dropout_after_attention": False,
            "head": Head(activation="relu"),
        }


_BLOCK = "distilbert.transformer.layer.{i}."

DISTILBERT = Family(
    name="distilbert",
    model_types=("distilbert",),
    schema=_DistilBert,
    keys={
        "embeddings.token": ("distilbert.embeddings.word_embeddings",),
        "embeddings.position": ("distilbert.embeddings.position_embeddings",),
        "embeddings.norm": ("distilbert.embeddings.LayerNorm",),
        "blocks.{i}.attention.qkv": tuple(f"{_BLOCK}attention.{part}_lin" for part in "qkv"),
        "blocks.{i}.attention.output": (f"{_BLOCK}attention.out_lin",),
        "blocks.{i}.attention_norm": (f"{_BLOCK}sa_layer_norm",),
        "blocks.{i}.expand": (f"{_BLOCK}ffn.lin1",),
        "blocks.{i}.contract": (f"{_BLOCK}ffn.lin2",),
        "blocks.{i}.output_norm": (f"{_BLOCK}output_layer_norm",),
        "pooler": ("pre_classifier",),
        "classifier": ("classifier",),
    },
    prefix="distilbert.",
    # The head of the pretraining task, and a buffer.
    unused=re.compile(r"vocab_(transform|layer_norm|projector)\..+|(distilbert\.)?embeddings\.position_ids"),
    classifiers=("DistilBertForSequenceClassification",),
    encoders=("DistilBertModel", "DistilBertForMaskedLM"),
)
