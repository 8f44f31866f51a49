"""The model computes what d2l's own classes compute, and the same however the tokens lie in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bertnli.common.errors import RunError
from bertnli.data.batches import PackedBatch
from bertnli.data.labels import SNLI_ORDER
from bertnli.families.config import Head, ModelConfig, Rotary
from bertnli.families.d2l import D2L_ARCHITECTURES
from bertnli.model import dropout, pretrained
from bertnli.model.attention import Packed, to_device
from bertnli.model.classifier import PairClassifier
from bertnli.model.keymaps import from_foreign, to_foreign
from bertnli.model.predictor import TorchPredictor
from bertnli.train.flops import needed_flop, training_flop
from bertnli.train.parameter_groups import freeze
from tests.conftest import ROOT
from tests.support import tiny
from tests.support.batch_layouts import ALL, LAYOUTS, batch, packed, padded, rounded

REFERENCE = ROOT / "tests" / "reference"
SMALL = ModelConfig(
    labels=SNLI_ORDER,
    vocab_size=50,
    hidden_size=24,
    num_layers=2,
    num_heads=4,
    intermediate_size=40,
    max_positions=16,
    classifier_dropout=0.1,
)
SMALL_D2L = replace(
    D2L_ARCHITECTURES["bert.small"],
    vocab_size=50,
    hidden_size=24,
    num_heads=4,
    intermediate_size=40,
    max_positions=16,
)
SMALL_MODERNBERT = replace(
    SMALL,
    family="modernbert",
    num_layers=3,
    rotary=Rotary(thetas=(100.0, 10.0, 10.0), windows=(None, 3, 5)),
    learned_positions=False,
    type_vocab_size=0,
    pre_norm=True,
    attention_bias=False,
    intermediate_bias=False,
    norm_bias=False,
    head=Head(activation="gelu", bias=False, norm=True),
)
SMALL_MEAN = replace(SMALL_MODERNBERT, head=replace(SMALL_MODERNBERT.head, pooling="mean"))


def lively(model: nn.Module, seed: int = 0) -> Any:
    """Weights larger than fresh ones, so that the logits depend on everything."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=1.5 * module.in_features**-0.5)
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, mean=1.0, std=0.2)
        if isinstance(module, nn.Linear | nn.LayerNorm) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


FAMILIES = pytest.mark.parametrize(
    "config", [SMALL, SMALL_D2L, SMALL_MODERNBERT, SMALL_MEAN], ids=["bert", "d2l", "modernbert", "modernbert, mean"]
)


# --- The same numbers as d2l's classes (test_families.py compares transformers') --------------------------------------


@LAYOUTS
@pytest.mark.parametrize("name", ["tiny", "odd"])
def test_logits_equal_d2l(name: str, layout: Any) -> None:
    """Reference tensors made by d2l's own BERTModel and the book's BERTClassifier: reference/make_d2l.py."""
    file = REFERENCE / f"d2l_{name}.safetensors"
    tensors = safetensors.torch.load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        config = replace(D2L_ARCHITECTURES["bert.small"], **json.loads(opened.metadata()["sizes"]))
    weights = {key.removeprefix("classifier."): t for key, t in tensors.items() if key.startswith("classifier.")}
    model = PairClassifier(config).eval()
    model.load_state_dict(from_foreign(weights, config, name, do=""))
    ids, segments = tensors["ids"], tensors["segments"]
    mask = torch.arange(ids.shape[1]) < tensors["valid_lens"][:, None]
    with torch.no_grad():
        torch.testing.assert_close(layout(model, ids, segments, mask), tensors["logits"], atol=1e-5, rtol=0)
        for row, length in enumerate(tensors["valid_lens"].tolist()):  # and with no padding at all
            alone = layout(model, *(x[row : row + 1, :length] for x in (ids, segments, mask)))
            torch.testing.assert_close(alone[0], tensors["logits"][row], atol=1e-5, rtol=0)


# --- The same numbers however a batch is laid out --------------------------------------------------------------------


