"""int8 bundles: what their graph computes, that a score depends on no other pair, what the gate says of worse ones."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bertnli_export import parity, sentences
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.devices import CPU
from bertnli_export.graphs import int8
from bertnli_export.graphs.centering import centre
from bertnli_export.graphs.graph import torch_logits
from bertnli_export.graphs.int8 import InputRange, Int8Linear, _add_weight_zero_points, export_int8
from bertnli_export.interface import INPUTS, SATURATION_CHECK
from bertnli_export.scorer import Scorer, run_batches
from bertnli_export.session import EXACT_INT8, Session
from torch import Tensor, nn

from bertnli.common.errors import RunError
from bertnli.data.encoded import Encoded
from bertnli.families import config
from bertnli.model import pretrained
from bertnli.model.blocks import ACTIVATIONS
from bertnli.model.pretrained import Pretrained
from tests.model.test_families import ROWS, inputs_of, ours_of, theirs_of
from tests.support import tiny
from tests.support.bundles import rows_file, without_metadata
from tests.support.int8_in_torch import Int8InTorch, in_int8, logits_of

PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(70)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    sizes = {"hidden_size": 128, "intermediate_size": 256}  # error falls with the number of inputs of a layer
    return pretrained.load(tiny.hf_folder(tmp_path_factory.mktemp("model"), **sizes))


@pytest.fixture(scope="module")
def bundle(source: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    export_bundle(source, out, precision="int8")
    return out


def typical(source: Pretrained) -> Encoded:
    return source.tokenizer.encode(*zip(*sentences.plain(), strict=True))


def test_the_graph_computes_int8_products_as_they_are_written_down(source, bundle) -> None:
    encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))
    centred = centre(source.build(), typical(source))
    written, exact = (
        run_batches(logits, encoded, 3, source.tokenizer.pad_id, CPU)
        for logits in (logits_of(in_int8(centred)), partial(torch_logits, source.build()))
    )
    # Here and there a value rounds up that rounds down in the other: little against int8's own error.
    error = np.abs(written - exact).mean()
    assert error > 1e-3
    assert np.abs(Scorer(bundle, "cpu").logits(*zip(*PAIRS, strict=True)) - written).mean() < 0.1 * error


def test_every_product_of_the_blocks_is_int8_and_attention_is_fused(bundle: Path) -> None:
    count = Counter(node.op_type for node in onnx.load(bundle / "model.onnx").graph.node)
    # Query, key, value, output, expand and contract; key and value; the check for saturation.
    assert count["MatMulIntegerToFloat"] == 6 + 2 + 1
    assert count["Attention"] == 2
    assert count["MatMul"] + count["Gemm"] == 4 + 2  # the last block's over first tokens; pooler and classifier
    opened = Scorer(bundle, "cpu").session
    assert opened.metadata["bertnli.precision"] == "int8" and f"bertnli.{SATURATION_CHECK}" in opened.metadata
    manifest = Bundle.open(bundle).manifest
    assert manifest.precision == "int8" and manifest.parity is not None
    assert manifest.parity.max_logit_difference_allowed is None
    assert 1e-4 < manifest.parity.max_logit_difference < 1.0


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_score_is_exactly_the_same_alone_in_any_batch_and_in_any_order(precision: str, bundle: Path) -> None:
    scorer = Scorer(bundle if precision == "int8" else tiny.bundle(), "cpu")
    together = scorer.score(PAIRS)
    assert [scorer.score([pair])[0] for pair in PAIRS] == together
    assert scorer.score(PAIRS[::-1]) == together[::-1]
    assert len({score.label for score in together}) > 1


def test_labels_hardly_change(source: Pretrained, bundle: Path) -> None:
    premises, hypotheses = zip(
        *((row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(600, seed=1)), strict=True
    )
    encoded = source.tokenizer.encode(premises, hypotheses)
    exact = run_batches(partial(torch_logits, source.build()), encoded, 3, source.tokenizer.pad_id, CPU)
    found = Scorer(bundle, "cpu").logits(premises, hypotheses)
    changed = int((exact.argmax(axis=1) != found.argmax(axis=1)).sum())
    assert changed <= 0.05 * len(premises)  # random weights decide on little


def test_a_layer_after_each_kind_of_input() -> None:
    """Rows of zeros and huge values stay numbers; others are as they are written down."""
    ranges = list(dict.fromkeys([InputRange(), *int8._AFTER_ACTIVATION.values()]))

    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(map(Int8Linear, layers, ranges))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(layer(x) for layer in self.layers)

    torch.manual_seed(0)
    layers = [nn.Linear(8, 4) for _ in ranges]
    rows = torch.stack([torch.zeros(8), torch.full((8,), 3e4), torch.linspace(0, 1, 8), *torch.rand(20, 8)])
    program = torch.onnx.export(Layers().eval(), (rows,), dynamo=True, opset_version=23, verbose=False)
    graph = program.model_proto
    _add_weight_zero_points(graph.graph)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_INT8)
    outputs = onnxruntime.InferenceSession(graph.SerializeToString(), options).run(None, {"x": rows.numpy()})
    assert len(outputs) == len(ranges) == 3
    for found, values, layer in zip(outputs, ranges, layers, strict=True):
        expected = layer(rows).detach().numpy()
        largest = np.abs(expected).max(axis=1, keepdims=True)
        np.testing.assert_allclose(found / largest, expected / largest, atol=0.03)
        np.testing.assert_array_equal(found[0], layer.bias.detach().numpy())
        np.testing.assert_allclose(found / largest, Int8InTorch(layer, values)(rows).detach() / largest, atol=1e-5)


def test_weights_that_several_layers_share_are_there_once_and_exact_on_every_cpu() -> None:
    """ONNX Runtime fails to load int8 weights of several products where it makes them exact."""
    row = next(row for row in ROWS if row.model_type == "albert")
    theirs = theirs_of(row.config(num_hidden_layers=4))
    model = ours_of(theirs)
    ids, _, mask = inputs_of(theirs, [9, 9, 4])
    lengths = mask.sum(1).int().numpy()
    pairs = Encoded(ids[mask.bool()].int().numpy(), lengths, lengths, np.zeros(3, bool))
    graph = export_int8(model, pairs)
    products = [node for node in graph.graph.node if node.op_type == "MatMulIntegerToFloat"]
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    uses = Counter(node.input[1] for node in products)
    assert sorted(uses.values()) == [1, 3, 3, 3, 3, 4, 4]  # the check; the last layer has key and value in int8 only
    assert {weights[name].data_type for name in uses} == {onnx.TensorProto.UINT8}
    batch = [ids.numpy(), mask.long().numpy(), np.zeros_like(ids)]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_INT8)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    (found,) = session.run(None, dict(zip(INPUTS, batch, strict=True)))
    np.testing.assert_allclose(found, logits_of(in_int8(centre(model, pairs)))(*batch), atol=0.01)


def test_a_wrong_product_makes_every_logit_nan(bundle: Path, tmp_path: Path) -> None:
    graph = onnx.load(bundle / "model.onnx")
    (check,) = (tensor for tensor in graph.graph.initializer if tensor.name == "weight")
    weights = onnx.numpy_helper.to_array(check).copy()
    assert np.all(weights == 127)
    weights[3, 0] = 126  # as if two products had been limited
    check.CopyFrom(onnx.numpy_helper.from_array(weights, check.name))
    onnx.save_model(graph, tmp_path / "wrong.onnx")
    ids = np.ones((2, 5), np.int64)
    assert np.isnan(Session(tmp_path / "wrong.onnx", CPU).logits(ids, ids, ids)).all()


# --- the gate


def pass_the_gate(source: Pretrained, linear: type[Int8InTorch], rows: parity.RealRows | None = None) -> None:
    """The gate of an export whose graph computes `linear` in place of `Int8Linear`."""
    session: Any = SimpleNamespace(logits=logits_of(in_int8(source.build(), linear)), outputs=3, device=CPU)
    checkpoint, tokenizer = partial(torch_logits, source.build().eval()), source.tokenizer
    parity.gate(
        checkpoint, session, parity.reference(checkpoint, tokenizer), tokenizer, "int8", source.config.outputs, rows
    )


def test_int8_as_it_is_passes_the_gate(source) -> None:
    pass_the_gate(source, Int8InTorch)


def test_scores_that_depend_on_other_pairs_fail_the_gate(source) -> None:
    class OneScaleForAll(Int8InTorch):
        """Plain dynamic quantisation: the largest value of the whole batch gives every row's scale."""

        def token_scales(self, x: Tensor) -> Tensor:
            return super().token_scales(x).amax(0, keepdim=True)

    with pytest.raises(RunError, match="a pair's logits depend on the other pairs of its batch"):
        pass_the_gate(source, OneScaleForAll)


