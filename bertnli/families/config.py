"""The configuration of a classifier: with its weights it rebuilds the model, whatever family it is of.

There is one encoder for all families (model/classifier.py). This is the list of what can differ between them. A
family's own file in this folder says which values its models have.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from bertnli.data.outputs import Activation, Outputs, ProblemType

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu")
"""transformers' names of the activations that the encoder has; model/classifier.py has their functions."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is between the encoder and the classifier: a linear layer (the pooler), an activation, and dropout.

    pooling: the hidden states that are read, of the first token or the mean over the pair. activation: one of
    ACTIVATIONS, or `tanh`. bias: of the pooler. norm: a norm after the activation (ModernBERT).
    input_dropout: before the pooler; None: there is none, whatever the run file says.
    """

    pooling: Literal["first", "mean"] = "first"
    activation: str = "tanh"
    bias: bool = True
    norm: bool = False
    input_dropout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Disentangled:
    """DeBERTa's attention with relative positions (He et al. 2021, DeBERTa, section 3.1; v2 and v3 have log buckets).

    position_buckets: distances above half of them share logarithmic buckets; 0: every distance has its own.
    max_distance: the largest that has a bucket of its own. content_to_position, position_to_content: the two terms
    beside the content's. shared_projections: positions are projected by the content's own layers. norm: a norm on the
    table of relative positions. convolution: width of the convolution beside the first block; 0: none.
    """

    position_buckets: int
    max_distance: int
    content_to_position: bool = True
    position_to_content: bool = True
    shared_projections: bool = True
    norm: bool = True
    convolution: int = 0
    convolution_activation: str = "tanh"


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """A learned number for each bucket of distances and each head, the same in all blocks (MPNet; Raffel et al. 2020,
    T5, section 2.1). buckets: half of them for each direction; distances above max_distance share the last one."""

    buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotary positions (Su et al. 2021, RoFormer) and local attention (ModernBERT).

    thetas: the base of each block's angles. windows: how many tokens to each side a block's tokens attend to; None:
    all.
    """

    thetas: tuple[float, ...]
    windows: tuple[int | None, ...]

    @property
    def distinct_thetas(self) -> list[float]:
        return sorted(set(self.thetas))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and options of a classifier; with its weights they rebuild it.

    family: the name of its family (families/table.py), which decides the names and the layout of its files.
    labels, problem_type, output_activation: what the logits mean (see `Outputs`), in their order.
    max_positions: tokens of the longest pair. first_position: the row of the position table that a pair's first token
        has (RoBERTa: pad_id + 1).
    learned_positions: there is a table of position embeddings. disentangled, relative_bias, rotary: the other ways to
        tell the model about positions.
    type_vocab_size: 0: no token types; 1: every token has the same.
    task_vocab_size: rows of a table of which every token gets the first (ERNIE's tasks); 0: there is none.
    embedding_size: None: hidden_size; otherwise a linear layer brings embeddings to hidden_size (ELECTRA, ALBERT).
    distinct_blocks: blocks with weights of their own; None: all. Fewer are each used several times (ALBERT).
    pre_norm: the norms are before attention and feed-forward network, and one at the end; and the feed-forward network
        has a gate (GeGLU, Shazeer 2020). Otherwise the blocks are BERT's.
    attention_bias, intermediate_bias, norm_bias: whether the layers have biases.
    dropout_after_attention, dropout_after_feed_forward: hidden_dropout acts on the output of attention (not in
        DistilBERT), and on the output of the feed-forward network (not in ALBERT).
    initializer_range: standard deviation of the weights of a new pooler or classifier; None: torch's own
        initialisation, as in the book.
    """

    family: str = "bert"
    labels: tuple[str, ...]
    problem_type: ProblemType = "single_label_classification"
    output_activation: Activation = "softmax"
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_positions: int = 512
    first_position: int = 0
    learned_positions: bool = True
    disentangled: Disentangled | None = None
    relative_bias: RelativeBias | None = None
    rotary: Rotary | None = None
    type_vocab_size: int = 2
    task_vocab_size: int = 0
    embedding_size: int | None = None
    distinct_blocks: int | None = None
    pre_norm: bool = False
    attention_bias: bool = True
    intermediate_bias: bool = True
    norm_bias: bool = True
    dropout_after_feed_forward: bool = True
    activation: str = "gelu"
    layer_norm_eps: float = 1e-12
    embedding_norm: bool = True
    head: Head = field(default_factory=Head)
    embedding_dropout: float = 0.1
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    dropout_after_attention: bool = True
    classifier_dropout: float = 0.1
    initializer_range: float | None = 0.02

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.labels, self.problem_type, self.output_activation)

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def padded_positions(self) -> int:
        """What the longest batch may be padded to: sessions on a GPU round a batch's length up, by less than an eighth
        or 8. Tables that padding's positions have rows in are as long."""
        return self.max_positions + self.max_positions // 8 + 8

    def without_dropout(self) -> ModelConfig:
        return self.with_dropout(0.0)

    def with_dropout(self, probability: float) -> ModelConfig:
        """The same model with every dropout probability set to `probability`; for d2l only those that d2l has."""
        d2l = self.family == "d2l"
        has_none = self.head.input_dropout is None
        head = self.head if has_none else replace(self.head, input_dropout=probability)
        return replace(
            self,
            hidden_dropout=probability,
            attention_dropout=probability,
            embedding_dropout=0.0 if d2l else probability,
            classifier_dropout=0.0 if d2l else probability,
            head=head,
        )
