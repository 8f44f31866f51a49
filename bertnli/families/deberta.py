"""DeBERTa-v2 and -v3, and mDeBERTa (He et al. 2021a, DeBERTa; He et al. 2021b, DeBERTaV3)."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from bertnli.families.config import ACTIVATIONS, Disentangled, Head, ModelConfig
from bertnli.families.family import Activation, Family, FolderConfig, post_norm_keys

_TERMS = ("c2p", "p2c")


class _Deberta(FolderConfig):
    """The keys of transformers' DebertaV2Config, and those that its model reads and its class does not list."""

    family: ClassVar[str] = "deberta-v2"

    type_vocab_size: int = Field(0, ge=0, le=2**10)
    activation: Activation = Field("gelu", alias="hidden_act")
    layer_norm_eps: float = Field(1e-7, gt=0)
    hidden_dropout: float = Field(0.1, alias="hidden_dropout_prob", ge=0, lt=1)
    attention_dropout: float = Field(0.1, alias="attention_probs_dropout_prob", ge=0, lt=1)
    classifier_dropout: float | None = Field(None, alias="cls_dropout", ge=0, lt=1)  # None: hidden_dropout
    pooler_dropout: float = Field(0.0, ge=0, lt=1)
    pooler_hidden_act: Literal[(*ACTIVATIONS, "tanh")] = "gelu"  # type: ignore[valid-type]

    learned_positions: bool = Field(True, alias="position_biased_input")
    relative_attention: Literal[True]
    max_relative_positions: int = Field(-1, le=2**20)  # below 1: max_position_embeddings
    position_buckets: int = Field(-1, le=2**20)  # below 1: none
    pos_att_type: list[Literal["c2p", "p2c"]] = Field(min_length=1)
    share_att_key: bool = False
    norm_rel_ebd: Literal["none", "layer_norm"] = "none"

    # The convolution of -xlarge.
    conv_kernel_size: int = Field(0, ge=0, le=2**8)
    conv_act: Literal[(*ACTIVATIONS, "tanh")] = "tanh"  # type: ignore[valid-type]
    conv_groups: Literal[1] = 1

    # Sizes that a model could have apart from the others, and none has.
    embedding_size: int | None = None
    attention_head_size: int | None = None
    pooler_hidden_size: int | None = None

    @field_validator("pos_att_type", mode="before")
    @classmethod
    def _terms(cls, value: Any) -> Any:
        """`c2p|p2c` is a list of two."""
        return [term.strip() for term in value.lower().split("|")] if isinstance(value, str) else value

    @field_validator("embedding_size", "attention_head_size", "pooler_hidden_size")
    @classmethod
    def _as_hidden_size(cls, value: int | None, info: Any) -> int | None:
        hidden, heads = info.data.get("hidden_size"), info.data.get("num_heads")
        if value is None or hidden is None or heads is None:
            return value
        expected = hidden // heads if info.field_name == "attention_head_size" else hidden
        if value != expected:
            raise PydanticCustomError("another_size", "Input should be {expected}", {"expected": expected})
        return value

    @field_validator("conv_kernel_size")
    @classmethod
    def _as_wide_on_both_sides(cls, value: int, info: Any) -> int:
        if value and not value % 2:
            raise PydanticCustomError("even", "Input should be an odd number, or 0")
        if value and info.data.get("num_layers") == 1:
            raise PydanticCustomError("one_block", "Input should be 0 in a model of one layer")
        return value

    @field_validator("position_buckets")
    @classmethod
    def _below_the_largest_distance(cls, value: int, info: Any) -> int:
        """The logarithm begins at half the buckets, and ends at the largest distance."""
        largest = _largest(info.data.get("max_relative_positions", -1), info.data.get("max_positions", 0))
        if value > 0 and not 1 <= value // 2 < largest - 1:
            problem = "Input should be 2 at least, and its half below max_relative_positions - 1, {last}"
            raise PydanticCustomError("too_many", problem, {"last": largest - 1})
        return value

    def derived(self) -> dict[str, Any]:
        classifier = self.hidden_dropout if self.classifier_dropout is None else self.classifier_dropout
        return {
            "embedding_size": None,
            "embedding_dropout": self.hidden_dropout,
            "classifier_dropout": classifier,
            "head": Head(activation=self.pooler_hidden_act, input_dropout=self.pooler_dropout),
            "disentangled": Disentangled(
                position_buckets=max(self.position_buckets, 0),
                max_distance=_largest(self.max_relative_positions, self.max_positions),
                content_to_position="c2p" in self.pos_att_type,
                position_to_content="p2c" in self.pos_att_type,
                shared_projections=self.share_att_key,
                norm=self.norm_rel_ebd == "layer_norm",
                convolution=self.conv_kernel_size,
                convolution_activation=self.conv_act if self.conv_kernel_size else "tanh",
            ),
        }

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        attention = config.disentangled
        assert attention is not None
        terms = (attention.content_to_position, attention.position_to_content)
        return {
            "embedding_size": config.hidden_size,
            "relative_attention": True,
            "max_relative_positions": attention.max_distance,
            "position_buckets": attention.position_buckets or -1,
            "pos_att_type": [term for term, there in zip(_TERMS, terms, strict=True) if there],
            "share_att_key": attention.shared_projections,
            "norm_rel_ebd": "layer_norm" if attention.norm else "none",
            "pooler_hidden_act": config.head.activation,
            "pooler_dropout": config.head.input_dropout,
            "pooler_hidden_size": config.hidden_size,
            "conv_kernel_size": attention.convolution,
            "conv_act": attention.convolution_activation,
        }


def _largest(max_relative_positions: int, max_positions: int) -> int:
    return max_relative_positions if max_relative_positions > 0 else max_positions


def _keys() -> dict[str, tuple[str, ...]]:
    names = post_norm_keys("deberta.")
    of_block = "deberta.encoder.layer.{i}.attention.self."
    return names | {
        "blocks.{i}.attention.qkv": tuple(f"{of_block}{part}_proj" for part in ("query", "key", "value")),
        "blocks.{i}.attention.positions.key": (f"{of_block}pos_key_proj",),
        "blocks.{i}.attention.positions.query": (f"{of_block}pos_query_proj",),
        "relative.table": ("deberta.encoder.rel_embeddings",),
        "relative.norm": ("deberta.encoder.LayerNorm",),
        "convolution.product": ("deberta.encoder.conv.conv",),
        "convolution.norm": ("deberta.encoder.conv.LayerNorm",),
        "pooler": ("pooler.dense",),
        "classifier": ("classifier",),
    }


DEBERTA = Family(
    name="deberta-v2",
    model_types=("deberta-v2",),
    schema=_Deberta,
    keys=_keys(),
    prefix="deberta.",
    # The heads of the pretraining tasks, what only the generator of v3's pretraining reads, and a table of positions
    # where position_biased_input is false.
    unused=re.compile(
        r"(cls|lm_predictions|mask_predictions)\..+"
        r"|(deberta\.)?embeddings\.(position_ids|position_embeddings\.\w+|word_embeddings\._weight)"
    ),
    classifiers=("DebertaV2ForSequenceClassification",),
    encoders=("DebertaV2Model", "DebertaV2ForMaskedLM"),
)
