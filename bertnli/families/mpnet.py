"""MPNet (Song et al. 2020): BERT's blocks, with a learned bias for distances beside the learned positions."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field

from bertnli.families.config import Head, ModelConfig, RelativeBias
from bertnli.families.family import Activation, Family, FolderConfig

# transformers' MPNet counts positions from 2, whatever config.json's pad_token_id, and never has other buckets.
_FIRST_POSITION = 2
_BIAS = RelativeBias(buckets=32, max_distance=128)


class _Mpnet(FolderConfig):
    family: ClassVar[str] = "mpnet"

    activation: Activation = Field("gelu", alias="hidden_act")
    layer_norm_eps: float = Field(1e-12, gt=0)
    hidden_dropout: float = Field(0.1, alias="hidden_dropout_prob", ge=0, lt=1)
    attention_dropout: float = Field(0.1, alias="attention_probs_dropout_prob", ge=0, lt=1)
    relative_attention_num_buckets: Literal[32] = 32

    def derived(self) -> dict[str, Any]:
        return {
            "max_positions": self.max_positions - _FIRST_POSITION,
            "first_position": _FIRST_POSITION,
            "type_vocab_size": 0,
            "relative_bias": _BIAS,
            "head": Head(input_dropout=self.hidden_dropout),
            "embedding_dropout": self.hidden_dropout,
            "classifier_dropout": self.hidden_dropout,
        }

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        return {
            "max_position_embeddings": config.max_positions + _FIRST_POSITION,
            "relative_attention_num_buckets": _BIAS.buckets,
        }


MPNET = Family(
    name="mpnet",
    model_types=("mpnet",),
    schema=_Mpnet,
    keys={
        "embeddings.token": ("mpnet.embeddings.word_embeddings",),
        "embeddings.position": ("mpnet.embeddings.position_embeddings",),
        "embeddings.norm": ("mpnet.embeddings.LayerNorm",),
        "relative.bias": ("mpnet.encoder.relative_attention_bias",),
        "blocks.{i}.attention.qkv": tuple(f"mpnet.encoder.layer.{{i}}.attention.attn.{part}" for part in "qkv"),
        "blocks.{i}.attention.output": ("mpnet.encoder.layer.{i}.attention.attn.o",),
        "blocks.{i}.attention_norm": ("mpnet.encoder.layer.{i}.attention.LayerNorm",),
        "blocks.{i}.expand": ("mpnet.encoder.layer.{i}.intermediate.dense",),
        "blocks.{i}.contract": ("mpnet.encoder.layer.{i}.output.dense",),
        "blocks.{i}.output_norm": ("mpnet.encoder.layer.{i}.output.LayerNorm",),
        "pooler": ("classifier.dense",),
        "classifier": ("classifier.out_proj",),
    },
    prefix="mpnet.",
    # The encoder's own pooler, which the classifier does not read; the head of the pretraining task; a buffer.
    unused=re.compile(r"lm_head\..+|(mpnet\.)?pooler\.dense\..+|(mpnet\.)?embeddings\.position_ids"),
    classifiers=("MPNetForSequenceClassification",),
    encoders=("MPNetModel", "MPNetForMaskedLM"),
)
