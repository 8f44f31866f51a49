"""RoBERTa (Liu et al. 2019), and XLM-RoBERTa and CamemBERT, which differ from it in their vocabulary only."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field, ValidationInfo, field_validator

from bertnli.families.bert import BertLike
from bertnli.families.config import Head, ModelConfig
from bertnli.families.family import Family, post_norm_keys


class _Roberta(BertLike):
    family: ClassVar[str] = "roberta"

    pad_token_id: int = Field(1, ge=0, le=2**24)

    @field_validator("pad_token_id")
    @classmethod
    def _leaves_positions(cls, pad_token_id: int, info: ValidationInfo) -> int:
        positions = info.data.get("max_positions", 2**20)
        if pad_token_id + 1 + 4 >= positions:  # as for other families, more than 4 are left
            raise ValueError(f"below max_position_embeddings, which is {positions}, by more than 5")
        return pad_token_id

    def derived(self) -> dict[str, Any]:
        """Positions are counted from pad_id + 1, so the table has as many rows more than a pair may have tokens."""
        common = super().derived()
        first = self.pad_token_id + 1
        return common | {
            "max_positions": self.max_positions - first,
            "first_position": first,
            "head": Head(input_dropout=common["classifier_dropout"]),
        }

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        return {
            "max_position_embeddings": config.max_positions + config.first_position,
            "pad_token_id": config.first_position - 1,
        }


class _XlmRoberta(_Roberta):
    family: ClassVar[str] = "xlm-roberta"


class _Camembert(_Roberta):
    family: ClassVar[str] = "camembert"


def _row(schema: type[_Roberta], class_prefix: str) -> Family:
    return Family(
        name=schema.family,
        model_types=(schema.family,),
        schema=schema,
        keys=post_norm_keys("roberta.") | {"pooler": ("classifier.dense",), "classifier": ("classifier.out_proj",)},
        prefix="roberta.",
        # The encoder's own pooler, which the classifier does not read; the heads of the pretraining task; buffers.
        unused=re.compile(
            r"lm_head\..+|(roberta\.)?pooler\.dense\..+|(roberta\.)?embeddings\.(position_ids|token_type_ids)"
        ),
        classifiers=(f"{class_prefix}ForSequenceClassification",),
        encoders=(f"{class_prefix}Model", f"{class_prefix}ForMaskedLM"),
    )


ROBERTA = _row(_Roberta, "Roberta")
XLM_ROBERTA = _row(_XlmRoberta, "XLMRoberta")
CAMEMBERT = _row(_Camembert, "Camembert")
