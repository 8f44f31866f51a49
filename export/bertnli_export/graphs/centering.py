"""Centred hidden states for int8: the same model, but the inputs of its int8 layers have mean 0 in each channel.

Some channels of BERT's hidden states are far from 0 for every token (Kovaleva et al. 2021, "BERT Busters"; Bondarenko
et al. 2021, "Understanding and Overcoming the Challenges of Efficient Transformer Quantization", section 4). A token's
int8 step size follows its largest value, so such outliers make it coarse for all channels. The fix is a change of
biases:

    norm.bias   -= mean                    the norm's output is centred
    reader.bias += reader.weight @ mean    the output of the layer that reads it stays the same
    added.bias  += mean                    and so does the residual sum around that layer

Models with the norms before the layers (ModernBERT) stay as they are: most have no biases, so centring would add one to
each layer.

The model computes the same for any constant in place of the mean, so the tokens that the mean is taken over need only
be roughly typical.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bertnli.data.batches import pack
from bertnli.data.tokenizer import Encoded
from bertnli.model.attention import to_device
from bertnli.model.blocks import Block
from bertnli.model.classifier import PairClassifier


class CentredNorm(NamedTuple):
    """A norm, the layer that reads its output, and the layer whose output is added to it in the residual sum."""

    norm: nn.LayerNorm
    reader: nn.Linear
    added: nn.Linear


@torch.no_grad()
def centre(model: PairClassifier, typical: Encoded) -> PairClassifier:
    """A copy of `model` in which each channel that a block's layers read has mean 0 over the tokens of `typical`."""
    model = copy.deepcopy(model).float().cpu().eval()
    if model.config.pre_norm:
        return model
    norms = _norms_to_centre(model)
    for one, mean in zip(norms, _means(model, [one.norm for one in norms], typical), strict=True):
        one.norm.bias.sub_(mean)
        one.reader.bias.add_(one.reader.weight @ mean)
        one.added.bias.add_(mean)
    return model


def _norms_to_centre(model: PairClassifier) -> list[CentredNorm]:
    """The norms whose outputs int8 layers read: all but those of the last block, which only fp32 layers read.

    d2l's models have no norm on the embeddings. ELECTRA's is read by a projection, and no residual sum has it.
    """
    blocks: list[Block] = model.layers()  # type: ignore[assignment]
    norms = [CentredNorm(block.attention_norm, block.expand, block.contract) for block in blocks[:-1]]
    norms += [
        CentredNorm(block.output_norm, following.attention.qkv, following.attention.output)
        for block, following in pairwise(blocks)
    ]
    if isinstance(model.embeddings.norm, nn.LayerNorm) and model.embeddings.projection is None:
        norms.append(CentredNorm(model.embeddings.norm, blocks[0].attention.qkv, blocks[0].attention.output))
    return norms


def _means(model: PairClassifier, norms: list[nn.LayerNorm], typical: Encoded) -> list[Tensor]:
    """The mean output of each norm over all tokens, `[hidden_size]`."""
    found: dict[nn.Module, Tensor] = {}

    def keep(norm: nn.Module, inputs: object, output: Tensor) -> None:
        found[norm] = output.mean(0)

    hooks = [norm.register_forward_hook(keep) for norm in norms]
    model(*to_device(pack(typical, np.arange(len(typical))), torch.device("cpu")))
    for hook in hooks:
        hook.remove()
    return [found[norm] for norm in norms]
