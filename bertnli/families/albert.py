"""ALBERT (Lan et al. 2020): BERT with few blocks, each used for several layers, and small embeddings."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from bertnli.families.config import ModelConfig
from bertnli.families.family import Activation, Family, FolderConfig


class _Albert(FolderConfig):
    family: ClassVar[str] = "albert"

    embedding_size: int = Field(gt=0, le=2**16)
    distinct_blocks: int = Field(1, alias="num_hidden_groups", ge=1)
    inner_group_num: Literal[1] = 1
    type_vocab_size: int = Field(2, ge=1, le=2**10)
    activation: Activation = Field("gelu_new", alias="hidden_act")
    layer_norm_eps: float = Field(1e-12, gt=0)
    hidden_dropout: float = Field(0.0, alias="hidden_dropout_prob", ge=0, lt=1)
    attention_dropout: float = Field(0.0, alias="attention_probs_dropout_prob", ge=0, lt=1)
    classifier_dropout: float = Field(0.1, alias="classifier_dropout_prob", ge=0, lt=1)
    position_embedding_type: Literal["absolute"] = "absolute"

    @field_validator("distinct_blocks")
    @classmethod
    def _every_block_is_used(cls, blocks: int, info: ValidationInfo) -> int:
        if blocks > (layers := info.data.get("num_layers", blocks)):
            raise ValueError(f"num_hidden_layers, which is {layers}, or fewer")
        return blocks

    def derived(self) -> dict[str, Any]:
        return {"embedding_dropout": self.hidden_dropout, "dropout_after_feed_forward": False}

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        return {"inner_group_num": 1}


_BLOCK = "albert.encoder.albert_layer_groups.{i}.albert_layers.0."

ALBERT = Family(
    name="albert",
    model_types=("albert",),
    schema=_Albert,
    keys={
        "embeddings.token": ("albert.embeddings.word_embeddings",),
        "embeddings.position": ("albert.embeddings.position_embeddings",),
        "embeddings.segment": ("albert.embeddings.token_type_embeddings",),
        "embeddings.norm": ("albert.embeddings.LayerNorm",),
        "embeddings.projection": ("albert.encoder.embedding_hidden_mapping_in",),
        "blocks.{i}.attention.qkv": tuple(f"{_BLOCK}attention.{part}" for part in ("query", "key", "value")),
        "blocks.{i}.attention.output": (f"{_BLOCK}attention.dense",),
        "blocks.{i}.attention_norm": (f"{_BLOCK}attention.LayerNorm",),
        "blocks.{i}.expand": (f"{_BLOCK}ffn",),
        "blocks.{i}.contract": (f"{_BLOCK}ffn_output",),
        "blocks.{i}.output_norm": (f"{_BLOCK}full_layer_layer_norm",),
        "pooler": ("albert.pooler",),
        "classifier": ("classifier",),
    },
    prefix="albert.",
    # The heads of the pretraining tasks, and buffers.
    unused=re.compile(r"(predictions|sop_classifier)\..+|(albert\.)?embeddings\.(position_ids|token_type_ids)"),
    classifiers=("AlbertForSequenceClassification",),
    encoders=("AlbertModel", "AlbertForPreTraining", "AlbertForMaskedLM"),
)
