"""ModernBERT (Warner et al. 2024): rotary positions, local attention, norms before the layers, and a gate."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from bertnli.families.config import Head, ModelConfig, Rotary
from bertnli.families.family import Activation, Family, FolderConfig

LayerType = Literal["full_attention", "sliding_attention"]
_THETAS = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}
_LOCAL_ATTENTION = 128
_EVERY = 3


class _Rope(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    rope_type: Literal["default"] = "default"
    rope_theta: float | None = Field(None, gt=0)


class _Ropes(BaseModel):
    model_config = ConfigDict(strict=True)

    full_attention: _Rope | None = None
    sliding_attention: _Rope | None = None


class _ModernBert(FolderConfig):
    """transformers 4 has the keys global_rope_theta, local_rope_theta and global_attn_every_n_layers. transformers 5
    has rope_parameters and layer_types instead, and reads the older keys too. Where a file has both, the newer count,
    as in transformers."""

    family: ClassVar[str] = "modernbert"

    max_positions: int = Field(8192, alias="max_position_embeddings", gt=4, le=2**20)
    activation: Activation = Field("gelu", alias="hidden_activation")
    layer_norm_eps: float = Field(1e-5, alias="norm_eps", gt=0)
    attention_bias: bool = False
    intermediate_bias: bool = Field(False, alias="mlp_bias")
    norm_bias: bool = False
    embedding_dropout: float = Field(0.0, ge=0, lt=1)
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    hidden_dropout: float = Field(0.0, alias="mlp_dropout", ge=0, lt=1)
    classifier_dropout: float = Field(0.0, ge=0, lt=1)
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_activation: Activation = "gelu"
    classifier_bias: bool = False
    local_attention: int = Field(_LOCAL_ATTENTION, gt=0, le=2**21)
    layer_types: list[LayerType] | None = None
    global_attn_every_n_layers: int = Field(_EVERY, gt=0)
    rope_parameters: _Ropes | None = None
    global_rope_theta: float = Field(_THETAS["full_attention"], gt=0)
    local_rope_theta: float | None = Field(_THETAS["sliding_attention"], gt=0)  # None: global_rope_theta
    rope_scaling: None = None

    @field_validator("num_heads")
    @classmethod
    def _heads_are_even(cls, heads: int, info: ValidationInfo) -> int:
        hidden = info.data.get("hidden_size", 0)
        if hidden % heads == 0 and hidden // heads % 2:
            expected = (
                "a number for which hidden_size / num_attention_heads is even, because rotary positions turn pairs"
            )
            raise PydanticCustomError("head_size", expected)
        return heads

    @field_validator("layer_types")
    @classmethod
    def _one_for_each_layer(cls, types: list[LayerType] | None, info: ValidationInfo) -> list[LayerType] | None:
        layers = info.data.get("num_layers")
        if types is not None and layers is not None and len(types) != layers:
            raise PydanticCustomError("layers", "a list as long as num_hidden_layers")
        return types

    def derived(self) -> dict[str, Any]:
        types = self.layer_types or _layer_types(self.num_layers, self.global_attn_every_n_layers)
        thetas = {
            "full_attention": self.global_rope_theta,
            "sliding_attention": self.global_rope_theta if self.local_rope_theta is None else self.local_rope_theta,
        }
        for kind in thetas:
            rope = getattr(self.rope_parameters, kind, None)
            if rope is not None and rope.rope_theta is not None:
                thetas[kind] = rope.rope_theta
        windows = {"full_attention": None, "sliding_attention": self.local_attention // 2}
        return {
            "rotary": Rotary(
                thetas=tuple(float(thetas[kind]) for kind in types), windows=tuple(windows[kind] for kind in types)
            ),
            "learned_positions": False,
            "type_vocab_size": 0,
            "pre_norm": True,
            "head": Head(
                pooling="first" if self.classifier_pooling == "cls" else "mean",
                activation=self.classifier_activation,
                bias=self.classifier_bias,
                norm=True,
            ),
        }

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        """Both forms, so that transformers 4 and 5 read it. The older form has no name for every order of layers."""
        assert config.rotary is not None
        types: list[LayerType] = [
            "full_attention" if window is None else "sliding_attention" for window in config.rotary.windows
        ]
        thetas = _THETAS | dict(zip(types, config.rotary.thetas, strict=True))
        window = next((window for window in config.rotary.windows if window is not None), _LOCAL_ATTENTION // 2)
        every = [n for n in range(1, len(types) + 1) if _layer_types(len(types), n) == types]
        return {
            "classifier_pooling": "cls" if config.head.pooling == "first" else "mean",
            "classifier_activation": config.head.activation,
            "classifier_bias": config.head.bias,
            "local_attention": max(2 * window, 1),  # 0 to each side: a token attends to itself
            "layer_types": types,
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in thetas.items()},
            "global_rope_theta": thetas["full_attention"],
            "local_rope_theta": thetas["sliding_attention"],
            **({"global_attn_every_n_layers": every[0]} if every else {}),
        }


def _layer_types(layers: int, every: int) -> list[LayerType]:
    return ["sliding_attention" if number % every else "full_attention" for number in range(layers)]


_LAYER = "model.layers.{i}."

MODERNBERT = Family(
    name="modernbert",
    model_types=("modernbert",),
    schema=_ModernBert,
    keys={
        "embeddings.token": ("model.embeddings.tok_embeddings",),
        "embeddings.norm": ("model.embeddings.norm",),
        "blocks.{i}.attention_norm": (f"{_LAYER}attn_norm",),
        "blocks.{i}.attention.qkv": (f"{_LAYER}attn.Wqkv",),
        "blocks.{i}.attention.output": (f"{_LAYER}attn.Wo",),
        "blocks.{i}.expand_norm": (f"{_LAYER}mlp_norm",),
        "blocks.{i}.expand": (f"{_LAYER}mlp.Wi",),
        "blocks.{i}.contract": (f"{_LAYER}mlp.Wo",),
        "final_norm": ("model.final_norm",),
        "pooler": ("head.dense",),
        "pooler_norm": ("head.norm",),
        "classifier": ("classifier",),
    },
    prefix="model.",
    # The output layer of the pretraining task, and buffers.
    unused=re.compile(r"decoder\.(weight|bias)|(model\.)?(layers\.\d+\.attn\.)?rotary_emb\..*inv_freq"),
    classifiers=("ModernBertForSequenceClassification",),
    encoders=("ModernBertModel", "ModernBertForMaskedLM"),
    heads=("classifier", "pooler", "pooler_norm"),
)
