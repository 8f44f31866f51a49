"""The model as a GPU runs it, on torch's meta device, which has shapes, dtypes and devices but no values.

Every branch that is not the CPU's is taken; a tensor left on the CPU, a wrong shape, and all that would wait for the
device (`.item()`, `nonzero`) are errors there. Numbers need a GPU: benchmarks/gpu_checks.py compares them.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bertnli.data.batches import pack
from bertnli.families.config import Head, ModelConfig, Rotary
from bertnli.model import varlen
from bertnli.model.attention import to_device
from bertnli.model.classifier import PairClassifier
from bertnli.train.loop import accumulate
from bertnli.train.steps import MicroBatch, Step

META = torch.device("meta")
LENGTHS = (5, 7, 9, 12, 12, 20)
FLASH, EFFICIENT, PADDED = "_flash_attention_forward", "_efficient_attention_forward", "padded"
# By bytes of a head's row: 32 and 64 wide heads have kernels in every dtype, one of 15 in none.
SIZES = [{"hidden_size": 64}, {"hidden_size": 128}, {"hidden_size": 30}]
SHAPES = [{}, {"activation": "relu", "embedding_norm": False}, {"num_layers": 1}]


class Operators(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))

    def attention(self) -> set[str]:
        kernels = {name for name in self.called if name in (FLASH, EFFICIENT)}
        return kernels or {PADDED}


def corpus(lengths: tuple[int, ...] = LENGTHS) -> SimpleNamespace:
    draw = np.random.default_rng(0)
    return SimpleNamespace(
        lengths=np.array(lengths, np.uint16),
        offsets=np.concatenate([[0], np.cumsum(lengths)])[:-1],
        ids=draw.integers(1, 90, sum(lengths)).astype(np.uint16),
        first_segment=np.array(lengths, np.uint16) // 2,
        labels=draw.integers(0, 3, len(lengths)).astype(np.int8),
    )


def meta_model(dtype: torch.dtype, **sizes: Any) -> PairClassifier:
    config = {"labels": ("a", "b", "c"), "vocab_size": 100, "num_layers": 3, "num_heads": 2, "intermediate_size": 128}
    with META:
        return PairClassifier(ModelConfig(**{**config, **sizes})).to(dtype)


def expected(dtype: torch.dtype, hidden_size: int) -> str:
    if hidden_size == 30:
        return PADDED
    return EFFICIENT if dtype == torch.float32 else FLASH


class Engine:
    """What `accumulate` asks of bertnli.train.engine.Engine."""

    def __init__(self, model: torch.nn.Module):
        self.model = model

    def __call__(self, *inputs: Any) -> torch.Tensor:
        return self.model(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def dtype(request) -> Iterator[torch.dtype]:
    yield request.param


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"hidden {sizes['hidden_size']}")
@pytest.mark.parametrize("shape", SHAPES, ids=["gelu", "relu", "one block"])
def test_a_training_step_waits_for_nothing(dtype, sizes, shape):
    model, pairs = meta_model(dtype, **sizes, **shape).train(), corpus()
    everything = np.arange(len(LENGTHS))
    cut = [everything, everything[:1], everything[:0]]  # the last: a rank without pairs of its own
    with Operators() as operators:
        micro_batches = [MicroBatch.of(pairs, one, everything[:1], META) for one in cut]
        sums = accumulate(Engine(model), Step(everything, None, micro_batches, pairs.labels))
    assert (sums.device, sums.shape) == (META, (2,))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert (parameter.grad.shape, parameter.grad.dtype) == (parameter.shape, dtype), name
    assert operators.attention() == {expected(dtype, sizes["hidden_size"])}


@pytest.mark.parametrize("sizes", SIZES, ids=lambda sizes: f"hidden {sizes['hidden_size']}")
@pytest.mark.parametrize("lengths", [LENGTHS, (9,), (9, 9, 9)], ids=str)
def test_evaluation_waits_for_nothing_before_its_logits(dtype, sizes, lengths):
    model, pairs = meta_model(dtype, **sizes).eval(), corpus(lengths)
    with torch.no_grad(), Operators() as operators:
        logits = model(*to_device(pack(pairs, np.arange(len(lengths))), META))
    assert (logits.shape, logits.dtype, logits.device) == ((len(lengths), 3), dtype, META)
    assert operators.attention() == {expected(dtype, sizes["hidden_size"])}


MODERNBERT = {
    "family": "modernbert",
    "hidden_size": 64,
    "rotary": Rotary(thetas=(100.0, 10.0, 10.0), windows=(None, 8, 8)),
    "learned_positions": False,
    "type_vocab_size": 0,
    "pre_norm": True,
    "norm_bias": False,
    "head": Head(norm=True, pooling="mean"),
}


@pytest.mark.parametrize("lengths", [LENGTHS, (9, 5, 5)], ids=["longer than the window", "within the window"])
def test_windows_need_a_kernel_that_has_them(dtype, lengths, monkeypatch):
    """FlashAttention-2 has; in fp32 blocks with a window have padding and a mask, unless all pairs are within it."""
    windows, kernel = [], varlen.attention
    monkeypatch.setattr(varlen, "attention", lambda *given: windows.append(given[8]) or kernel(*given))
    model, pairs = meta_model(dtype, **MODERNBERT).train(), corpus(lengths)
    with Operators() as operators:
        logits = model(*to_device(pack(pairs, np.arange(len(lengths))), META))
        logits.sum().backward()
    assert (logits.shape, logits.dtype) == ((len(lengths), 3), dtype)
    assert all(parameter.grad is not None for parameter in model.parameters())
    if dtype == torch.float32:
        assert operators.attention() == {EFFICIENT}
        assert windows == ([None] if lengths == LENGTHS else [None, None, None])
    else:
        assert operators.attention() == {FLASH}
        assert windows == ([None, 8, 8] if lengths == LENGTHS else [None, None, None])


def test_what_would_wait_raises_here():
    """Else the tests above could not fail."""
    x = torch.zeros(3, device=META)
    for wait in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: x[x > 0], lambda: x + torch.zeros(3)):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()


def test_an_older_gpu_has_the_memory_efficient_kernel_in_16_bits(monkeypatch):
    monkeypatch.setattr(varlen, "_is_ampere", lambda device: False)
    with torch.no_grad(), Operators() as operators:
        meta_model(torch.float16, hidden_size=64).eval()(*to_device(pack(corpus(), np.arange(3)), META))
    assert operators.attention() == {EFFICIENT}


@pytest.mark.parametrize(
    ("operator", "begins", "also"),
    [
        (
            torch.ops.aten._flash_attention_forward,
            "Tensor query, Tensor key, Tensor value, Tensor? cum_seq_q, Tensor? cum_seq_k, SymInt max_q, SymInt max_k, "
            "float dropout_p, bool is_causal, bool return_debug_mask",
            "SymInt? window_size_left=None, SymInt? window_size_right=None",
        ),
        (
            torch.ops.aten._efficient_attention_forward,
            "Tensor query, Tensor key, Tensor value, Tensor? bias, Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, "
            "SymInt? max_seqlen_q, SymInt? max_seqlen_k, float dropout_p, int custom_mask_type",
            "bool compute_log_sumexp=False",
        ),
    ],
    ids=["flash", "memory-efficient"],
)
def test_the_private_operators_take_what_they_are_given(operator, begins, also):
    """The installed torch's signatures: another release may change them without notice."""
    schema = str(operator.default._schema)
    assert schema.partition("(")[2].startswith(begins), schema
    assert also in schema
    assert "-> (Tensor output, Tensor" in schema
