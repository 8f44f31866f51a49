"""A centred model is the same function, and what its int8 layers read is smaller."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bertnli_export import sentences
from bertnli_export.devices import CPU
from bertnli_export.graphs.centering import centre
from bertnli_export.graphs.exported_model import for_export
from bertnli_export.scorer import run_batches

from bertnli.data.batches import pack
from bertnli.data.encoded import Encoded
from bertnli.model import pretrained
from bertnli.model.attention import to_device
from bertnli.model.classifier import PairClassifier
from bertnli.model.predictor import TorchPredictor
from bertnli.model.pretrained import Pretrained
from tests.model.test_classifier import lively
from tests.support import tiny
from tests.support.int8_in_torch import in_int8, logits_of

PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(60)]


def typical(source: Pretrained) -> Encoded:
    return source.tokenizer.encode(*zip(*sentences.plain(), strict=True))


def far_from_zero(source: Pretrained) -> PairClassifier:
    """Its norms move a channel of every token far away, as those of trained models do."""
    model = source.build()
    with torch.no_grad():
        for block in model.blocks:
            for norm in (block.attention_norm, block.output_norm):
                norm.bias[5] += 20.0
    return model


def read(model: PairClassifier, source: Pretrained) -> dict[str, torch.Tensor]:
    """What the layers over all tokens read, `[tokens, hidden_size]`."""
    found: dict[str, torch.Tensor] = {}
    encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))
    for name, block in enumerate(model.blocks):
        block.attention.qkv.register_forward_hook(
            lambda _, inputs, __, name=name: found.update({f"{name}.qkv": inputs[0]})
        )
        if block is not model.blocks[-1]:
            block.expand.register_forward_hook(
                lambda _, inputs, __, name=name: found.update({f"{name}.expand": inputs[0]})
            )
    with torch.no_grad():
        model.eval()(*to_device(pack(encoded, np.arange(len(encoded))), torch.device("cpu")))
    return found


@pytest.mark.parametrize(("family", "layers"), [("bert", 1), ("bert", 3), ("d2l", 2)])
def test_it_computes_the_same(family: str, layers: int, tmp_path: Path) -> None:
    if family == "d2l":
        source = pretrained.load(tiny.d2l_folder(tmp_path, classifier=True), arch="bert.small", max_length=32)
    else:
        source = pretrained.load(tiny.hf_folder(tmp_path, num_layers=layers))
    model = far_from_zero(source)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved = centre(model, typical(source))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not torch.equal(moved.blocks[-1].attention.qkv.bias, model.blocks[-1].attention.qkv.bias)
    one, other = (
        TorchPredictor(form, source.tokenizer, "cpu").logits(*zip(*PAIRS, strict=True)) for form in (model, moved)
    )
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_what_is_read_is_centred_and_smaller(tmp_path: Path) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path, num_layers=3))
    moved = centre(far_from_zero(source), typical(source))
    before, after = read(far_from_zero(source), source), read(moved, source)
    assert len(before) == 5
    for name, x in after.items():
        assert x.abs().amax(-1).mean() < before[name].abs().amax(-1).mean(), name
        if name != "0.qkv":  # the embeddings' norm was left where it was
            assert before[name].abs().amax(-1).min() > 15 and x.abs().amax(-1).max() < 8, name


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_norms_of_blocks_that_serve_several_layers_have_one_mean(blocks: int, tmp_path: Path) -> None:
    """Of 5 layers; behind a projection of the embeddings."""
    source = pretrained.load(tiny.hf_folder(tmp_path))
    torch.manual_seed(0)
    model = lively(PairClassifier(replace(source.config, num_layers=5, distinct_blocks=blocks, embedding_size=20)))
    assert model.embeddings.projection is not None
    model.embeddings.projection.bias.data[5] += 6.0
    for block in model.blocks:
        block.output_norm.bias.data[5] += 6.0
    moved = centre(model, typical(source))
    one, other = (
        TorchPredictor(form, source.tokenizer, "cpu").logits(*zip(*PAIRS, strict=True)) for form in (model, moved)
    )
    np.testing.assert_allclose(one, other, atol=5e-5)
    assert np.ptp(one, axis=0).min() > 0.02
    for name, x in read(moved, source).items():
        if name.endswith("qkv"):
            assert x[:, 5].mean().abs() < 3, name

    encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))
    in_fp32, rounded = (
        run_batches(logits_of(form), encoded, 3, source.tokenizer.pad_id, CPU)
        for form in (for_export(model), in_int8(moved))
    )
    np.testing.assert_allclose(in_fp32, one, atol=5e-5)
    assert 1e-4 < np.abs(rounded - one).mean() < 0.05


def test_int8_is_closer_to_the_checkpoint(tmp_path: Path) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path, num_layers=3))
    model, encoded = far_from_zero(source), source.tokenizer.encode(*zip(*PAIRS, strict=True))
    exact, plain, centred = (
        run_batches(logits_of(form), encoded, 3, source.tokenizer.pad_id, CPU)
        for form in (for_export(model), in_int8(model), in_int8(centre(model, typical(source))))
    )
    assert np.abs(centred - exact).mean() < 0.5 * np.abs(plain - exact).mean()
