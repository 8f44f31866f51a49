"""The BERT of the d2l book (Zhang et al., Dive into Deep Learning, section 15.8).

It differs from HF's in the norm on the embeddings, the activation, the norms' epsilon and the places of dropout.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from bertnli.data.labels import D2L_ORDER
from bertnli.families.bert import BertLike
from bertnli.families.config import ModelConfig
from bertnli.families.family import Family


class _D2l(BertLike):
    family: ClassVar[str] = "d2l"

    def derived(self) -> dict[str, Any]:
        return super().derived() | {"embedding_norm": False, "embedding_dropout": 0.0}


D2L = Family(
    name="d2l",
    model_types=("d2l-bert",),
    schema=_D2l,
    keys={
        "embeddings.token": ("encoder.token_embedding",),
        "embeddings.position": ("encoder.pos_embedding",),  # a bare parameter of shape (1, positions, hidden)
        "embeddings.segment": ("encoder.segment_embedding",),
        "blocks.{i}.attention.qkv": tuple(f"encoder.blks.{{i}}.attention.W_{part}" for part in "qkv"),
        "blocks.{i}.attention.output": ("encoder.blks.{i}.attention.W_o",),
        "blocks.{i}.attention_norm": ("encoder.blks.{i}.addnorm1.ln",),
        "blocks.{i}.expand": ("encoder.blks.{i}.ffn.dense1",),
        "blocks.{i}.contract": ("encoder.blks.{i}.ffn.dense2",),
        "blocks.{i}.output_norm": ("encoder.blks.{i}.addnorm2.ln",),
        "pooler": ("hidden.0",),
        "classifier": ("output",),
    },
    prefix="",
    unused=re.compile(r"(mlm|nsp)\..+"),
    classifiers=("BERTClassifier",),
    encoders=(),
    heads=("classifier",),
)


def _sizes(hidden_size: int, intermediate_size: int, num_heads: int, num_layers: int) -> ModelConfig:
    return ModelConfig(
        family="d2l",
        labels=D2L_ORDER,
        vocab_size=0,  # set when the vocabulary is loaded
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        activation="relu",
        layer_norm_eps=1e-5,
        embedding_norm=False,
        embedding_dropout=0.0,
        classifier_dropout=0.0,
        initializer_range=None,
    )


D2L_ARCHITECTURES = {
    "bert.small": _sizes(hidden_size=256, intermediate_size=512, num_heads=4, num_layers=2),
    "bert.base": _sizes(hidden_size=768, intermediate_size=3072, num_heads=12, num_layers=12),
}
"""The book's two models, by name, because their files do not contain the number of heads: a wrong one would load."""
