"""The graph, the parity gate, and the whole of `bertnli export`."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from bertnli_export import build, parity
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.graphs import exported_model, graph
from bertnli_export.scorer import Scorer

from bertnli.common.errors import InputError, RunError
from bertnli.evaluation.data_sets import LabelledSet, open_set
from bertnli.evaluation.metrics import softmax
from bertnli.model import pretrained
from bertnli.model.attention import Padded
from bertnli.model.pretrained import Pretrained
from bertnli.report.licences import LicenceInfo, of_model
from tests.support import tiny

MNLI_ORDER = ("contradiction", "neutral", "entailment")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    return pretrained.load(tiny.hf_folder(tmp_path_factory.mktemp("model"), num_layers=1))


@pytest.fixture(scope="module")
def exported(source: Pretrained) -> onnx.ModelProto:
    return graph.export_graph(source.build())


@pytest.fixture
def quick(exported: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around the graph of `source`: it is not made again."""

    def copy(*_: object) -> onnx.ModelProto:
        graph = onnx.ModelProto()
        graph.CopyFrom(exported)
        return graph

    monkeypatch.setitem(build.EXPORTERS, "fp32", copy)


def rows_file(folder: Path, rows: list[dict[str, str]]) -> LabelledSet:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_set(str(file))


# --- the graph


def test_every_layer_is_one_attention_operator() -> None:
    found = onnx.load(tiny.bundle() / "model.onnx")
    assert graph.fused_attention(found) == {"Attention": 2}
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", 23)]
    assert Bundle.open(tiny.bundle()).manifest.attention.model_dump() == {
        "fused": 2,
        "layers": 2,
        "operators": {"Attention": 2},
    }


def test_the_graph_says_what_it_is(source: Pretrained) -> None:
    found = {entry.key: entry.value for entry in onnx.load(tiny.bundle() / "model.onnx").metadata_props}
    manifest = Bundle.open(tiny.bundle()).manifest
    assert found == {
        "bertnli.labels": '["entailment", "neutral", "contradiction"]',
        "bertnli.max_length": "48",
        "bertnli.truncation": "longest_first",
        "bertnli.lower_case": "true",
        "bertnli.precision": "fp32",
        "bertnli.tokenizer_fingerprint": Bundle.open(tiny.bundle()).tokenizer().fingerprint,
        "bertnli.source_sha256": manifest.origin.sha256,
        "bertnli.versions": json.dumps(manifest.versions),
    }
    assert manifest.truncation == "longest_first" and manifest.lower_case is True


def test_licence_and_disclosure_go_into_manifest_and_graph(source, quick, tmp_path) -> None:
    export_bundle(source, tmp_path / "out", name="runs/mine", terms=LicenceInfo("Apache-2.0", "It has seen the test."))
    origin = Bundle.open(tmp_path / "out").manifest.origin
    assert (origin.name, origin.licence, origin.disclosure) == ("runs/mine", "Apache-2.0", "It has seen the test.")
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert (found["bertnli.licence"], found["bertnli.disclosure"]) == ("Apache-2.0", "It has seen the test.")
    assert of_model(str(tmp_path / "out")) == LicenceInfo("Apache-2.0", "It has seen the test."), "and on from there"


def test_the_same_model_gives_the_same_file_and_no_path_of_this_machine(
    source: Pretrained, exported: onnx.ModelProto
) -> None:
    content = exported.SerializeToString()
    assert str(Path(graph.__file__).parent).encode() not in content
    assert graph.export_graph(source.build()).SerializeToString() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: setattr(g.graph.input[1], "name", "mask"), "inputs; found input_ids, mask, token_type_ids"),
        (
            lambda g: setattr(g.graph.input[2].type.tensor_type, "elem_type", onnx.TensorProto.INT32),
            "input token_type_ids: type; found INT32; expected INT64",
        ),
        (
            lambda g: setattr(g.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 7),
            r"input input_ids: axes; found \['batch', 7\]; expected \['batch', 'length'\]",
        ),
        (
            lambda g: setattr(g.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 2),
            r"output logits: axes; found \['batch', 2\]",
        ),
    ],
)
def test_another_interface_is_named(exported, change, message, monkeypatch) -> None:
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: None)  # it would stop at some of these itself
    other = onnx.ModelProto()
    other.CopyFrom(exported)
    change(other)
    with pytest.raises(RunError, match=message):
        graph.check(other, labels=3)


