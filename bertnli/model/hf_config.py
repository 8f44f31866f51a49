"""config.json of a model folder: what is read from it, and what is written into it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bertnli.common.errors import InputError
from bertnli.data import output_config
from bertnli.data.tokenizer import PairTokenizer
from bertnli.model.classifier import ACTIVATIONS, ModelConfig


class Sizes(BaseModel):
    """ModelConfig's fields in config.json, with the names and defaults of transformers' BertConfig.

    Sizes have no default, because they are facts about the weights: a wrong number of heads would load without error.
    The upper bounds are far above any model, so that a damaged file does not make us build a huge one.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False, protected_namespaces=())

    vocab_size: int = Field(gt=0, le=2**24)
    hidden_size: int = Field(gt=0, le=2**16)
    num_layers: int = Field(alias="num_hidden_layers", gt=0, le=2**9)
    num_heads: int = Field(alias="num_attention_heads", gt=0)
    intermediate_size: int = Field(gt=0, le=2**20)
    max_positions: int = Field(alias="max_position_embeddings", gt=4, le=2**20)
    type_vocab_size: int = Field(2, ge=2, le=2**10)
    activation: Literal[tuple(ACTIVATIONS)] = Field("gelu", alias="hidden_act")  # type: ignore[valid-type]
    layer_norm_eps: float = Field(1e-12, gt=0)
    hidden_dropout: float = Field(0.1, alias="hidden_dropout_prob", ge=0, lt=1)
    attention_dropout: float = Field(0.1, alias="attention_probs_dropout_prob", ge=0, lt=1)
    classifier_dropout: float | None = Field(None, ge=0, lt=1)  # None: hidden_dropout
    initializer_range: float | None = Field(0.02, gt=0)


# What the weights of a class hold: a classifier of a pair, or an encoder with or without the heads of its pretraining.
# Others have a layer called `classifier` too, as BertForTokenClassification, whose weights fit and mean something else.
_ARCHITECTURES = Literal[
    "BertForSequenceClassification",
    "TinyBertForSequenceClassification",
    "BERTClassifier",
    "BertModel",
    "BertForPreTraining",
    "TinyBertForPreTraining",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertLMHeadModel",
]


class FolderConfig(Sizes):
    """config.json as it is read: the sizes, and keys that must have BERT's values, or the sizes are not enough."""

    model_type: Literal["bert", "d2l-bert"]
    architectures: list[_ARCHITECTURES] | None = None
    auto_map: dict[str, Any] | None = None
    transformers_weights: None = None
    quantization_config: None = None
    position_embedding_type: Literal["absolute"] = "absolute"
    problem_type: Literal["single_label_classification", None] = None
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False

    def to_ours(self, labels: tuple[str, ...]) -> ModelConfig:
        sizes = {name: getattr(self, name) for name in Sizes.model_fields}
        if self.classifier_dropout is None:
            sizes["classifier_dropout"] = self.hidden_dropout
        if self.model_type == "d2l-bert":
            return ModelConfig(family="d2l", labels=labels, embedding_norm=False, embedding_dropout=0.0, **sizes)
        return ModelConfig(labels=labels, embedding_dropout=self.hidden_dropout, **sizes)


_UNSUPPORTED = {  # key of config.json: what to do about a value that other models have and ours do not
    "architectures": "choose a checkpoint of BertForSequenceClassification, or of BertModel to train from",
    "quantization_config": "choose the checkpoint that it was quantised from; export it with --precision int8 or fp16",
    "transformers_weights": "remove the key, and give the file its usual name, model.safetensors",
    "model_type": "bertnli runs only BERT (BertForSequenceClassification); choose a checkpoint of that architecture",
    "position_embedding_type": "choose a checkpoint with BERT's own learned positions",
    "is_decoder": "choose a checkpoint that is an encoder, as BERT is",
    "add_cross_attention": "choose a checkpoint that is an encoder, as BERT is",
    "problem_type": "choose a classifier that gives a pair one of several labels",
}


def parse(content: Any, where: str) -> FolderConfig:
    try:
        parsed = FolderConfig.model_validate(content)
    except ValidationError as error:
        # Another architecture has other keys, so a wrong model_type is reported before them.
        problem = min(error.errors(), key=lambda one: one["loc"] != ("model_type",))
        key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
        expected = (
            problem["msg"].removeprefix("Input should be ").replace("None", "null")
            if key
            else "a map with the keys of a BERT model"
        )
        if key == "architectures" and problem["type"] == "literal_error":
            expected = "a sequence classifier or an encoder"
        if problem["type"] == "missing":
            do = 'if it is a BERT model, add "model_type": "bert"' if key == "model_type" else None
            raise InputError(f"{where}: key {key} is missing", expected="a BERT model's config.json", do=do) from None
        raise InputError(
            f"{where}: key {key}" if key else where,
            found=repr(problem["input"])[:80],
            expected=expected,
            do=_UNSUPPORTED.get(key),
        ) from None
    code = {name: where for name, where in (parsed.auto_map or {}).items() if name.startswith("AutoModel")}
    if code:
        raise InputError(
            f"{where}: key auto_map",
            found=f"a model with code of its own, {code}"[:160],
            expected="a model that transformers' own BERT runs",
            do="choose another model, because bertnli runs no code from a model's folder",
        )
    if parsed.hidden_size % parsed.num_heads:
        raise InputError(
            f"{where}: key hidden_size",
            found=str(parsed.hidden_size),
            expected=f"a multiple of num_attention_heads, which is {parsed.num_heads}",
        )
    return parsed


def folder_config(config: ModelConfig, tokenizer: PairTokenizer) -> dict[str, Any]:
    """config.json of a model folder or a bundle: HF's keys, and ours under `bertnli`."""
    return {
        "architectures": ["BertForSequenceClassification" if config.family == "bert" else "BERTClassifier"],
        "model_type": "bert" if config.family == "bert" else "d2l-bert",
        **{field.alias or ours: getattr(config, ours) for ours, field in Sizes.model_fields.items()},
        "pad_token_id": tokenizer.pad_id,
        "torch_dtype": "float32",
        **output_config.entries(config.outputs),
        "bertnli": asdict(tokenizer.settings),
    }
