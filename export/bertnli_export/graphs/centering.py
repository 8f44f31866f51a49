"""A model that computes the same, with the numbers that int8 layers read moved to where they take less room.

Some channels of a BERT's hidden states lie far from 0 for every token (Kovaleva et al. 2021, "BERT Busters"; Bondarenko
et al. 2021, "Understanding and Overcoming the Challenges of Efficient Transformer Quantization", section 4), and a
token's int8 step follows its largest value. So each norm's output is moved by a constant, its mean over some typical
tokens, and whatever reads it has the constant back in its bias: the layer after it, and the sum around that layer. This
is exact for any constant, so it does not matter much which tokens those were.
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
from bertnli.model.classifier import Block, PairClassifier


class Place(NamedTuple):
    """A norm, the layer that reads its output, and the one whose output is added to it."""

    norm: nn.LayerNorm
    reader: nn.Linear
    added: nn.Linear


@torch.no_grad()
def centred(model: PairClassifier, typical: Encoded) -> PairClassifier:
    """A copy of `model` in which each channel that a block's layers read has mean 0 over the tokens of `typical`."""
    model = copy.deepcopy(model).float().cpu().eval()
    places = _places(model)
    for place, mean in zip(places, _means(model, [place.norm for place in places], typical), strict=True):
        place.norm.bias.sub_(mean)
        place.reader.bias.add_(place.reader.weight @ mean)
        place.added.bias.add_(mean)
    return model


def _places(model: PairClassifier) -> list[Place]:
    """All norms but the last block's: its first is read for the first tokens alone, in fp32, its second by the pooler.

    d2l has no norm on the embeddings.
    """
    blocks: list[Block] = list(model.blocks)  # type: ignore[arg-type]
    places = [Place(block.attention_norm, block.expand, block.contract) for block in blocks[:-1]]
    places += [
        Place(block.output_norm, following.attention.qkv, following.attention.output)
        for block, following in pairwise(blocks)
    ]
    if isinstance(model.embeddings.norm, nn.LayerNorm):
        places.append(Place(model.embeddings.norm, blocks[0].attention.qkv, blocks[0].attention.output))
    return places


def _means(model: PairClassifier, norms: list[nn.LayerNorm], typical: Encoded) -> list[Tensor]:
    """Of each norm's output, `[hidden_size]`, over all tokens."""
    found: dict[nn.Module, Tensor] = {}

    def note(norm: nn.Module, inputs: object, output: Tensor) -> None:
        found[norm] = output.mean(0)

    hooks = [norm.register_forward_hook(note) for norm in norms]
    model(*to_device(pack(typical, np.arange(len(typical))), torch.device("cpu")))
    for hook in hooks:
        hook.remove()
    return [found[norm] for norm in norms]
