"""torch.compile of the blocks: one graph for each kind of block and batches of every size, with the eager results."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from bertnli.data.batches import pack
from bertnli.families.config import Head, ModelConfig, Rotary
from bertnli.model.attention import Packed, to_device
from bertnli.model.classifier import PairClassifier
from bertnli.model.compiled import compile_blocks
from bertnli.train.loop import accumulate
from bertnli.train.steps import MicroBatch, Step
from tests.model.test_varlen import META, MODERNBERT, Engine, corpus, meta_model

SIZES = [(5, 7, 9, 12, 12, 20), (5, 7, 9), (40, 30, 30, 8, 9)]


def step(lengths: tuple[int, ...], device: torch.device) -> Step:
    every = np.arange(len(lengths))
    pairs = corpus(lengths)
    return Step(every, None, [MicroBatch.of(pairs, every, every, device)], pairs.labels)  # type: ignore[arg-type]


def test_a_gpus_block_is_one_graph_and_other_sizes_need_no_other():
    """On the meta device, whose branches are a GPU's. `fullgraph` raises where a graph would be broken."""
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    model = meta_model(torch.bfloat16, hidden_size=64, num_layers=4).train()
    compile_blocks(model, fullgraph=True, backend=backend)
    graphs = []
    for lengths in SIZES:
        accumulate(Engine(model), step(lengths, META))
        graphs.append(backend.frame_count)
    assert graphs[0] == graphs[-1] < 4  # forward of a block and of the last one, whatever the number of blocks
    assert "blocks.0.expand.weight" in model.state_dict()


def test_modernberts_kinds_of_blocks_are_within_the_compilers_limit():
    """The first block, those with a window and without, and the last; pairs within the window, and longer ones; in
    training and in evaluation. Beyond its limit torch would run eagerly what is new."""
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("eager")
    rotary = Rotary(thetas=(100.0, 10.0, 100.0, 100.0), windows=(None, 8, None, None))
    first = {"num_layers": 4, "rotary": rotary, "head": Head(norm=True)}
    model = meta_model(torch.bfloat16, **{**MODERNBERT, **first})
    compile_blocks(model, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for lengths in ((5, 7, 9), SIZES[0]):
            accumulate(Engine(model.train()), step(lengths, META))
            with torch.no_grad():
                model.eval()(*to_device(pack(corpus(lengths), np.arange(len(lengths))), META))
    assert backend.frame_count > 8


def test_losses_and_gradients_are_the_eager_ones(monkeypatch):
    """The graphs that the compiler is given; the code that it makes of them for a CPU takes a minute to build."""
    torch._dynamo.reset()
    # On a CPU attention is Python over buckets, with which a compiler can do nothing; a GPU's is one operator.
    monkeypatch.setattr(Packed, "attend", torch.compiler.disable(Packed.attend))
    monkeypatch.setattr(Packed, "attend_first", torch.compiler.disable(Packed.attend_first))
    sizes: dict[str, Any] = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "intermediate_size": 128}
    config = ModelConfig(labels=("a", "b", "c"), vocab_size=100, **sizes).without_dropout()
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(PairClassifier(config).train())
    compile_blocks(models[1], backend="aot_eager")
    for lengths in SIZES:
        eager, compiled = (accumulate(Engine(model), step(lengths, torch.device("cpu"))) for model in models)
        torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-5)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, atol=1e-5, rtol=1e-4, msg=name)