@FAMILIES
@given(lengths=st.lists(st.integers(3, 16), min_size=1, max_size=8), more=st.integers(0, 3))
def test_packed_equals_padded_and_so_do_the_gradients(config: ModelConfig, lengths: list[int], more: int) -> None:
    model = lively(PairClassifier(config)).double()  # in fp32 the sums' order may cost more than what a fault costs
    inputs = batch(lengths, width=min(16, max(lengths) + more))
    results = []
    for layout in ALL:
        model.zero_grad()
        logits = layout(model, *inputs)
        nn.functional.cross_entropy(logits, torch.arange(len(lengths)) % 3, reduction="sum").backward()
        results.append((logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    (logits, gradients), *others = results
    for their_logits, their_gradients in others:
        torch.testing.assert_close(their_logits, logits, atol=1e-12, rtol=1e-12)
        for name, gradient in gradients.items():
            torch.testing.assert_close(their_gradients[name], gradient, atol=1e-11, rtol=1e-11, msg=name)


@LAYOUTS
@FAMILIES
def test_neither_padding_nor_the_rest_of_the_batch_matters(config: ModelConfig, layout: Any) -> None:
    model = lively(PairClassifier(config))
    lengths = [7, 3, 11, 7, 7, 4]
    ids, segments, mask = batch(lengths, width=16)
    with torch.no_grad():
        together = layout(model, ids, segments, mask)
        for row, length in enumerate(lengths):
            for width in (length, length + 1, 16):
                alone = layout(model, *(x[row : row + 1, :width] for x in (ids, segments, mask)))
                torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        shuffled = layout(model, ids[order], segments[order], mask[order])
        torch.testing.assert_close(shuffled, together[order], atol=1e-5, rtol=0)


def test_a_pair_sees_its_own_tokens_only() -> None:
    model = lively(PairClassifier(SMALL))
    ids, segments, mask = batch([5, 8, 5])
    changed = ids.clone()
    changed[1] = (changed[1] + 1) % 50
    with torch.no_grad():
        before, after = packed(model, ids, segments, mask), packed(model, changed, segments, mask)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1], atol=1e-3)


def test_packed_knows_positions_starts_and_groups() -> None:
    layout = Packed([3, 3, 5, 3])
    assert layout.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2]
    assert layout.cu_seqlens.tolist() == [0, 3, 6, 11, 14]
    assert [(b.pairs, b.length, b.tokens) for b in layout.buckets] == [
        *((2, 3, slice(0, 6)), (1, 5, slice(6, 11)), (1, 3, slice(11, 14)))
    ]


def test_packed_puts_pairs_of_like_length_together() -> None:
    def sizes(lengths: list[int]) -> list[tuple[int, int]]:
        return [(bucket.pairs, bucket.length) for bucket in Packed(lengths).buckets]

    assert sizes([8, 9, 10, 11, 14, 17]) == [(3, 10), (1, 11), (2, 17)]  # a quarter longer at most
    assert sizes([20] * 40) == [(40, 20)]  # any number of one length
    assert sizes([20] * 7 + [21] * 9) == [(8, 21), (8, 21)]  # eight that are not
    assert Packed([8, 8]).buckets[0].bias is None and Packed([8, 9]).buckets[0].bias is not None


@pytest.mark.parametrize("small", [SMALL, SMALL_MODERNBERT, SMALL_MEAN], ids=["bert", "modernbert", "modernbert, mean"])
def test_spare_tokens_are_zero_and_not_what_the_memory_held(small: ModelConfig) -> None:
    """What is no number stays one, times a gradient of zero. Here torch fills new memory with such."""
    model = lively(PairClassifier(small)).train()
    torch.use_deterministic_algorithms(True)
    try:
        rounded(model, *batch([3, 7, 4])).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("device", "tokens"), [("cpu", 64), ("meta", 41)])
def test_the_number_of_tokens_is_rounded_up_on_a_cpu_alone(device: str, tokens: int) -> None:
    """So oneDNN has a kernel for it already; a GPU's kernels take any number."""
    made = PackedBatch(np.arange(41), np.zeros(41, np.int64), np.array([5, 7, 29]))
    ids, types, layout = to_device(made, torch.device(device))
    assert ids.shape == types.shape == layout.positions.shape == (tokens,)


