"""ELECTRA (Clark et al. 2020): BERT with embeddings of a size of their own, and GELU in the head."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field

from bertnli.families.bert import BertLike
from bertnli.families.config import Head, ModelConfig
from bertnli.families.family import Family, post_norm_keys


class _Electra(BertLike):
    family: ClassVar[str] = "electra"

    embedding_size: int = Field(128, gt=0, le=2**16)

    def derived(self) -> dict[str, Any]:
        common = super().derived()
        return common | {
            "embedding_size": None if self.embedding_size == self.hidden_size else self.embedding_size,
            "head": Head(activation="gelu", input_dropout=common["classifier_dropout"]),
        }

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        return {"embedding_size": config.embedding_size or config.hidden_size}


ELECTRA = Family(
    name="electra",
    model_types=("electra",),
    schema=_Electra,
    keys=post_norm_keys("electra.")
    | {
        "embeddings.projection": ("electra.embeddings_project",),
        "pooler": ("classifier.dense",),
        "classifier": ("classifier.out_proj",),
    },
    prefix="electra.",
    # The heads of the pretraining tasks, and buffers.
    unused=re.compile(
        r"(discriminator_predictions|generator_predictions|generator_lm_head)\..+"
        r"|(electra\.)?embeddings\.(position_ids|token_type_ids)"
    ),
    classifiers=("ElectraForSequenceClassification",),
    encoders=("ElectraModel", "ElectraForPreTraining", "ElectraForMaskedLM"),
)
