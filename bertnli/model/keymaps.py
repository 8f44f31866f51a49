"""Converts parameter names: those of HF's BERT and of the d2l book to ours, and back.

A conversion is a table from our names to theirs. Every key of theirs is accounted for: a missing key, an unknown key
and one of another shape are errors that name it; no key is skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bertnli.common.errors import InputError
from bertnli.model import tensor_files
from bertnli.model.classifier import ModelConfig, PairClassifier

# Our module (`{i}`: a block's number) -> theirs. Several are stacked along the output axis, as query, key and value.
_KEYS = {
    "bert": {
        "embeddings.token": ("bert.embeddings.word_embeddings",),
        "embeddings.position": ("bert.embeddings.position_embeddings",),
        "embeddings.segment": ("bert.embeddings.token_type_embeddings",),
        "embeddings.norm": ("bert.embeddings.LayerNorm",),
        "blocks.{i}.attention.qkv": tuple(
            f"bert.encoder.layer.{{i}}.attention.self.{part}" for part in ("query", "key", "value")
        ),
        "blocks.{i}.attention.output": ("bert.encoder.layer.{i}.attention.output.dense",),
        "blocks.{i}.attention_norm": ("bert.encoder.layer.{i}.attention.output.LayerNorm",),
        "blocks.{i}.expand": ("bert.encoder.layer.{i}.intermediate.dense",),
        "blocks.{i}.contract": ("bert.encoder.layer.{i}.output.dense",),
        "blocks.{i}.output_norm": ("bert.encoder.layer.{i}.output.LayerNorm",),
        "pooler": ("bert.pooler.dense",),
        "classifier": ("classifier",),
    },
    "d2l": {
        "embeddings.token": ("encoder.token_embedding",),
        "embeddings.position": ("encoder.pos_embedding",),  # a bare parameter of shape (1, positions, hidden)
        "embeddings.segment": ("encoder.segment_embedding",),
        "blocks.{i}.attention.qkv": tuple(f"encoder.blks.{{i}}.attention.W_{part}" for part in "qkv"),
        "blocks.{i}.attention.output": ("encoder.blks.{i}.attention.W_o",),
        "blocks.{i}.attention_norm": ("encoder.blks.{i}.addnorm1.ln",),
        "blocks.{i}.expand": ("encoder.blks.{i}.ffn.dense1",),
        "blocks.{i}.contract": ("encoder.blks.{i}.ffn.dense2",),
        "blocks.{i}.output_norm": ("encoder.blks.{i}.addnorm2.ln",),
        "pooler": ("hidden.0",),
        "classifier": ("output",),
    },
}
# Heads of the pretraining tasks, buffers, and TinyBERT's layers for its distillation: known but not used.
_UNUSED = {
    "bert": re.compile(r"cls\..+|(bert\.)?embeddings\.(position_ids|token_type_ids)|fit_dense(s\.\d+)?\.(weight|bias)"),
    "d2l": re.compile(r"(mlm|nsp)\..+"),
}

# What a weight may be. Torch's 8-bit floats are no numbers to compute with: they belong to scales in other tensors.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# The modules that a pretrained encoder may lack: the classifier, and with it the pooler (BertForMaskedLM has neither).
_HEADS = {"bert": ("classifier", "pooler"), "d2l": ("classifier",)}


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without what wrappers add to the names: `_orig_mod.` (torch.compile), and `module.` before all (DDP).

    A name stays as it is if another tensor has the plain one.
    """
    names = {name: name.replace("_orig_mod.", "") for name in tensors}
    if names and all(name.startswith("module.") for name in names.values()):
        names = {name: plain.removeprefix("module.") for name, plain in names.items()}
    times = Counter(names.values())
    return {names[name] if times[names[name]] == 1 else name: tensor for name, tensor in tensors.items()}


def has_classifier(tensors: Mapping[str, Tensor], family: str) -> bool:
    """Whether their tensors include any of the classifier layer."""
    return any(_is_of_classifier(name, family) for name in tensors)


def outputs(tensors: Mapping[str, Tensor], family: str) -> int | None:
    """The number of the classifier's outputs; None if there is none."""
    weight = tensors.get(f"{_KEYS[family]['classifier'][0]}.weight")
    return weight.shape[0] if weight is not None and weight.dim() == 2 and len(weight) else None