def test_too_many_changed_labels_fail_the_gate(source) -> None:
    class Coarse(Int8InTorch):
        def quantized_weight(self) -> tuple[Tensor, Tensor]:
            scale = self.layer.weight.abs().amax(1) / 2
            return (self.layer.weight / scale[:, None]).round().to(torch.int8), scale

    with pytest.raises(RunError, match=r"built-in pairs' labels differ, 10\.00% is allowed"):
        pass_the_gate(source, Coarse)


def test_lost_accuracy_fails_the_gate(source, tmp_path, monkeypatch) -> None:
    """Few labels change, but all of them from right to wrong."""

    class Nothing(Int8InTorch):
        def quantized_weight(self) -> tuple[Tensor, Tensor]:
            return torch.zeros_like(self.layer.weight, dtype=torch.int8), self.layer.weight[:, 0]

    monkeypatch.setitem(parity.LIMITS, "int8", parity.Limits(None, 1.0, 1.0, 1.0, 0.005, 1.0))
    encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))
    right = run_batches(partial(torch_logits, source.build()), encoded, 3, source.tokenizer.pad_id, CPU)
    rows = [
        {"premise": p, "hypothesis": h, "label": source.config.labels[label]}
        for (p, h), label in zip(PAIRS, right.argmax(1), strict=True)
    ]
    real = parity.RealRows.read(rows_file(tmp_path, rows), source.config.outputs)
    with pytest.raises(RunError, match=r"is right on \d+\.\d\d% fewer of 70 labelled rows"):
        pass_the_gate(source, Nothing, real)


def test_int8_of_each_activation() -> None:
    assert int8._AFTER_ACTIVATION.keys() == set(config.ACTIVATIONS)
    x = torch.linspace(-20, 20, 100_001)
    for name, values in int8._AFTER_ACTIVATION.items():
        lowest = ACTIVATIONS[name](x).min().item()
        assert values.lowest is not None and lowest - 1e-3 < values.lowest <= lowest, name


def test_export_int8_is_the_same_file_again(source: Pretrained, bundle: Path) -> None:
    again = export_int8(source.build(), typical(source))
    assert again.SerializeToString() == without_metadata(bundle / "model.onnx").SerializeToString()
