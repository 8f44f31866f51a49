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
be roughly typical. Norms share one mean where a block serves several layers (ALBERT): its layers read the outputs of
several norms, and have one bias.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bertnli.data.batches import pack
from bertnli.data.encoded import Encoded
from bertnli.model.attention import to_device
from bertnli.model.blocks import Block
from bertnli.model.classifier import PairClassifier
from bertnli_export.graphs.exported_model import own_last_block


class CentredNorm(NamedTuple):
    """A norm, the layer that reads its output, and the layer whose output is added to it in the residual sum.

    norm: or the projection of embeddings, in its place (ELECTRA, ALBERT).
    """

    norm: nn.LayerNorm | nn.Linear
    reader: nn.Linear
    added: nn.Linear


@torch.no_grad()
def centre(model: PairClassifier, typical: Encoded) -> PairClassifier:
    """A copy of `model` in which each channel that a block's layers read has mean 0 over the tokens of `typical`."""
    model = copy.deepcopy(model).float().cpu().eval()
    if model.config.pre_norm:
        return model
    own_last_block(model)
    groups = _norms_to_centre(model)
    means = _means(model, {one.norm for group in groups for one in group}, typical)
    for group in groups:
        norms, readers, added = (dict.fromkeys(modules) for modules in zip(*group, strict=True))
        mean = torch.stack([means[norm] for norm in norms]).mean(0)
        for norm in norms:
            norm.bias.sub_(mean)
        for reader in readers:
            reader.bias.add_(reader.weight @ mean)
        for layer in added:
            layer.bias.add_(mean)
    return model


def _norms_to_centre(model: PairClassifier) -> list[list[CentredNorm]]:
    """The norms whose outputs int8 layers read: all but those of the last block, which only fp32 layers read. Those of
    a list have modules in common, so they have one mean.

    d2l's models have no norm on the embeddings. Beside a convolution the first block's norms stay.
    """
    blocks: list[Block] = model.layers()  # type: ignore[assignment]
    first, source = blocks[0].attention, model.embeddings.projection or model.embeddings.norm
    between = [
        CentredNorm(block.output_norm, following.attention.qkv, following.attention.output)
        for block, following in pairwise(blocks)
    ]
    if not isinstance(source, nn.Identity):
        between.insert(0, CentredNorm(source, first.qkv, first.output))
    if model.convolution is not None:  # it reads the first block's input and output too
        second = blocks[1].attention
        between[:2] = [CentredNorm(model.convolution.norm, second.qkv, second.output)]
    groups: list[list[CentredNorm]] = []
    for one in between:  # what is shared is shared by neighbours
        if groups and set(groups[-1][-1]) & set(one):
            groups[-1].append(one)
        else:
            groups.append([one])
    own = dict.fromkeys(CentredNorm(block.attention_norm, block.expand, block.contract) for block in blocks[:-1])
    return groups + [[one] for one in own]


def _means(model: PairClassifier, norms: set[nn.Module], typical: Encoded) -> dict[nn.Module, Tensor]:
    """The mean output of each norm over all tokens, in all layers that it serves, `[hidden_size]`."""
    found: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def keep(norm: nn.Module, inputs: object, output: Tensor) -> None:
        found[norm].append(output.mean(0))

    hooks = [norm.register_forward_hook(keep) for norm in norms]
    model(*to_device(pack(typical, np.arange(len(typical))), torch.device("cpu")))
    for hook in hooks:
        hook.remove()
    return {norm: torch.stack(means).mean(0) for norm, means in found.items()}
