"""int8 bundles: what their graph computes, that a score depends on no other pair, what the gate says of worse ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

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
from bertnli_export.graphs.exported_model import for_export
from bertnli_export.graphs.graph import torch_logits
from bertnli_export.graphs.int8 import InputRange, Int8Linear, export_int8, quantize_weight
from bertnli_export.scorer import Scorer, run_batches
from torch import Tensor, nn

from bertnli.common.errors import RunError
from bertnli.model import pretrained
from bertnli.model.classifier import ACTIVATIONS
from bertnli.model.pretrained import Pretrained
from tests.export.test_build import rows_file
from tests.support import tiny

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


class WrittenDown(nn.Module):
    """What Int8Linear stands for, in whole numbers of int64 and double precision."""

    def __init__(self, layer: nn.Linear, values: InputRange | None = None):
        super().__init__()
        self.values, self.layer = values or InputRange(), layer

    def forward(self, x: Tensor) -> Tensor:
        weight, weight_scale = quantize_weight(self.layer.weight)
        zero, lowest = self.values.zero, self.values.lowest
        bound = x.abs() if lowest is None else x
        scale = bound.max(-1, keepdim=True).values / (255 - zero)
        if lowest:
            scale = scale.clamp(min=-lowest / zero)
        integers = ((x / scale).round() + zero).clamp(0, 255).long() - zero
        y = (integers @ weight.long().T).double() * weight_scale.double() * scale.double()
        return (y if self.layer.bias is None else y + self.layer.bias.double()).float()


@pytest.mark.parametrize("kind", ["gelu", "relu"])
def test_the_graph_computes_int8_products_as_they_are_written_down(kind: str, source, tmp_path) -> None:
    if kind == "relu":
        folder = tiny.d2l_folder(tmp_path / "model", classifier=True)
        source = pretrained.load(folder, arch="bert.small", max_length=32)
    export_bundle(source, tmp_path / "bundle", precision="int8")
    after = int8._AFTER_ACTIVATION[kind]
    typical = source.tokenizer.encode(*zip(*sentences.plain(), strict=True))
    expected = for_export(centre(source.build(), typical), WrittenDown, lambda layer: WrittenDown(layer, after))
    scorer = Scorer(tmp_path / "bundle", "cpu")
    encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))

    def logits(form: nn.Module) -> np.ndarray:
        def of(*batch: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return form(*map(torch.from_numpy, batch)).numpy()

        return run_batches(of, encoded, 3, source.tokenizer.pad_id, CPU)

    written, exact = logits(expected), logits(for_export(source.build()))
    # Here and there a value rounds up that rounds down in the other: little against int8's own error.
    error = np.abs(written - exact).mean()
    assert error > 1e-3
    assert np.abs(scorer.logits(*zip(*PAIRS, strict=True)) - written).mean() < 0.1 * error


def test_every_product_of_the_blocks_is_int8_and_attention_is_fused(bundle: Path) -> None:
    count = Counter(node.op_type for node in onnx.load(bundle / "model.onnx").graph.node)
    assert count["MatMulIntegerToFloat"] == 6 + 2  # query, key, value, output, expand, contract; key and value
    assert count["Attention"] == 2
    assert count["MatMul"] + count["Gemm"] == 4 + 2  # the last block's over first tokens; pooler and classifier
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
    export_bundle(source, bundle.with_name("fp32"))
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(600, seed=1)]
    exact, found = (Scorer(path, "cpu").score(pairs) for path in (bundle.with_name("fp32"), bundle))
    changed = sum(a.label != b.label for a, b in zip(exact, found, strict=True))
    assert changed <= 0.05 * len(pairs)  # random weights decide on little


@pytest.mark.parametrize("values", [InputRange(), InputRange(16, -0.17), InputRange(0, 0.0)])
def test_rows_of_zeros_and_huge_values_stay_numbers(values: InputRange, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4)
    rows = torch.stack([torch.zeros(8), torch.full((8,), 3e4), torch.linspace(0, 1, 8)])
    program = torch.onnx.export(Int8Linear(layer, values).eval(), (rows,), dynamo=True, opset_version=23, verbose=False)
    program.save(tmp_path / "layer.onnx")
    [found] = onnxruntime.InferenceSession(tmp_path / "layer.onnx").run(None, {"x": rows.numpy()})
    expected = layer(rows).detach().numpy()
    largest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found / largest, expected / largest, atol=0.02)
    np.testing.assert_array_equal(found[0], layer.bias.detach().numpy())


# --- the gate


class OneScaleForAll(Int8Linear):
    """Plain dynamic quantisation: the largest value of the whole batch gives every row's scale."""

    def token_scales(self, x: Tensor) -> Tensor:
        return super().token_scales(x).amax(0, keepdim=True).expand(x.shape[0], 1)


def test_scores_that_depend_on_company_fail_the_gate(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(int8, "Int8Linear", OneScaleForAll)
    with pytest.raises(RunError, match="a pair's logits depend on the other pairs of its batch"):
        export_bundle(source, tmp_path / "out", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_too_many_changed_labels_fail_the_gate(source, tmp_path, monkeypatch) -> None:
    def coarse(weight: Tensor) -> tuple[Tensor, Tensor]:
        scale = weight.abs().amax(1) / 2
        return (weight / scale[:, None]).round().to(torch.int8), scale

    monkeypatch.setattr(int8, "quantize_weight", coarse)
    with pytest.raises(RunError, match=r"built-in pairs' labels differ, 10\.00% is allowed"):
        export_bundle(source, tmp_path / "out", precision="int8")


def test_lost_accuracy_fails_the_gate(source, tmp_path, monkeypatch) -> None:
    """Few labels may change, and yet only from right to wrong."""
    monkeypatch.setitem(parity.LIMITS, "int8", parity.Limits(None, 1.0, 1.0, 1.0, 0.005))
    model = source.build().eval()
    encoded = source.tokenizer.encode(*zip(*PAIRS, strict=True))
    right = run_batches(lambda *batch: torch_logits(model, *batch), encoded, 3, source.tokenizer.pad_id, CPU)
    rows = [
        {"premise": p, "hypothesis": h, "label": source.config.labels[label]}
        for (p, h), label in zip(PAIRS, right.argmax(1), strict=True)
    ]
    monkeypatch.setattr(
        int8, "quantize_weight", lambda weight: (torch.zeros_like(weight, dtype=torch.int8), weight[:, 0])
    )
    with pytest.raises(RunError, match=r"is right on \d+\.\d\d% fewer of 70 labelled rows"):
        export_bundle(source, tmp_path / "out", precision="int8", verify_data=rows_file(tmp_path, rows))


def test_int8_of_each_activation(source: Pretrained) -> None:
    assert int8._AFTER_ACTIVATION.keys() == ACTIVATIONS.keys()
    x = torch.linspace(-20, 20, 100_001)
    for name, values in int8._AFTER_ACTIVATION.items():
        lowest = ACTIVATIONS[name](x).min().item()
        assert values.lowest is not None and lowest - 1e-3 < values.lowest <= lowest, name


def test_export_int8_is_the_same_file_again(source: Pretrained) -> None:
    model, typical = source.build(), source.tokenizer.encode(*zip(*PAIRS, strict=True))
    assert export_int8(model, typical).SerializeToString() == export_int8(model, typical).SerializeToString()