def test_a_graph_that_the_checker_refuses_is_no_bundle(source, tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("node 5 is odd")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(RunError, match="node 5 is odd"):
        export_bundle(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def written_out(query, key, value, attn_mask, q_num_heads, kv_num_heads, scale):
    """Attention in small operators, as a version of torch without ONNX's own would leave it."""
    query, key, value = (x.unflatten(-1, (q_num_heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = (query @ key.mT * scale).masked_fill(~attn_mask, -1e9)
    return ((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2),)


def test_unfused_attention_fails_unless_it_is_allowed(source, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch.onnx.ops, "attention", written_out)
    with pytest.raises(RunError, match="not fused; found 0 fused operators; expected 1"):
        export_bundle(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_bundle(source, tmp_path / "out", allow_unfused=True)["fused_attention"] == 0


# --- the parity gate


class _SeesPadding(Padded):
    """A mask of the wrong kind: fine alone and at the traced shape, wrong in longer company."""

    def __init__(self, mask: torch.Tensor):
        super().__init__(torch.ones_like(mask))


def test_a_graph_that_sees_padding_fails_the_gate(source, tmp_path, monkeypatch) -> None:
    expected = parity.reference(lambda *batch: graph.torch_logits(source.build().eval(), *batch), source.tokenizer)
    monkeypatch.setattr(build, "reference", lambda *_: expected)
    monkeypatch.setattr(exported_model, "Padded", _SeesPadding)
    with pytest.raises(RunError, match=r"the exported graph does not compute what its checkpoint computes.*logit"):
        export_bundle(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_gate_fails_on_flipped_labels_and_on_what_is_no_number() -> None:
    figures = parity.Differences()
    figures.add(np.array([[1.0, 1.00001]], np.float32), np.array([[1.00001, 1.0]], np.float32))
    with pytest.raises(RunError, match="1 of 1 built-in pairs' labels differ"):
        figures.check("fp32", "it")
    figures = parity.Differences()
    figures.add(np.array([[np.nan, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32))
    with pytest.raises(RunError, match="difference of a logit is inf"):
        figures.check("fp32", "it")


def test_the_gate_covers_every_batch_size_and_length() -> None:
    tokenizer = Bundle.open(tiny.bundle()).tokenizer()
    known = parity.reference(lambda ids, mask, types: np.zeros((len(ids), 3), np.float32), tokenizer)
    shapes, in_mixed_company = [], 0

    def watch(ids, mask, types):
        nonlocal in_mixed_company
        shapes.append(ids.shape)
        in_mixed_company += len(set(mask.sum(axis=1))) > 1
        assert types.max() == 1
        return np.zeros((len(ids), 3), np.float32)

    parity.compare(known, watch, tokenizer.pad_id)
    assert {batch for batch, _ in shapes} >= {1, 2, 3, 32}
    assert {length for batch, length in shapes if batch == 1} >= {3, 4, 5, 7, 8, 9, 31, 32, 33, 47, 48}
    assert in_mixed_company > 10
    assert max(length for _, length in shapes) == tokenizer.max_length
    assert len(known.encoded) > 300
    for index, length in enumerate(known.encoded.lengths):
        pair = known.encoded.ids[known.encoded.offsets[index] :][:length]
        assert pair[0] == tokenizer.cls_id
        assert pair[-1] == pair[known.encoded.first_segment[index] - 1] == tokenizer.sep_id


def test_real_rows_are_compared_and_their_accuracy_is_kept(source, quick, tmp_path) -> None:
    rows = tiny.snli_rows(60)
    summary = export_bundle(source, tmp_path / "out", verify_data=rows_file(tmp_path, rows), terms=LicenceInfo("MIT"))
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.parity is not None and manifest.parity.accuracy is not None
    known = [row for row in rows if row["gold_label"] != "-"]
    scores = Scorer(tmp_path / "out", "cpu").score((row["sentence1"], row["sentence2"]) for row in known)
    right = sum(score.label == row["gold_label"] for score, row in zip(scores, known, strict=True))
    assert manifest.parity.labelled_rows == len(known)
    assert manifest.parity.accuracy == {"checkpoint": right / len(known), "bundle": right / len(known)}
    assert manifest.parity.data == "rows.jsonl"
    assert 0 < manifest.parity.max_logit_difference < 1e-4
    assert summary["accuracy"] == manifest.parity.accuracy
    assert manifest.origin.licence == "MIT"


def test_rows_without_labels_serve_as_well(source, tmp_path) -> None:
    rows = [{"premise": row["sentence1"], "hypothesis": row["sentence2"]} for row in tiny.snli_rows(5)]
    real = parity.RealRows.read(rows_file(tmp_path, rows), source.config.labels)
    assert real.gold.tolist() == [-1] * 5
    for unsaid in ("-", "", None, -1):
        real = parity.RealRows.read(
            rows_file(tmp_path, [{**row, "label": unsaid} for row in rows]), source.config.labels
        )
        assert real.gold.tolist() == [-1] * 5
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"premise": "", "hypothesis": "a"}\n')
    with pytest.raises(InputError, match="no usable row"):
        parity.RealRows.read(open_set(str(empty)), source.config.labels)


def test_labels_that_the_model_does_not_know_do_not_pass_for_none(source, tmp_path) -> None:
    """The gate would not have looked at the accuracy, and said nothing."""
    rows = [
        {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": number % 3}
        for number, row in enumerate(tiny.snli_rows(6))
    ]
    data = rows_file(tmp_path, rows)
    with pytest.raises(
        InputError, match=r"rows\.jsonl: the model knows none of the labels; found '0', '1', '2'; .*--label-names"
    ):
        parity.RealRows.read(data, source.config.labels)
    told = open_set(str(data.file.path), label_names=dict(zip("012", source.config.labels, strict=True)))
    assert parity.RealRows.read(told, source.config.labels).gold.tolist() == [0, 1, 2] * 2


# --- bundles of all kinds of models


def test_the_bundle_gives_what_transformers_gives(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tiny.hf_folder(tmp_path / "model", labels=MNLI_ORDER, max_length=None, seed=1)
    export_bundle(pretrained.load(folder, max_length=48), tmp_path / "bundle")
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(40)] + [("a " * 60, "b " * 3)]

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = tokenizer(*zip(*pairs, strict=True), padding=True, truncation=True, max_length=48, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.numpy()

    scores = Scorer(tmp_path / "bundle", "cpu").score(pairs)
    assert [score.truncated for score in scores] == [False] * 40 + [True]
    assert [score.label for score in scores] == [model.config.id2label[index] for index in logits.argmax(axis=1)]
    assert len({score.label for score in scores}) > 1
    assert list(scores[0].probabilities) == list(MNLI_ORDER)
    found = [list(score.probabilities.values()) for score in scores]
    np.testing.assert_allclose(found, softmax(logits), atol=1e-5)


def test_d2l_models_export_with_their_own_reading_of_text(tmp_path) -> None:
    source = pretrained.load(tiny.d2l_folder(tmp_path / "model", classifier=True), arch="bert.small", max_length=32)
    assert export_bundle(source, tmp_path / "bundle")["fused_attention"] == 2
    assert not (tmp_path / "bundle" / "tokenizer_config.json").exists(), "transformers has no such tokenizer"
    scorer = Scorer(tmp_path / "bundle", "cpu")
    assert scorer.labels == ("entailment", "contradiction", "neutral")
    assert scorer.tokenizer.settings == source.tokenizer.settings
    [raw, split] = scorer.score([("A man run.", "Two dogs run."), ("a man run .", "two dogs run .")])
    assert raw == split


def test_two_labels(tmp_path) -> None:
    source = pretrained.load(tiny.hf_folder(tmp_path / "model", labels=("yes", "no"), num_layers=1))
    export_bundle(source, tmp_path / "bundle")
    [score] = Scorer(tmp_path / "bundle", "cpu").score([("a", "b")])
    assert list(score.probabilities) == ["yes", "no"]
    assert sum(score.probabilities.values()) == pytest.approx(1)


# --- what is refused beforehand


def test_refusals(source, tmp_path, monkeypatch) -> None:
    already = tiny.bundle()
    monkeypatch.setitem(build.EXPORTERS, "fp32", lambda *_: pytest.fail("the work began"))
    with pytest.raises(InputError, match="--precision; found 'int3'"):
        export_bundle(source, tmp_path / "out", precision="int3")
    encoder = replace(source, state={k: v for k, v in source.state.items() if not k.startswith("classifier")})
    with pytest.raises(InputError, match="no classifier"):
        export_bundle(encoder, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("…")
    with pytest.raises(InputError, match=r"mine: exists already; found thesis\.txt"):
        export_bundle(source, tmp_path / "mine", force=True)
    with pytest.raises(InputError, match="--force"):
        export_bundle(source, already)
    with pytest.raises(InputError, match=r"out: cannot be written; found .*thesis\.txt, a file; give another OUT"):
        export_bundle(source, tmp_path / "mine" / "thesis.txt" / "new" / "out")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))  # tests run as root
    with pytest.raises(InputError, match=rf"out: cannot be written; found {tmp_path}, a folder without write"):
        export_bundle(source, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_model_too_large_for_one_file_is_named(source, monkeypatch) -> None:
    monkeypatch.setattr(graph, "_LARGEST", 1000)
    with pytest.raises(InputError, match=r"too large for one ONNX file; found [\d,]+ bytes; expected 1,000"):
        graph.export_graph(source.build())


def test_a_full_disk_leaves_nothing(source, quick, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save_model", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        export_bundle(source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_a_bundle(source, quick, tmp_path) -> None:
    export_bundle(source, tmp_path / "bundle")
    export_bundle(source, tmp_path / "bundle", force=True, terms=LicenceInfo("MIT"))
    assert Bundle.open(tmp_path / "bundle").manifest.origin.licence == "MIT"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_force_replaces_a_damaged_bundle_too(source, quick, tmp_path) -> None:
    export_bundle(source, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.onnx").unlink()
    export_bundle(source, tmp_path / "bundle", force=True)
    Bundle.open(tmp_path / "bundle").check_files()
