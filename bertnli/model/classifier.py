"""BERT and its relatives for sentence-pair classification: one encoder and one classifier.

HF's BERT (Devlin et al. 2018), the d2l book's BERT (Zhang et al., Dive into Deep Learning, section 15.8), RoBERTa and
the others in the table of families (families/table.py) are configurations of the same classes: ModelConfig is the list
of what can differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertnli.families.config import ModelConfig
from bertnli.model.attention import Layout
from bertnli.model.blocks import ACTIVATIONS, Block, PreNormBlock, norm
from bertnli.model.convolution import Convolution
from bertnli.model.disentangled import RelativePositions
from bertnli.model.dropout import Dropout
from bertnli.model.relative_bias import SharedBias
from bertnli.model.rotary import Rotations


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """On the meta device there is nothing to fill: torch would only load its compiler for it, which takes 1.4 s."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Embeddings(nn.Module):
    """The sum of the embeddings that the model has, with their norm and projection: `[…]` ids to `[…, hidden_size]`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        size = config.embedding_size or config.hidden_size
        self.token = Embedding(config.vocab_size, size)
        rows = config.first_position + config.max_positions
        self.position = Embedding(rows, size) if config.learned_positions else None
        self.segment = Embedding(config.type_vocab_size, size) if config.type_vocab_size else None
        self.task = Embedding(config.task_vocab_size, size) if config.task_vocab_size else None
        self.norm = norm(config, size) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.embedding_dropout)
        self.projection = None if config.embedding_size is None else nn.Linear(size, config.hidden_size)
        self.first_position, self.type_vocab_size = config.first_position, config.type_vocab_size

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, positions: Tensor) -> Tensor:
        summed = self.token(input_ids)
        if self.segment is not None:
            summed = summed + (self.segment(token_type_ids) if self.type_vocab_size > 1 else self.segment.weight[0])
        if self.task is not None:
            summed = summed + self.task.weight[0]
        if self.position is not None:
            rows = self._counted(input_ids, positions) if self.first_position else positions
            summed = summed + self.position(rows)
        embedded = self.dropout(self.norm(summed))
        return embedded if self.projection is None else self.projection(embedded)

    def _counted(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Rows of the position table, counted from behind the padding token's id, as RoBERTa does.

        A padding token that a text contains has the row of its id, and the tokens after it are counted without it.
        """
        padding = self.first_position - 1
        is_padding = input_ids == padding
        passed = is_padding.cumsum(-1)
        starts = torch.arange(input_ids.shape[-1], device=input_ids.device) - positions  # of each token's pair
        counted = positions - (passed - passed.index_select(-1, starts))  # a pair's first token is no padding
        return torch.where(is_padding, padding, counted + self.first_position)


def shared_positions(config: ModelConfig) -> nn.Module | None:
    """What the blocks share of relative positions: a module whose output, for a layout, every block is given as
    `relative`."""
    if config.disentangled is not None:
        return RelativePositions(config)
    if config.rotary is not None:
        return Rotations(config)
    return None if config.relative_bias is None else SharedBias(config)


class PairClassifier(nn.Module):
    """Encoder, pooler (`Head`) and classifier: `[pairs, outputs]` logits.

    In most families the pooler reads only each pair's first token ([CLS], <s>). There the last block computes queries,
    attention output, feed-forward network and norms for these tokens alone, which is a small part of its work; keys and
    values are computed for all tokens. For MiniLM this saves a seventh of all work. Where the pooler reads the mean
    over the pair, the last block computes everything.

    `input_ids` and `token_type_ids` have the shape of `layout`: `[pairs, length]` (Padded) or `[tokens]` (Packed).
    """

    gradient_checkpointing = False
    """In training a block keeps nothing but its input, and is computed again for the backward pass (Chen et al. 2016,
    "Training deep nets with sublinear memory cost"), with the random numbers that its dropout took before."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(
            (PreNormBlock if config.pre_norm else Block)(config, number)
            for number in range(config.distinct_blocks or config.num_layers)
        )
        self.relative = shared_positions(config)
        convolved = config.disentangled is not None and config.disentangled.convolution
        self.convolution = Convolution(config) if convolved else None
        self.final_norm = norm(config) if config.pre_norm else nn.Identity()
        self.pooler_dropout = Dropout(config.head.input_dropout or 0.0)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size, bias=config.head.bias)
        self.pooler_activation = ACTIVATIONS[config.head.activation]
        self.pooler_norm = norm(config) if config.head.norm else nn.Identity()
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, len(config.labels))
        if config.initializer_range is not None and not self.pooler.weight.is_meta:
            for layer in (self.pooler, self.classifier):
                nn.init.normal_(layer.weight, std=config.initializer_range)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def layers(self) -> list[Block | PreNormBlock]:
        """The block of each layer, in their order; a block may serve several neighbouring layers.

        The division and its rounding are transformers' (ALBERT), for numbers of layers that are no multiple.
        """
        each = self.config.num_layers / len(self.blocks)
        return [self.blocks[int(number / each)] for number in range(self.config.num_layers)]  # type: ignore[misc]

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, layout: Layout) -> Tensor:
        hidden = self.embeddings(input_ids, token_type_ids, layout.positions)
        relative = None if self.relative is None else self.relative(layout)
        # The last block is never checkpointed: it would be computed again at once, with as much memory.
        *blocks, last = self.layers()
        embedded = hidden
        for number, block in enumerate(blocks):
            if self.gradient_checkpointing and self.training and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, layout, relative=relative, use_reentrant=False)
            else:
                hidden = block(hidden, layout, relative=relative)
            if self.convolution is not None and number == 0:
                hidden = self.convolution(embedded, hidden, layout)
        if self.config.head.pooling == "first":
            pooled = self.final_norm(last(hidden, layout, only_first=True, relative=relative))
        else:
            pooled = layout.mean(self.final_norm(last(hidden, layout, relative=relative)))
        pooled = self.pooler_norm(self.pooler_activation(self.pooler(self.pooler_dropout(pooled))))
        return self.classifier(self.dropout(pooled))
