"""ERNIE 1.0 to 3.0 (Sun et al. 2019 to 2021): BERT with a table of tasks, of which a pair classifier has the first."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import Field

from bertnli.families.bert import BertLike
from bertnli.families.config import ModelConfig
from bertnli.families.family import Family, post_norm_keys


class _Ernie(BertLike):
    family: ClassVar[str] = "ernie"

    use_task_id: bool = False
    task_vocab_size: int = Field(3, alias="task_type_vocab_size", ge=1, le=2**10)

    def derived(self) -> dict[str, Any]:
        return super().derived() | {"task_vocab_size": self.task_vocab_size if self.use_task_id else 0}

    @classmethod
    def written(cls, config: ModelConfig) -> dict[str, Any]:
        uses = config.task_vocab_size > 0
        return {"use_task_id": uses, "task_type_vocab_size": config.task_vocab_size if uses else 3}


ERNIE = Family(
    name="ernie",
    model_types=("ernie",),
    schema=_Ernie,
    keys=post_norm_keys("ernie.")
    | {
        "embeddings.task": ("ernie.embeddings.task_type_embeddings",),
        "pooler": ("ernie.pooler.dense",),
        "classifier": ("classifier",),
    },
    prefix="ernie.",
    # The heads of the pretraining tasks, and buffers.
    unused=re.compile(r"cls\..+|(ernie\.)?embeddings\.(position_ids|token_type_ids)"),
    classifiers=("ErnieForSequenceClassification",),
    encoders=("ErnieModel", "ErnieForPreTraining", "ErnieForMaskedLM", "ErnieForNextSentencePrediction"),
)
