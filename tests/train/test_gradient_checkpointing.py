"""Gradient checkpointing: the same gradients to the last bit, and fewer tensors kept for the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from bertnli.families.config import ModelConfig
from bertnli.model import varlen
from bertnli.model.attention import Packed
from bertnli.model.classifier import PairClassifier
from bertnli.model.compiled import compile_blocks
from bertnli.train import micro_batch_size, setup
from bertnli.train.loop import accumulate
from bertnli.train.losses import CROSS_ENTROPY
from bertnli.train.steps import MicroBatch, Step
from tests.model.test_families import EACH_ROW, Row, gradients, inputs_of, ours_of, theirs_of
from tests.model.test_varlen import META, Engine, corpus, meta_model
from tests.support.batch_layouts import batch, packed, padded, varlen_reference
from tests.support.runs import losses, same, train, weights

LENGTHS = [9, 3, 16, 5, 5, 12, 4, 40]
BERT = ModelConfig(
    labels=("a", "b", "c"), vocab_size=50, hidden_size=24, num_layers=5, num_heads=4, intermediate_size=96
)


def compared(model: PairClassifier, inputs: tuple[Tensor, Tensor, Tensor], layout: Callable[..., Tensor]) -> None:
    """Logits and gradients with and without, to the last bit; and where the random generator stands afterwards."""
    found = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        torch.manual_seed(7)
        logits = layout(model, *inputs)
        found.append((gradients(logits, model), {"logits": logits, "next": torch.rand(1)}))
    for plain, checkpointed in zip(*found, strict=True):
        assert same(plain, checkpointed)


@EACH_ROW
@pytest.mark.parametrize("layout", ["padded", "packed", "packed, on a GPU", "packed, on a GPU without a kernel"])
def test_gradients_are_the_same_to_the_last_bit(row: Row, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every family, with dropout everywhere; with DeBERTa's convolution and ALBERT's shared blocks."""
    changes = max(row.configurations, key=lambda one: one.get("num_hidden_layers", 2) % 7 + ("conv_kernel_size" in one))
    theirs = theirs_of(row.config(**{"num_hidden_layers": 3, **changes}))
    ours = ours_of(theirs)
    model = PairClassifier(ours.config.with_dropout(0.2))
    model.load_state_dict(ours.state_dict())
    if layout.endswith("GPU"):
        monkeypatch.setattr(varlen, "has_kernel", lambda x, window=None: True)
        monkeypatch.setattr(varlen, "attention", varlen_reference)
    elif layout.endswith("kernel"):
        monkeypatch.setattr(Packed, "attend", Packed._attend_padded)
    compared(model.train(), inputs_of(theirs, LENGTHS), padded if layout == "padded" else packed)


def test_under_autocast_they_are_the_same_too() -> None:
    """As a run in bf16 has it; the backward pass is outside of it."""

    def cast(*given: Any) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return packed(*given)

    compared(PairClassifier(BERT).train(), batch(LENGTHS), cast)


@contextmanager
def saved(model: PairClassifier) -> Iterator[dict[int, int]]:
    """Bytes of what the backward pass needs, by the address of its memory; without the weights."""
    found: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield found


def test_a_block_more_costs_the_memory_of_its_input() -> None:
    """A checkpointed block keeps `[tokens, hidden_size]` in fp32; any other several times as much."""
    more = []
    for checkpointing in (False, True):
        kept = []
        for layers in (4, 5):
            model = PairClassifier(replace(BERT, num_layers=layers)).train()
            model.gradient_checkpointing = checkpointing
            with saved(model) as bytes_by_address:
                logits = packed(model, *batch(LENGTHS))
            kept.append(sum(bytes_by_address.values()))
            del logits  # until here it has kept them
        more.append(kept[1] - kept[0])
    one_input = 4 * sum(LENGTHS) * BERT.hidden_size
    assert more[1] == pytest.approx(one_input, abs=100) and more[0] > 15 * one_input


def test_a_micro_batch_that_fits_a_gpu_is_measured_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors that are kept stand for a GPU's memory here."""
    monkeypatch.setattr(micro_batch_size, "MOST", 1024)
    pairs, model = corpus(), PairClassifier(replace(BERT, vocab_size=100))
    peaks = []
    for checkpointing in (False, True):
        model.gradient_checkpointing = checkpointing
        with saved(model) as kept:
            monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device, kept=kept: kept.clear())
            monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
            monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device, kept=kept: sum(kept.values()))
            everything, cpu = np.arange(6), torch.device("cpu")
            peaks.append(micro_batch_size.measure_on_gpu(model, CROSS_ENTROPY, pairs, everything, "fp32", cpu))
    assert peaks[1][1024] < peaks[0][1024] / 2
    free = peaks[0][512] / micro_batch_size.SHARE
    assert [micro_batch_size.fitting_tokens(one, free) for one in peaks] == [512, 1024]


def test_a_run_measures_the_model_that_it_trains(run, monkeypatch: pytest.MonkeyPatch) -> None:
    class MeasuredError(Exception):
        pass

    def look(model: PairClassifier, *_: object) -> None:
        assert model.gradient_checkpointing
        raise MeasuredError

    monkeypatch.setattr(setup, "measure_on_gpu", look)
    monkeypatch.setattr(setup, "resolve_precision", lambda precision, device: precision)
    group = SimpleNamespace(device=torch.device("cuda"), rank=1, world=2, agree=nullcontext)
    with pytest.raises(MeasuredError):
        train(run(gradient_checkpointing=True), group)


def test_evaluation_computes_each_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertnli.model.classifier.checkpoint", None)  # calling it would fail
    model = PairClassifier(BERT)
    model.gradient_checkpointing = True
    packed(model.eval(), *batch(LENGTHS))
    with torch.no_grad():
        packed(model.train(), *batch(LENGTHS))


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.system), 3])
def test_a_run_with_it_is_the_run_without_it(tmp_path, run, ranks, stage):
    for checkpointing in (False, True):
        name = f"{checkpointing}"
        train(run(name, max_steps=3, zero_stage=stage, gradient_checkpointing=checkpointing), ranks)
    assert losses(tmp_path / "True") == losses(tmp_path / "False")
    assert same(weights(tmp_path / "True"), weights(tmp_path / "False"))
    assert "gradient_checkpointing: True" in (tmp_path / "True" / "report.html").read_text()


def test_a_gpus_training_step_waits_for_nothing() -> None:
    model, every = meta_model(torch.bfloat16, hidden_size=64).train(), np.arange(6)
    model.gradient_checkpointing = True
    accumulate(Engine(model), Step(every, None, [MicroBatch.of(corpus(), every, every, META)], corpus().labels))
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.system
def test_compiled_blocks_are_checkpointed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As test_compiled.py has it: the graphs, without a CPU's code for them."""
    torch._dynamo.reset()
    monkeypatch.setattr(Packed, "attend", torch.compiler.disable(Packed.attend))
    monkeypatch.setattr(Packed, "attend_first", torch.compiler.disable(Packed.attend_first))
    backend = CompileCounterWithBackend("aot_eager")
    model = PairClassifier(BERT).train()
    compile_blocks(model, backend=backend)
    compared(model, batch(LENGTHS), packed)
    assert backend.frame_count > 0
