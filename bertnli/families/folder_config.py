"""config.json of a model folder: what is read from it, and what is written into it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import ValidationError

from bertnli.common.errors import InputError
from bertnli.data import output_config
from bertnli.data.tokenizer import PairTokenizer
from bertnli.families import others
from bertnli.families.config import ModelConfig
from bertnli.families.family import Family, FolderConfig
from bertnli.families.table import BY_MODEL_TYPE, FAMILIES

_UNSUPPORTED = {  # key of config.json: what to do about a value that other models have and ours do not
    "quantization_config": "choose the checkpoint that it was quantised from; export it with --precision int8 or fp16",
    "transformers_weights": "remove the key, and give the file its usual name, model.safetensors",
    "position_embedding_type": "choose a checkpoint with learned positions, as BERT's own",
    "is_decoder": "choose a checkpoint that is an encoder, as BERT is",
    "add_cross_attention": "choose a checkpoint that is an encoder, as BERT is",
    "inner_group_num": "choose a checkpoint whose groups of layers have one layer each, as ALBERT's own",
    "relative_attention_num_buckets": "choose a checkpoint with MPNet's own 32 buckets",
}


def family_of(content: Mapping[str, Any], where: str) -> Family:
    """The family of a model, by its model_type. Raises InputError that names `where` if it has none that runs."""
    others.check(content, where)
    return BY_MODEL_TYPE[content["model_type"]]


def parse(content: Any, where: str) -> FolderConfig:
    """Raises InputError that names `where`, the key, and what to do, if bertnli cannot run such a model."""
    if not isinstance(content, Mapping):
        raise InputError(where, found=f"a JSON {type(content).__name__}", expected="a map, as transformers writes it")
    family = family_of(content, where)  # another architecture has other keys, so it is reported before them
    try:
        parsed = family.schema.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
        if problem["type"] == "missing":
            expected = f"the config.json of a {family.name} model"
            raise InputError(f"{where}: key {key} is missing", expected=expected) from None
        raise InputError(
            f"{where}: key {key}",
            found=repr(problem["input"])[:80],
            expected=re.sub("^(Input should be|Value error,) ", "", problem["msg"]).replace("None", "null"),
            do=_UNSUPPORTED.get(key),
        ) from None
    _check_class(parsed, family, where)
    if parsed.hidden_size % parsed.num_heads:
        heads = family.schema.model_fields["num_heads"].alias
        raise InputError(
            f"{where}: key {family.schema.model_fields['hidden_size'].alias or 'hidden_size'}",
            found=str(parsed.hidden_size),
            expected=f"a multiple of {heads}, which is {parsed.num_heads}",
        )
    return parsed


def parse_classifier(content: Any, where: str) -> FolderConfig:
    """As `parse`. Also raises InputError if the weights have no classifier, as far as config.json says so."""
    parsed = parse(content, where)
    if has_classifier(parsed) is False:
        raise InputError(
            f"{where}: no classifier in the weights, so the model gives no labels and no scores",
            found=", ".join(parsed.architectures or ()),
            expected=FAMILIES[parsed.family].classifiers[0],
            do=f"train one from it first: bertnli train RUN.yaml; or {others.instead('nli')}",
        )
    return parsed


def has_classifier(parsed: FolderConfig) -> bool | None:
    """Whether the weights have a classifier, by the classes in config.json; None if it names none."""
    classes = parsed.architectures
    return bool(set(classes) & set(FAMILIES[parsed.family].classifiers)) if classes else None


def _check_class(parsed: FolderConfig, family: Family, where: str) -> None:
    known = family.classifiers + family.encoders
    if unknown := [name for name in parsed.architectures or () if name not in known]:
        encoder = f", or of {family.encoders[0]} to train from" if family.encoders else ""
        raise InputError(
            f"{where}: key architectures",
            found=repr(unknown[0])[:80],
            expected="a sequence classifier or an encoder",
            do=f"choose a checkpoint of {family.classifiers[0]}{encoder}",
        )


def folder_config(config: ModelConfig, tokenizer: PairTokenizer) -> dict[str, Any]:
    """config.json of a model folder or a bundle: HF's keys, and ours under `bertnli`."""
    family = FAMILIES[config.family]
    return {
        "architectures": [family.classifiers[0]],
        "model_type": family.model_types[0],
        "pad_token_id": tokenizer.pad_id,
        **family.schema.of(config),
        "torch_dtype": "float32",
        **output_config.entries(config.outputs),
        "bertnli": asdict(tokenizer.settings),
    }
