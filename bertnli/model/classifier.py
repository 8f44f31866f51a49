"""BERT for sentence-pair classification: one encoder and one classifier.

HF's BERT (Devlin et al. 2018) and the d2l book's BERT (Zhang et al., Dive into Deep Learning, section 15.8) are two
configurations of the same classes. They differ only in the norm on the embeddings, the activation, the norms' epsilon
and the places of dropout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from bertnli.data.labels import D2L_ORDER
from bertnli.data.outputs import Activation, Outputs, ProblemType
from bertnli.model.attention import Layout
from bertnli.model.dropout import Dropout

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and options of a classifier; with its weights they rebuild it.

    family: the architecture and file layout, `bert` (HF's) or `d2l`.
    labels, problem_type, output_activation: what the logits mean (see `Outputs`), in their order.
    initializer_range: standard deviation of the weights of a new pooler or classifier; None: torch's own
        initialisation, as in the book.
    """

    family: Literal["bert", "d2l"] = "bert"
    labels: tuple[str, ...]
    problem_type: ProblemType = "single_label_classification"
    output_activation: Activation = "softmax"
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 2
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    embedding_norm: bool = True
    embedding_dropout: float = 0.1
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1
    initializer_range: float | None = 0.02

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.labels, self.problem_type, self.output_activation)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    def without_dropout(self) -> ModelConfig:
        return self.with_dropout(0.0)

    def with_dropout(self, probability: float) -> ModelConfig:
        """The same model with every dropout probability set to `probability`; for d2l only those that d2l has."""
        d2l = self.family == "d2l"
        return replace(
            self,
            hidden_dropout=probability,
            attention_dropout=probability,
            embedding_dropout=0.0 if d2l else probability,
            classifier_dropout=0.0 if d2l else probability,
        )


def _d2l(hidden_size: int, intermediate_size: int, num_heads: int, num_layers: int) -> ModelConfig:
    return ModelConfig(
        family="d2l",
        labels=D2L_ORDER,
        vocab_size=0,  # set when the vocabulary is loaded
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        activation="relu",
        layer_norm_eps=1e-5,
        embedding_norm=False,
        embedding_dropout=0.0,
        classifier_dropout=0.0,
        initializer_range=None,
    )


D2L_ARCHITECTURES = {
    "bert.small": _d2l(hidden_size=256, intermediate_size=512, num_heads=4, num_layers=2),
    "bert.base": _d2l(hidden_size=768, intermediate_size=3072, num_heads=12, num_layers=12),
}
"""The book's two models, by name, because their files do not contain the number of heads: a wrong one would load."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """On the meta device there is nothing to fill: torch would only load its compiler for it, which takes 1.4 s."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Embeddings(nn.Module):
    """The sum of token, position and segment embeddings: `[…]` ids to `[…, hidden_size]`."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.token = Embedding(config.vocab_size, config.hidden_size)
        self.position = Embedding(config.max_positions, config.hidden_size)
        self.segment = Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps) if config.embedding_norm else nn.Identity()
        self.dropout = Dropout(config.embedding_dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, positions: Tensor) -> Tensor:
        summed = self.token(input_ids) + self.segment(token_type_ids) + self.position(positions)
        return self.dropout(self.norm(summed))


class Projections(nn.Linear):
    """Query, key and value in one product."""

    def forward(self, hidden: Tensor, first: Tensor | None = None) -> Any:
        """Of `hidden`; with `first`, a tuple: the queries of `first` alone, and keys and values of `hidden`."""
        if first is None:
            return super().forward(hidden)
        sizes = [self.in_features, 2 * self.in_features]
        query, key_value = zip(self.weight.split(sizes), self.bias.split(sizes), strict=True)
        return F.linear(first, *query), F.linear(hidden, *key_value)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each pair."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = (config.num_heads, config.head_size)
        self.attention_dropout = config.attention_dropout
        self.qkv = Projections(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, layout: Layout, first: Tensor | None = None) -> Tensor:
        """Attention of every token; with `first`, the hidden states of the pairs' first tokens, of these alone."""
        dropout = self.attention_dropout if self.training else 0.0
        if first is None:
            mixed = layout.attend(self.qkv(hidden).unflatten(-1, (3, *self.heads)), dropout)
        else:
            query, key_value = self.qkv(hidden, first)
            mixed = layout.attend_first(
                query.unflatten(-1, self.heads), key_value.unflatten(-1, (2, *self.heads)), dropout
            )
        return self.output(mixed.flatten(-2))


class Block(nn.Module):
    """A post-norm transformer block: attention, then the feed-forward network, each with a residual and a norm."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, hidden: Tensor, layout: Layout, only_first: bool = False) -> Tensor:
        """`only_first`: return `[pairs, hidden_size]`, for each pair's first token; nothing else is computed."""
        first = layout.first(hidden) if only_first else None
        attended = self.attention(hidden, layout, first)
        hidden = self.attention_norm((hidden if first is None else first) + self.dropout(attended))
        return self.output_norm(hidden + self.dropout(self.contract(self.activation(self.expand(hidden)))))


class PairClassifier(nn.Module):
    """Encoder, pooler (Linear and Tanh on the first token) and classifier: `[pairs, labels]` logits.

    The pooler reads only each pair's first token ([CLS]). So the last block computes queries, attention output,
    feed-forward network and norms for these tokens alone, which is a small part of its work; keys and values are
    computed for all tokens. For MiniLM this saves a seventh of all work.

    `input_ids` and `token_type_ids` have the shape of `layout`: `[pairs, length]` (Padded) or `[tokens]` (Packed).
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, len(config.labels))
        if config.initializer_range is not None and not self.pooler.weight.is_meta:
            for head in (self.pooler, self.classifier):
                nn.init.normal_(head.weight, std=config.initializer_range)
                nn.init.zeros_(head.bias)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, layout: Layout) -> Tensor:
        hidden = self.embeddings(input_ids, token_type_ids, layout.positions)
        *blocks, last = self.blocks
        for block in blocks:
            hidden = block(hidden, layout)
        pooled = self.pooler(last(hidden, layout, only_first=True)).tanh()
        return self.classifier(self.dropout(pooled))
