"""What a family of models is: how its config.json is read and written, and the names of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bertnli.data.outputs import Outputs
from bertnli.families.config import ACTIVATIONS, ModelConfig

# Keys of config.json with the meaning and the name of a field of ModelConfig. (data/output_config.py reads the others.)
_OURS = {field.name for field in fields(ModelConfig)}

_SAME = {"gelu_python": "gelu"} | dict.fromkeys(("gelu_accurate", "gelu_fast", "gelu_python_tanh"), "gelu_new")
"""Names of older checkpoints for the same function, in other words of Python; equal up to rounding."""

Activation = Annotated[
    Literal[ACTIVATIONS],  # type: ignore[valid-type]
    BeforeValidator(lambda name: _SAME.get(name, name) if isinstance(name, str) else name),
]


class FolderConfig(BaseModel):
    """config.json as it is read: fields with ModelConfig's names, and keys that must have one value.

    A field's alias is transformers' key. Sizes have no default, because they are facts about the weights: a wrong
    number of heads would load without error. Other defaults are those of transformers' configuration class. The upper
    bounds are far above any model, so that a damaged file does not make us build a huge one.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    family: ClassVar[str]

    vocab_size: int = Field(gt=0, le=2**24)
    hidden_size: int = Field(gt=0, le=2**16)
    num_layers: int = Field(alias="num_hidden_layers", gt=0, le=2**9)
    num_heads: int = Field(alias="num_attention_heads", gt=0)
    intermediate_size: int = Field(gt=0, le=2**20)
    max_positions: int = Field(alias="max_position_embeddings", gt=4, le=2**20)
    initializer_range: float | None = Field(0.02, gt=0)

    model_type: str
    architectures: list[str] | None = None
    auto_map: dict[str, Any] | None = None
    transformers_weights: None = None
    quantization_config: None = None
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    def to_ours(self, outputs: Outputs) -> ModelConfig:
        same = {name: getattr(self, name) for name in type(self).model_fields if name in _OURS}
        meaning = {"problem_type": outputs.problem_type, "output_activation": outputs.activation}
        return ModelConfig(family=self.family, labels=outputs.names, **(same | self.derived() | meaning))

    def derived(self) -> dict[str, Any]:
        """ModelConfig's fields that are not keys of config.json, or not with the same value."""
        return {}

    @classmethod
    def of(cls, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `to_ours`: keys of config.json."""
        same = {field.alias or ours: getattr(config, ours) for ours, field in cls.model_fields.items() if ours in _OURS}
        return same | cls.written(config)

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        """The inverse of `derived`."""
        return {}


Keys = Mapping[str, tuple[str, ...]]
"""Our module (`{i}`: a block's number) -> theirs. Several are stacked along the output axis: query, key and value."""


@dataclass(frozen=True)
class Family:
    """One row of the table of families.

    model_types: the values of config.json's `model_type`. schema: how config.json is read. keys: the names of the
    weights. prefix: what a bare encoder's weights lack before their names. unused: weights that are known and not
    needed, as the heads of the pretraining tasks and buffers. heads: the modules that a pretrained encoder may lack:
    the classifier, and with it the pooler. classifiers: classes in config.json's `architectures` whose weights have a
    classifier of a pair; the first is what we write. encoders: classes of encoders, with or without the heads of their
    pretraining. Others have a layer called `classifier` too, as BertForTokenClassification, whose weights fit and mean
    something else.
    """

    name: str
    model_types: tuple[str, ...]
    schema: type[FolderConfig]
    keys: Keys
    prefix: str
    unused: re.Pattern[str]
    classifiers: tuple[str, ...]
    encoders: tuple[str, ...]
    heads: tuple[str, ...] = ("classifier", "pooler")


def post_norm_keys(prefix: str, *, layer: str = "encoder.layer.{i}") -> dict[str, tuple[str, ...]]:
    """The names of BERT's embeddings and blocks, which most families have kept, under `prefix`."""
    block = f"{prefix}{layer}."
    return {
        "embeddings.token": (f"{prefix}embeddings.word_embeddings",),
        "embeddings.position": (f"{prefix}embeddings.position_embeddings",),
        "embeddings.segment": (f"{prefix}embeddings.token_type_embeddings",),
        "embeddings.norm": (f"{prefix}embeddings.LayerNorm",),
        "blocks.{i}.attention.qkv": tuple(f"{block}attention.self.{part}" for part in ("query", "key", "value")),
        "blocks.{i}.attention.output": (f"{block}attention.output.dense",),
        "blocks.{i}.attention_norm": (f"{block}attention.output.LayerNorm",),
        "blocks.{i}.expand": (f"{block}intermediate.dense",),
        "blocks.{i}.contract": (f"{block}output.dense",),
        "blocks.{i}.output_norm": (f"{block}output.LayerNorm",),
    }
