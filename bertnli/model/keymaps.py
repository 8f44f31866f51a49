"""Converts parameter names: a family's to ours, and back, by the family's own table (families/).

Every key of theirs is accounted for: a missing key, an unknown key and one of another shape are errors that name it; no
key is skipped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bertnli.common.errors import InputError
from bertnli.families.config import ModelConfig
from bertnli.families.table import FAMILIES
from bertnli.model import tensor_files
from bertnli.model.classifier import PairClassifier

# What a weight may be. Torch's 8-bit floats are no numbers to compute with: they belong to scales in other tensors.
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


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
    weight = tensors.get(f"{FAMILIES[family].keys['classifier'][0]}.weight")
    return weight.shape[0] if weight is not None and weight.dim() == 2 and len(weight) else None


def without_classifier(tensors: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if not _is_of_classifier(name, family)}


def _is_of_classifier(name: str, family: str) -> bool:
    return name.startswith(f"{FAMILIES[family].keys['classifier'][0]}.")


def from_foreign(tensors: Mapping[str, Tensor], config: ModelConfig, where: str, do: str) -> dict[str, Tensor]:
    """Their tensors under our names, fp32, with every key and shape accounted for.

    `config` gives the sizes. The family's heads may be missing. Raises InputError that names `where`, the keys and
    what to `do`, also for values that are not finite.
    """
    # In checkpoints converted from TensorFlow (bert-base-uncased) the norms' parameters are called gamma and beta.
    modern = {name: re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name) for name in tensors}
    modern = {name: re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", new) for name, new in modern.items()}
    found = {name if modern[name] in tensors else modern[name]: tensor for name, tensor in tensors.items()}
    # A bare encoder (BertModel) has keys without the prefix.
    prefix = FAMILIES[config.family].prefix
    if any(name.startswith(prefix) for name in found):
        prefix = ""

    with torch.device("meta"):
        ours = PairClassifier(config).state_dict()
    theirs = {name: [key.removeprefix(prefix) for key in _foreign_keys(name, config)] for name in ours}
    read = {key for keys in theirs.values() for key in keys}  # some configurations read a table that others leave out
    unused = FAMILIES[config.family].unused
    found = {name: tensor for name, tensor in found.items() if name in read or not unused.fullmatch(name)}
    for head in FAMILIES[config.family].heads:
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
    theirs = FAMILIES[config.family].keys[re.sub(r"\d+", "{i}", module)]
    keys = [f"{key.replace('{i}', block[0]) if block else key}.{kind}" for key in theirs]
    return ["encoder.pos_embedding" if key == "encoder.pos_embedding.weight" else key for key in keys]


def _list(what: str, keys: Sequence[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return [f"{what}: {', '.join(keys[:3])}{more}"]