def test_packed_attention_drops_weights_and_sends_gradients_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against attention written down pair by pair, with the masks that were drawn, in double precision."""
    keep, drawn = dropout.keep, []

    def remember(*arguments: Any) -> tuple[Tensor, float]:
        drawn.append(keep(*arguments))
        return drawn[-1]

    monkeypatch.setattr(dropout, "keep", remember)
    lengths, heads, size = [3, 3, 5, 9, 9, 9, 14], 2, 4  # each bucket of one length: the mask has no padding
    qkv = torch.randn(sum(lengths), 3, heads, size, requires_grad=True)
    mixed = Packed(lengths).attend(qkv, 0.3)
    above = torch.randn_like(mixed)
    (gradient,) = torch.autograd.grad(mixed, qkv, above)

    [(mask, scale)] = drawn
    assert 0.1 < 1 - mask.mean() < 0.5 and scale == pytest.approx(1 / 0.7, rel=1e-4)
    same, start, cell = qkv.detach().double().requires_grad_(), 0, 0
    expected = []
    for length in lengths:
        query, key, value = same[start : start + length].permute(1, 2, 0, 3)
        weights = (query @ key.mT / size**0.5).softmax(-1)
        kept = mask[cell : cell + weights.numel()].view_as(weights) * scale
        expected.append((weights * kept @ value).transpose(0, 1))
        start, cell = start + length, cell + weights.numel()
    (expected_gradient,) = torch.autograd.grad(torch.cat(expected), same, above.double())
    torch.testing.assert_close(mixed.double(), torch.cat(expected), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient.double(), expected_gradient, atol=1e-5, rtol=0)


@pytest.mark.parametrize("small", [SMALL, SMALL_MODERNBERT, SMALL_MEAN], ids=["bert", "modernbert", "modernbert, mean"])
@pytest.mark.parametrize("frozen", [None, 0, 1, 2, 3])
def test_only_what_is_needed_is_computed(small: ModelConfig, frozen: int | None) -> None:
    """Counted by torch, over the products of all linear layers, forward and backward; with frozen blocks, too."""
    config = replace(small, num_layers=3)
    model, lengths = lively(PairClassifier(config)), [9, 3, 16]
    freeze(model, frozen)
    ids, segments, mask = batch(lengths)
    with FlopCounterMode(display=False) as counter:
        packed(model, ids, segments, mask).sum().backward()
    counts = counter.get_flop_counts()["Global"]
    linear = sum(count for operator, count in counts.items() if str(operator) in ("aten.addmm", "aten.mm"))
    hidden, labels = config.hidden_size, len(config.labels)
    head = 6 * len(lengths) * (hidden**2 + hidden * labels)
    if frozen == 3 and not config.pre_norm:  # the pooler's input needs no gradient; a final norm is trained below it
        head -= 2 * len(lengths) * hidden**2
    assert linear == needed_flop(config, sum(lengths), len(lengths), frozen) + head
    assert linear < (0.8 if config.head.pooling == "first" else 1.1) * training_flop(config, sum(lengths))


# --- Dropout and new weights -----------------------------------------------------------------------------------------


@LAYOUTS
@pytest.mark.parametrize("kind", ["embedding_dropout", "hidden_dropout", "attention_dropout", "classifier_dropout"])
def test_each_dropout_acts_in_training_only(kind: str, layout: Any) -> None:
    quiet = SMALL.with_dropout(0.0)
    model = PairClassifier(replace(quiet, **{kind: 0.5}))
    reference = PairClassifier(quiet)
    reference.load_state_dict(lively(model).state_dict())
    inputs = batch([9, 3, 16])
    with torch.no_grad():
        expected = layout(reference.train(), *inputs)
        assert torch.equal(layout(model.eval(), *inputs), expected)
        assert not torch.allclose(layout(model.train(), *inputs), expected, atol=1e-3)


def test_with_dropout_sets_only_what_the_architecture_has() -> None:
    assert SMALL.with_dropout(0.3) == replace(
        SMALL, embedding_dropout=0.3, hidden_dropout=0.3, attention_dropout=0.3, classifier_dropout=0.3
    )
    before_the_pooler = replace(SMALL, head=Head(input_dropout=0.0)).with_dropout(0.3)  # RoBERTa's
    assert before_the_pooler == replace(SMALL.with_dropout(0.3), head=Head(input_dropout=0.3))
    assert SMALL_D2L.with_dropout(0.3) == replace(SMALL_D2L, hidden_dropout=0.3, attention_dropout=0.3)


def test_a_new_head_is_initialised_as_its_family_does() -> None:
    torch.manual_seed(0)
    bert = PairClassifier(replace(SMALL, hidden_size=256))
    for head in (bert.pooler, bert.classifier):  # transformers: normal with initializer_range, biases 0
        assert head.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert not head.bias.any()
    torch.manual_seed(0)
    d2l = PairClassifier(replace(SMALL_D2L, hidden_size=256)).classifier
    bound = 256**-0.5  # torch's Linear: uniform in ±1/√inputs, biases too
    assert 0.95 * bound < d2l.weight.abs().max().item() <= bound
    assert d2l.bias.any()


def test_foreign_names_go_there_and_back() -> None:
    for config in (SMALL, SMALL_D2L, SMALL_MODERNBERT):
        state = lively(PairClassifier(config)).state_dict()
        back = from_foreign(to_foreign(state, config), config, "there", do="")
        assert back.keys() == state.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


# --- The predictor ---------------------------------------------------------------------------------------------------


def test_predictor_gives_each_pair_its_own_logits_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path / "model"))
    model = source.build().eval()
    rows = tiny.snli_rows(40)
    premises, hypotheses = [row["sentence1"] for row in rows], [row["sentence2"] for row in rows]
    monkeypatch.setattr("bertnli.model.predictor.EVAL_BATCH_TOKENS", {"cpu": 64, "cuda": 64})  # many batches
    found = TorchPredictor(source.build(), source.tokenizer, "cpu").logits(premises, hypotheses)
    with torch.no_grad():
        for row, (premise, hypothesis) in enumerate(zip(premises, hypotheses, strict=True)):
            encoded = source.tokenizer.encode([premise], [hypothesis])
            ids = torch.from_numpy(encoded.ids).long()[None]
            segments = (torch.arange(ids.shape[1]) >= encoded.first_segment[0]).long()[None]
            expected = padded(model, ids, segments, torch.ones_like(ids))
            torch.testing.assert_close(torch.from_numpy(found[row]), expected[0], atol=1e-5, rtol=0)
    assert len({tuple(row) for row in found.round(4).tolist()}) > 10
    assert TorchPredictor(source.build(), source.tokenizer, "cpu").logits([], []).shape == (0, 3)


def test_the_predictor_takes_smaller_batches_where_the_gpu_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path / "model"))
    texts = [[row[name] for row in tiny.snli_rows(60)] for name in ("sentence1", "sentence2")]
    expected = TorchPredictor(source.build(), source.tokenizer, "cpu").logits(*texts)
    predictor, tried = TorchPredictor(source.build(), source.tokenizer, "cpu"), []
    forward, room = predictor.model.forward, 300

    def with_little_memory(input_ids, *inputs):
        tried.append(len(input_ids))
        if len(input_ids) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return forward(input_ids, *inputs)

    monkeypatch.setattr(predictor.model, "forward", with_little_memory)
    np.testing.assert_allclose(predictor.logits(*texts), expected, atol=1e-5)
    tried.clear()
    predictor.logits(*texts)
    assert max(tried) <= room  # it remembers
    room = 5
    with pytest.raises(
        RunError, match="the GPU's memory is full; found CUDA out of memory; end what else runs on it, or"
    ):
        predictor.logits(*texts)


def test_shapes_alone_are_made_without_torchs_compiler(monkeypatch):
    """On the meta device torch would load it for random numbers, for a second and more."""
    monkeypatch.setattr(torch.nn.init, "normal_", None)  # calling it would fail
    with torch.device("meta"):
        model = PairClassifier(SMALL)
    assert all(parameter.is_meta for parameter in model.parameters())
