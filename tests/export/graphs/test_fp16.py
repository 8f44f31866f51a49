"""The fp16 graph for CUDA, run by stand-ins for its operators; bundles that wait for a GPU to be verified on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from bertnli_export import devices, parity, score, verify
from bertnli_export import manifest as manifests
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.devices import Device
from bertnli_export.graphs import fp16, graph
from bertnli_export.parity import Reference
from bertnli_export.scorer import Scorer
from bertnli_export.session import Session

from bertnli.common.errors import InputError, RunError
from bertnli.common.gpus import Gpus
from bertnli.data.pairs import PairFile
from bertnli.evaluation.evaluate import evaluate
from bertnli.model import pretrained
from bertnli.model.classifier import PairClassifier
from bertnli.model.pretrained import Pretrained
from tests.model.test_families import ROWS, Row, inputs_of, ours_of, theirs_of
from tests.support import cuda_operators, tiny
from tests.support.bundles import edit_manifest, note_new_content, rows_file
from tests.support.cuda_operators import no_gpu, stand_in_gpu


def with_biases(source: Pretrained) -> PairClassifier:
    """The model with biases everywhere, which a new one has not."""
    model = source.build().eval()
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm):
            torch.nn.init.normal_(module.bias, std=0.3)
    return model


def gentle(source: Pretrained) -> Pretrained:
    """With half the logits: the tiny models are steeper than trained ones, so rounding shows twice as much in them."""
    halved = {name: source.state[name] / 2 for name in ("classifier.weight", "classifier.bias")}
    return replace(source, state={**source.state, **halved})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return gentle(pretrained.load(tiny.hf_folder(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def model(source: Pretrained) -> PairClassifier:
    return with_biases(source)


@pytest.fixture(scope="module")
def known(source: Pretrained, model: PairClassifier) -> Reference:
    return parity.reference(partial(graph.torch_logits, model), source.tokenizer)


def batch(*masks: list[int]) -> list[np.ndarray]:
    """Rows of tokens with the second segment beginning in the middle, under `masks`."""
    mask = np.array(masks, np.int64)
    ids = np.random.default_rng(0).integers(5, 90, mask.shape)
    ids[:, 0] = 2
    types = np.broadcast_to(np.arange(mask.shape[1]) > mask.shape[1] // 2, mask.shape).astype(np.int64)
    return [ids, mask, types]


# --- the graph


def test_what_is_fused(model: PairClassifier) -> None:
    found = fp16.fp16_graph(model)
    assert graph.fused_attention(found) == {"com.microsoft::PackedMultiHeadAttention": 2}
    operators = [node.op_type for node in found.graph.node]
    assert operators.count("SkipLayerNormalization") == 5  # two a layer, and the embeddings'
    assert operators.count("BiasGelu") == 2
    assert not {"LayerNormalization", "Gelu", "Softmax"} & set(operators)


def test_every_node_has_a_cuda_kernel(model: PairClassifier) -> None:
    assert cuda_operators.without_kernel(fp16.fp16_graph(model)) == []


def test_the_same_model_gives_the_same_file_at_half_the_size_and_stays_fp32(model: PairClassifier) -> None:
    content = fp16.fp16_graph(model).SerializeToString()
    assert content == fp16.fp16_graph(model).SerializeToString()
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert 2 * weights < len(content) < 3 * weights
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("biased", [False, True])
def test_the_packed_attention_of_the_stand_in_is_attention_within_each_pair(biased: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    lengths, ends = [3, 1, 5], np.array([0, 3, 4, 9], np.int32)
    q, k, v = (torch.randn(9, 8, generator=draw) for _ in range(3))
    offsets = np.array([0, 1, 2, 5, 10, 11, 12, 13, 14, 3, 4, 6, 7, 8, 9], np.int32).reshape(3, 5)
    bias = torch.randn(1, 2, 5, 5, generator=draw) if biased else torch.zeros(1, 2, 5, 5)
    expected = [
        F.scaled_dot_product_attention(
            *(x.unflatten(-1, (2, 4)).transpose(0, 1) for x in parts), attn_mask=bias[0, :, : len(part), : len(part)]
        )
        for parts in zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
        for part in parts[:1]
    ]
    expected = torch.cat([x.transpose(0, 1).flatten(-2) for x in expected])
    inputs = dict.fromkeys("qkv", onnx.TensorProto.FLOAT) | dict.fromkeys(("o", "e"), onnx.TensorProto.INT32)
    inputs |= {"b": onnx.TensorProto.FLOAT} if biased else {}
    names = ["q", "k", "v", "", "o", "e", *("b" for _ in range(biased))]
    node = onnx.helper.make_node("PackedMultiHeadAttention", names, ["y"], domain="com.microsoft", num_heads=2)
    values = [onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()]
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    made = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", values, [output]),
        ir_version=10,
        opset_imports=[onnx.helper.make_opsetid("", 23), onnx.helper.make_opsetid("com.microsoft", 1)],
    )
    given = dict(zip(inputs, (q.numpy(), k.numpy(), v.numpy(), offsets, ends, bias.numpy()), strict=False))
    [by_definition] = cuda_operators.ReferenceEvaluator(made, new_ops=cuda_operators.OPERATORS).run(None, given)
    written_out = onnxruntime.InferenceSession(cuda_operators.for_the_cpu(made).SerializeToString())
    for found in (by_definition, written_out.run(None, given)[0]):
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


# --- what it computes


@pytest.mark.parametrize(("activation", "operator"), [("gelu", "BiasGelu"), ("gelu_new", "FastGelu"), ("relu", "Relu")])
def test_it_computes_what_the_checkpoint_computes(tmp_path: Path, activation: str, operator: str) -> None:
    source = gentle(pretrained.load(tiny.hf_folder(tmp_path / "model", config={"hidden_act": activation})))
    model = with_biases(source)
    known = parity.reference(partial(graph.torch_logits, model), source.tokenizer)
    made = fp16.fp16_graph(model)
    figures = parity.compare(known, cuda_operators.evaluator(made), source.tokenizer.pad_id, source.config.outputs)
    figures.check("fp16", "it")
    assert figures.max_logit_difference > 1e-4  # it is not fp32 by mistake
    assert [node.op_type for node in made.graph.node].count(operator) == 2
    assert cuda_operators.without_kernel(made) == []


def test_d2l_models(tmp_path: Path) -> None:
    folder = tiny.d2l_folder(tmp_path / "model", classifier=True)
    source = gentle(pretrained.load(folder, arch="bert.small", max_length=32))
    model = with_biases(source)
    known = parity.reference(partial(graph.torch_logits, model), source.tokenizer)
    made = fp16.fp16_graph(model)
    parity.compare(known, cuda_operators.evaluator(made), source.tokenizer.pad_id, source.config.outputs).check(
        "fp16", "it"
    )
    assert cuda_operators.without_kernel(made) == []


FAMILIES = [
    pytest.param(row, changes, id=f"{row.model_type}-{number}")
    for row in ROWS
    for number, changes in enumerate(row.configurations)
]


@pytest.mark.parametrize(("row", "changes"), FAMILIES)
def test_every_family_is_computed(row: Row, changes: dict[str, Any]) -> None:
    """At several lengths, with padding anywhere, and with padding's id among a text's tokens."""
    theirs = theirs_of(row.config(**changes))
    model = ours_of(theirs)
    made = fp16.fp16_graph(model)
    assert cuda_operators.without_kernel(made) == []
    assert graph.fused_attention(made) == {"com.microsoft::PackedMultiHeadAttention": model.config.num_layers}
    weights = sum(parameter.numel() for parameter in model.parameters())  # each once, also of shared blocks
    if model.config.disentangled is not None:  # and for each block what it makes of the table of positions
        weights += 2 * model.config.num_layers * model.relative.table.weight.numel()
    assert sum(int(np.prod(tensor.dims)) for tensor in made.graph.initializer) < 1.05 * weights + 8000

    run = cuda_operators.evaluator(made)
    ids, types, mask = inputs_of(theirs, [9, 3, 40, 17])
    ids[2, 5] = ids[3, 16] = theirs.config.pad_token_id
    given = [tensor.numpy().astype(np.int64) for tensor in (ids, mask, types)]
    expected = graph.torch_logits(model, *given)
    np.testing.assert_allclose(run(*given), expected, atol=2e-2)
    # A session for a GPU rounds lengths up, also beyond the model's positions.
    wider = [np.pad(part, ((0, 0), (0, 72 - part.shape[1]))) for part in given]
    np.testing.assert_allclose(run(*wider), expected, atol=2e-2)
    for row_number, length in enumerate([9, 3, 40, 17]):
        alone = [part[row_number : row_number + 1, :length] for part in given]
        np.testing.assert_allclose(run(*alone), expected[row_number : row_number + 1], atol=2e-2)


def test_onnx_runtime_lacks_one_operator_on_the_cpu_and_runs_the_rest(
    source, model, known, monkeypatch, tmp_path
) -> None:
    made = fp16.fp16_graph(model)
    with pytest.raises(Exception, match=r"NOT_IMPLEMENTED.*kernel for com\.microsoft\.PackedMultiHeadAttention"):
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    stand_in_gpu(monkeypatch)
    onnx.save(made, tmp_path / "model.onnx")
    parity.compare(
        known, Session(tmp_path / "model.onnx", Device("cuda")).logits, source.tokenizer.pad_id, source.config.outputs
    ).check("fp16", "it")


def test_padding_may_stand_anywhere(model: PairClassifier) -> None:
    given = batch([1] * 8, [1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 1, 1, 0], [1] + [0] * 7)
    found = cuda_operators.evaluator(fp16.fp16_graph(model))(*given)
    np.testing.assert_allclose(found, graph.torch_logits(model, *given), atol=2e-2)


def test_a_row_without_tokens_has_finite_logits_and_changes_no_other(model: PairClassifier) -> None:
    run = cuda_operators.evaluator(fp16.fp16_graph(model))
    ids, mask, types = batch([1] * 8, [0] * 8, [1] * 6 + [0] * 2, [0] * 8)
    found = run(ids, mask, types)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[[0, 2]], run(ids[[0, 2]], mask[[0, 2]], types[[0, 2]]), atol=1e-3)


class _Broken(fp16.PackedLayout):
    """The layout with one attribute that is wrong."""

    what = ""

    def __init__(self, write, attention_mask):
        super().__init__(write, attention_mask)
        zeros = write("Sub", self.pair, self.pair)
        ends = write("Sub", self.first, write.constant([-1], torch.int32))
        wrong = {"positions": zeros, "pair": zeros, "first": ends, "tokens": zeros}
        setattr(self, self.what, wrong[self.what])


@pytest.mark.parametrize("what", ["positions", "pair", "first", "tokens"])
def test_a_graph_that_is_wrong_about_the_packing_fails_the_gate(source, model, known, monkeypatch, what) -> None:
    monkeypatch.setattr(_Broken, "what", what)
    monkeypatch.setattr(fp16, "PackedLayout", _Broken)
    logits = cuda_operators.evaluator(fp16.fp16_graph(model))
    figures = parity.compare(known, logits, source.tokenizer.pad_id, source.config.outputs)
    with pytest.raises(RunError, match="it does not compute what its checkpoint computes"):
        figures.check("fp16", "it")


def test_a_graph_that_sees_padding_fails_the_gate(source, model, known, monkeypatch) -> None:
    class SeesPadding(fp16.PackedLayout):
        def __init__(self, write, attention_mask):
            super().__init__(write, write("Equal", attention_mask, attention_mask))

    monkeypatch.setattr(fp16, "PackedLayout", SeesPadding)
    figures = parity.compare(
        known, cuda_operators.evaluator(fp16.fp16_graph(model)), source.tokenizer.pad_id, source.config.outputs
    )
    with pytest.raises(RunError, match="it does not compute what its checkpoint computes"):
        figures.check("fp16", "it")


@pytest.mark.parametrize(("layer", "part"), [(0, "query"), (0, "value"), (1, "query"), (1, "value")])
def test_every_bias_that_counts_is_counted(source, model, known, layer, part) -> None:
    other = with_biases(source)
    bias = other.blocks[layer].attention.qkv.bias.data.view(3, -1)
    bias[{"query": 0, "value": 2}[part]] += 0.5
    logits = cuda_operators.evaluator(fp16.fp16_graph(other))
    assert parity.compare(known, logits, source.tokenizer.pad_id, source.config.outputs).max_logit_difference > 2e-2


def test_weights_beyond_the_range_of_fp16_are_refused(source) -> None:
    model = source.build()
    model.blocks[1].expand.weight.data[3, 4] = 70_000
    with pytest.raises(InputError, match=r"weights beyond fp16's range of 65,504; export it with --precision fp32"):
        fp16.fp16_graph(model)


def test_a_model_too_large_for_one_file_is_named(source, monkeypatch) -> None:
    monkeypatch.setattr(graph, "_LARGEST", 1000)
    with pytest.raises(InputError, match=r"too large for one ONNX file; found [\d,]+ bytes"):
        fp16.fp16_graph(source.build())


# --- bundles that wait for a GPU


@pytest.fixture(scope="module")
def exported(source: Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        no_gpu(patch)
        export_bundle(source, out, precision="fp16")
    return out


@pytest.fixture
def unverified(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "bundle")


def test_without_a_gpu_the_bundle_is_written_unverified_and_says_what_to_do(source, tmp_path, monkeypatch) -> None:
    no_gpu(monkeypatch)
    summary = export_bundle(source, tmp_path / "out", precision="fp16")
    assert summary == {
        "bundle": str(tmp_path / "out"),
        "precision": "fp16",
        "fused_attention": 2,
        "layers": 2,
        "parity": None,
        "reason": "no NVIDIA GPU that this process may use",
        "next": f"on a host with an NVIDIA GPU: bertnli verify {tmp_path / 'out'}",
    }
    manifest = Bundle.open(tmp_path / "out", unverified=True).manifest
    assert (manifest.parity, manifest.precision, manifest.opset) == (None, "fp16", 18)
    assert (tmp_path / "out" / "parity.npz").is_file()


def test_data_that_could_not_be_looked_at_is_named_for_later(source, tmp_path, monkeypatch) -> None:
    no_gpu(monkeypatch)
    rows = rows_file(tmp_path, tiny.snli_rows(8))
    summary = export_bundle(source, tmp_path / "out", precision="fp16", verify_data=rows)
    assert summary["next"].endswith(f"bertnli verify {tmp_path / 'out'} --data {rows.name}")


def test_a_gpu_that_cannot_be_used_is_the_reason(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(devices, "find_gpus", lambda: Gpus(1, "the driver is broken; fix it"))
    summary = export_bundle(source, tmp_path / "out", precision="fp16")
    assert summary["parity"] is None
    assert "the driver is broken; fix it" in summary["reason"]


def test_an_unverified_bundle_does_not_score(unverified, tmp_path, monkeypatch) -> None:
    stand_in_gpu(monkeypatch)
    refused = rf"was never compared with its checkpoint.*parity: null.*bertnli verify {unverified}"
    with pytest.raises(InputError, match=refused):
        Scorer(unverified)
    rows = tmp_path / "rows.tsv"
    rows.write_text("premise\thypothesis\na\tb\n")
    with pytest.raises(InputError, match=refused):
        score.score_file(unverified, rows, tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


def test_it_scores_once_verify_has_passed_on_a_gpu(unverified, source, tmp_path, monkeypatch) -> None:
    before = {path.name: path.read_bytes() for path in unverified.iterdir()}
    stand_in_gpu(monkeypatch)
    summary = verify.verify(unverified)
    assert (summary["device"], summary["precision"]) == ("cuda", "fp16")
    after = {path.name: path.read_bytes() for path in unverified.iterdir()}
    assert {name for name in after if after[name] != before.get(name)} == {"manifest.json"}
    opened = Bundle.open(unverified)
    opened.check_files()
    parity = opened.manifest.parity
    assert parity is not None
    assert parity.device == "cuda"
    assert parity.max_logit_difference == summary["max_logit_difference"] > 0
    assert (parity.max_logit_difference_allowed, parity.pairs) == (2e-2, summary["pairs"])
    assert parity.lengths == (3, 48)
    unchanged = Bundle.open(unverified, unverified=True).manifest.model_copy(update={"parity": None})
    assert (
        unchanged.model_dump_json() == manifests.Manifest.model_validate_json(before["manifest.json"]).model_dump_json()
    )

    data = tmp_path / "rows.jsonl"
    data.write_text('{"premise": "A man run.", "hypothesis": "Two dogs run.", "label": "neutral"}\n')
    assert len(Scorer(unverified).score([("A man run.", "Two dogs run.")])) == 1
    assert evaluate(Scorer(unverified), PairFile(data)).metrics.rows == 1


def test_parity_that_is_there_stays_as_it_is(unverified, monkeypatch) -> None:
    edit_manifest(unverified, lambda content: content.update(parity=tiny_parity()))
    before = (unverified / "manifest.json").read_bytes()
    stand_in_gpu(monkeypatch)
    assert verify.verify(unverified)["max_logit_difference"] > 1e-4
    assert (unverified / "manifest.json").read_bytes() == before


def test_a_bundle_that_fails_on_the_gpu_stays_unverified(unverified, monkeypatch) -> None:
    known = Reference.load(unverified / "parity.npz")
    known.logits[3] += 0.1
    known.save(unverified / "parity.npz")
    note_new_content(unverified, "parity.npz")
    stand_in_gpu(monkeypatch)
    with pytest.raises(RunError, match=r"on CUDA GPU 0 does not compute what its checkpoint.*0\.02 is allowed"):
        verify.verify(unverified)
    assert Bundle.open(unverified, unverified=True).manifest.parity is None


def test_a_manifest_that_cannot_be_written_is_named(unverified, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    stand_in_gpu(monkeypatch)
    monkeypatch.setattr(manifests, "write_text", full)
    with pytest.raises(RunError, match=r"manifest\.json: cannot be written: Read-only file system"):
        verify.verify(unverified)


def test_with_a_gpu_the_gate_runs_at_export(source, tmp_path, monkeypatch) -> None:
    stand_in_gpu(monkeypatch)
    summary = export_bundle(source, tmp_path / "out", precision="fp16")
    assert summary["device"] == "cuda"
    parity = Bundle.open(tmp_path / "out").manifest.parity
    assert parity is not None
    assert 1e-4 < parity.max_logit_difference < 2e-2

    monkeypatch.setattr(fp16, "PackedLayout", _Broken)
    monkeypatch.setattr(_Broken, "what", "positions")
    with pytest.raises(RunError, match="the exported graph does not compute"):
        export_bundle(source, tmp_path / "other", precision="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_unfused_attention_is_no_fp16_bundle(source, tmp_path, monkeypatch) -> None:
    no_gpu(monkeypatch)
    monkeypatch.setattr(graph, "FUSED_ATTENTION", {("", "Attention")})
    with pytest.raises(RunError, match="not fused; found 0 fused operators; expected 2"):
        export_bundle(source, tmp_path / "out", precision="fp16")


# --- which precision runs where


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_fp16_is_refused_on_the_cpu(unverified, tmp_path, monkeypatch, device) -> None:
    no_gpu(monkeypatch)
    refused = r"is fp16, which is not for this device; found cpu; expected a GPU.*--precision fp32 or int8"
    with pytest.raises(InputError, match=refused):
        verify.verify(unverified, device=device)
    edit_manifest(unverified, lambda content: content.update(parity=tiny_parity()))
    with pytest.raises(InputError, match=refused):
        Scorer(unverified, device)
    with pytest.raises(InputError, match=refused):  # before anything else is looked at
        score.score_file(unverified, tmp_path / "missing.tsv", tmp_path / "out.tsv", device=device)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_int8_is_refused_on_a_gpu(tmp_path, monkeypatch, device) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    edit_manifest(bundle, lambda content: content.update(precision="int8"))
    stand_in_gpu(monkeypatch)
    refused = r"is int8, which is not for this device; found cuda; expected the CPU; choose it with --device cpu"
    with pytest.raises(InputError, match=refused):
        Scorer(bundle, device)
    with pytest.raises(InputError, match=refused):  # before anything else is looked at
        score.score_file(bundle, tmp_path / "missing.tsv", tmp_path / "out.tsv", device=device)
    with pytest.raises(InputError, match="another precision than in its graph's own metadata"):  # not the device
        Scorer(bundle, "cpu")


def tiny_parity() -> dict:
    parity = Bundle.open(tiny.bundle()).manifest.parity
    assert parity is not None
    return parity.model_dump(mode="json")
