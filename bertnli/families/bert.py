"""BERT (Devlin et al. 2018), and the families whose layers and files are BERT's."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field

from bertnli.families.family import Activation, Family, FolderConfig, post_norm_keys


class BertLike(FolderConfig):
    """The keys of transformers' BertConfig, which many families have."""

    type_vocab_size: int = Field(2, ge=1, le=2**10)
    activation: Activation = Field("gelu", alias="hidden_act")
    layer_norm_eps: float = Field(1e-12, gt=0)
    hidden_dropout: float = Field(0.1, alias="hidden_dropout_prob", ge=0, lt=1)
    attention_dropout: float = Field(0.1, alias="attention_probs_dropout_prob", ge=0, lt=1)
    classifier_dropout: float | None = Field(None, ge=0, lt=1)  # None: hidden_dropout
    position_embedding_type: Literal["absolute"] = "absolute"

    def derived(self) -> dict[str, Any]:
        classifier = self.hidden_dropout if self.classifier_dropout is None else self.classifier_dropout
        return {"embedding_dropout": self.hidden_dropout, "classifier_dropout": classifier}


class _Bert(BertLike):
    family: ClassVar[str] = "bert"


BERT = Family(
    name="bert",
    model_types=("bert",),
    schema=_Bert,
    keys=post_norm_keys("bert.") | {"pooler": ("bert.pooler.dense",), "classifier": ("classifier",)},
    prefix="bert.",
    # The heads of the pretraining tasks, buffers, and TinyBERT's layers for its distillation.
    unused=re.compile(r"cls\..+|(bert\.)?embeddings\.(position_ids|token_type_ids)|fit_dense(s\.\d+)?\.(weight|bias)"),
    classifiers=("BertForSequenceClassification", "TinyBertForSequenceClassification"),
    encoders=(
        "BertModel",
        "BertForPreTraining",
        "TinyBertForPreTraining",
        "BertForMaskedLM",
        "BertForNextSentencePrediction",
        "BertLMHeadModel",
    ),
)
