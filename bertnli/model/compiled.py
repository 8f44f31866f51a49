"""torch.compile for the encoder's blocks. A small model's kernels are so short that launching them takes longer."""

from __future__ import annotations

from typing import Any

from bertnli.model.classifier import PairClassifier

_KINDS = 32
"""Forms of one block that torch compiles; it would run others eagerly. Its own limit is 8, and ModernBERT has 12: the
first block, those with a window and without, and the last; pairs longer than the window and shorter ones; in training
and in evaluation."""


def can_compile() -> bool:
    """Whether torch.compile has what it needs for the GPU here: Triton, and compute capability 7.0."""
    from torch.utils._triton import has_triton

    return bool(has_triton())


def compile_blocks(model: PairClassifier, **options: Any) -> None:
    """Compile each block in place: parameters keep their names. `options`: more for torch.compile.

    Tokens, pairs and the longest pair are dynamic, so that batches of other sizes need no compilation of their own; and
    all blocks but the last, which computes only the first tokens, share one. Compiled dropout takes other random
    numbers than eager dropout.
    """
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KINDS)
    for block in model.blocks:
        block.compile(dynamic=True, **options)