def without_classifier(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not _is_of_classifier(name, family)}


def _is_of_classifier(name: str, family: str) -> bool:
    return name.startswith(f"{_KEYS[family]['classifier'][0]}.")


def from_foreign(tensors: Mapping[str, Tensor], config: ModelConfig, where: str, do: str) -> dict[str, Tensor]:
    """Their tensors under our names, fp32, with every key and shape accounted for.

    `config` gives the sizes. The heads in `_HEADS` may be missing. Raises InputError that names `where`, the keys and
    what to `do`, also for values that are not finite.
    """
    # In checkpoints converted from TensorFlow (bert-base-uncased) the norms' parameters are called gamma and beta.
    modern = {name: re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name) for name in tensors}
    modern = {name: re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new) for name, new in modern.items()}
    found = {
        name if modern[name] in tensors else modern[name]: tensor
        for name, tensor in tensors.items()
        if not _UNUSED[config.family].fullmatch(name)
    }
    # A bare encoder (BertModel) has keys without the prefix.
    prefix = "" if any(name.startswith("bert.") for name in found) else "bert."

    with torch.device("meta"):
        ours = PairClassifier(config).state_dict()
    theirs = {name: [key.removeprefix(prefix) for key in _foreign_keys(name, config)] for name in ours}
    for head in _HEADS[config.family]:
        names = [name for name in ours if name.startswith(f"{head}.")]
        if any(key in found for name in names for key in theirs[name]):
            break
        for name in names:
            del ours[name], theirs[name]

    empty = [key for key, tensor in found.items() if not tensor.numel()]
    if empty:
        raise InputError(
            f"{where}: weights without values, as ZeRO-3 leaves them on one rank",
            found=f"{len(empty)} such tensors, {empty[0]} among them",
            do="make the weights from the DeepSpeed checkpoint beside them (the folder with global_step…): "
            "python -m deepspeed.utils.zero_to_fp32 CHECKPOINT OUT",
        )
    shapes = {key.removeprefix(prefix): like.shape for key, like in to_foreign(ours, config).items()}
    quantised = [f"{key} ({tensor.dtype})" for key, tensor in found.items() if tensor.dtype not in _FLOATS]
    problems = [
        *_list("missing", [key for key in shapes if key not in found]),
        *_list("unknown", sorted(key for key in found if key not in shapes)),
        *_list(
            "misshapen",
            [
                f"{key} {tuple(found[key].shape)} instead of {tuple(shape)}"
                for key, shape in shapes.items()
                if key in found and found[key].shape != shape
            ],
        ),
        *_list("quantised or not floating-point", quantised),
    ]
    if problems:
        raise InputError(
            f"{where}: keys that do not fit",
            found="; ".join(problems),
            expected=f"a {config.family} model of {config.num_layers} layers and hidden size {config.hidden_size}",
            do="take the checkpoint that it was quantised from, or save the weights as float32" if quantised else do,
        )
    tensor_files.check_finite({key: found[key] for key in shapes}, where)
    return {
        name: torch.cat([found[key].float() for key in theirs[name]]).reshape(like.shape) for name, like in ours.items()
    }


def to_foreign(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `from_foreign`: our state dict under their names; no two tensors share memory."""
    tensors = {}
    for name, tensor in state.items():
        keys = _foreign_keys(name, config)
        for key, part in zip(keys, tensor.detach().chunk(len(keys)), strict=True):
            tensors[key] = part.unsqueeze(0).clone() if key == "encoder.pos_embedding" else part.clone()
    return tensors


def _foreign_keys(name: str, config: ModelConfig) -> list[str]:
    """Their keys for our parameter `name`."""
    module, _, kind = name.rpartition(".")  # kind: weight or bias
    block = re.search(r"\d+", module)
    theirs = _KEYS[config.family][re.sub(r"\d+", "{i}", module)]
    keys = [f"{key.replace('{i}', block[0]) if block else key}.{kind}" for key in theirs]
    return ["encoder.pos_embedding" if key == "encoder.pos_embedding.weight" else key for key in keys]


def _list(what: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return [f"{what}: {', '.join(keys[:3])}{more}"]
