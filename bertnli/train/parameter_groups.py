"""Which parameters a run trains, and at which rates: freezing, weight decay, and layer-wise learning-rate decay.

A parameter's depth says where it is used: 0 in the embeddings, also those of relative positions, which all blocks
share; i in the i-th block, counted from 1; number of layers + 1 in what reads the last block, the head.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from torch import nn

from bertnli.common.errors import InputError
from bertnli.families.config import ModelConfig
from bertnli.model.classifier import PairClassifier
from bertnli.run.config import RunConfig


def depth_of(name: str, layers: int) -> int:
    """The depth of the parameter `name` in a `PairClassifier` of so many layers, which share no block."""
    if name.startswith(("embeddings.", "relative.")):
        return 0
    if name.startswith("convolution."):  # DeBERTa's, beside the first block
        return 1
    block = re.match(r"blocks\.(\d+)\.", name)
    return layers + 1 if block is None else int(block[1]) + 1


def check_depths(config: RunConfig, model: ModelConfig) -> None:
    """Raises InputError if `freeze` or `layer_decay` does not go with the model's blocks."""
    blocks = config.frozen_blocks or 0
    if blocks > model.num_layers:
        raise InputError(
            f"freeze: {blocks}",
            found=f"a model of {model.num_layers} blocks",
            do=f"set freeze: {model.num_layers} or less, or freeze: embeddings",
        )
    shared = (model.distinct_blocks or model.num_layers) < model.num_layers
    for key, used, do in (
        ("freeze", blocks > 0, "set freeze: embeddings, or remove it"),
        ("layer_decay", config.layer_decay < 1, "remove it"),
    ):
        if used and shared:
            raise InputError(
                f"{key}: {getattr(config, key)} does not go with this model",
                found=f"{model.num_layers} layers that share {model.distinct_blocks} blocks of weights",
                expected="a block of its own for each layer",
                do=do,
            )


def freeze(model: PairClassifier, blocks: int | None) -> str | None:
    """Freeze the embeddings and the first `blocks` blocks; None: nothing. Returns a line for the user that says what is
    left to train.

    Nothing trainable is below the frozen blocks, so the backward pass ends above them.
    """
    if blocks is None:
        return None
    layers = model.config.num_layers
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(depth_of(name, layers) > blocks)
    trained, every = (
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or frozen_too)
        for frozen_too in (False, True)
    )
    below = f" and the first {blocks} of {layers} blocks" if blocks else ""
    return f"freeze: the embeddings{below} stay as they are; {trained:,} of {every:,} parameters are trained"


def parameter_groups(model: nn.Module, config: RunConfig) -> list[dict[str, Any]]:
    """The trainable parameters as groups for torch's AdamW, each with `lr_scale`, the factor of its learning rate.

    No weight decay for norms and biases (Devlin et al. 2018, the released optimization.py). `layer_decay` lowers the
    learning rate by this factor for each step of depth below the head (Clark et al. 2020, ELECTRA; as BEiT counts the
    depths, Bao et al. 2022, optim_factory.py).
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    layers = model.config.num_layers if isinstance(model, PairClassifier) else 0
    head = layers + 1
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depth_of(name, layers) if config.layer_decay < 1 else head
            groups[depth, parameter.dim() > 1].append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr_scale": config.layer_decay ** (head - depth),
        }
        for (depth, decayed), parameters in sorted(groups.items(), key=lambda group: group[0], reverse=True)
    ]
