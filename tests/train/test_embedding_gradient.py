"""The sparse gradient of the token embeddings: AdamW computes what it computes with torch's dense one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bertnli.run.deepspeed_config import deepspeed_config
from bertnli.train.embedding_gradient import clip_gradients, make_sparse
from bertnli.train.engine import Engine
from tests.train.test_optimizer import inputs, model_of, run_of

# A step is a list of micro-batches. Tokens come back in a later step, some stay away for a step, some never come.
STEPS = [[[1, 5, 5], [5, 7]], [[2, 7, 2]], [[1, 9]], [[], [3]]]


def small_model() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"table": nn.Embedding(12, 4), "linear": nn.Linear(4, 3)})


def train_small_model(sparse: bool, max_norm: float | None) -> list[Tensor]:
    """The weights and AdamW's moments after each step."""
    model = small_model()
    adamw = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1, fused=True)
    if sparse:
        make_sparse(model["table"], adamw)
    found = []
    for step in STEPS:
        for tokens in step:
            output = model["linear"](model["table"](torch.tensor(tokens, dtype=torch.int64)))
            output.square().sum().backward()
        gradient = model["table"].weight.grad
        assert gradient.is_sparse == sparse
        if sparse:  # a row for each token, not for each place where it stands
            assert gradient.indices()[0].tolist() == sorted({token for tokens in step for token in tokens})
        if max_norm is not None:
            clip = clip_gradients if sparse else nn.utils.clip_grad_norm_
            clip(model.parameters(), max_norm)
        adamw.step()
        adamw.zero_grad()
        assert model["table"].weight.grad is None
        states = (adamw.state[parameter] for parameter in model.parameters())
        found += [parameter.detach().clone() for parameter in model.parameters()]
        found += [state[name].clone() for state in states for name in ("exp_avg", "exp_avg_sq")]
    return found


@pytest.mark.parametrize("max_norm", [None, 100.0, 0.5], ids=["not clipped", "below the norm", "clipped"])
def test_adamw_takes_the_steps_that_it_takes_with_a_dense_gradient(max_norm):
    for one, other in zip(train_small_model(True, max_norm), train_small_model(False, max_norm), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_a_step_without_a_gradient_of_the_table_leaves_it_alone():
    model = small_model()
    adamw = torch.optim.AdamW(model.parameters(), lr=0.1)
    make_sparse(model["table"], adamw)
    before = model["table"].weight.clone()
    model["linear"](torch.ones(4)).sum().backward()
    clip_gradients(model.parameters(), 1.0)
    adamw.step()
    assert torch.equal(model["table"].weight, before)


@pytest.mark.parametrize(("stage", "sparse"), [(0, True), (1, False)])
def test_the_engine_uses_it_where_no_gradients_are_summed_over_ranks(ranks, stage, sparse):
    config = run_of({}, stage)
    model, (given, labels) = model_of(config), inputs(0)
    engine = Engine(model, deepspeed_config(config, "fp32", 1), config, ranks)
    kinds = []
    model.embeddings.token.weight.register_post_accumulate_grad_hook(lambda weight: kinds.append(weight.grad.is_sparse))
    engine.backward(nn.functional.cross_entropy(engine(*given), labels))
    assert kinds == [sparse]


def test_a_frozen_table_stays_frozen():
    model = small_model()
    model["table"].weight.requires_grad_(False)
    adamw = torch.optim.AdamW(model["linear"].parameters(), lr=0.1)
    step = adamw.step
    make_sparse(model["table"], adamw)
    assert adamw.step == step and not model["table"].sparse
