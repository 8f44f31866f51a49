"""`bertnli export`: a complete bundle, or nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from bertnli_export import build
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.graphs import graph
from bertnli_export.scorer import Scorer

from bertnli.common.errors import InputError, RunError
from bertnli.common.files import digest
from bertnli.evaluation.metrics import softmax
from bertnli.model import pretrained
from bertnli.report.licences import LicenceInfo, of_model
from tests.support import tiny
from tests.support.bundles import rows_file, tiny_graph

TWO_LABELS = ("not_entailment", "entailment")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is around the graph of `tiny_source`: it is not exported again."""
    monkeypatch.setitem(build.EXPORTERS, "fp32", tiny_graph)


def test_the_graph_says_what_it_is() -> None:
    found = {entry.key: entry.value for entry in onnx.load(tiny.bundle() / "model.onnx").metadata_props}
    manifest = Bundle.open(tiny.bundle()).manifest
    assert found == {
        "bertnli.labels": '["entailment", "neutral", "contradiction"]',
        "bertnli.problem_type": "single_label_classification",
        "bertnli.activation": "softmax",
        "bertnli.max_length": "48",
        "bertnli.truncation": "longest_first",
        "bertnli.lower_case": "true",
        "bertnli.precision": "fp32",
        "bertnli.tokenizer_fingerprint": Bundle.open(tiny.bundle()).tokenizer().fingerprint,
        "bertnli.source_sha256": manifest.origin.sha256,
        "bertnli.versions": json.dumps(manifest.versions),
    }
    assert manifest.truncation == "longest_first" and manifest.lower_case is True


def test_licence_and_disclosure_go_into_manifest_and_graph(tiny_source, quick, tmp_path) -> None:
    known = LicenceInfo("Apache-2.0", "It has seen the test.")
    export_bundle(tiny_source, tmp_path / "out", name="runs/mine", terms=known)
    origin = Bundle.open(tmp_path / "out").manifest.origin
    assert (origin.name, origin.licence, origin.disclosure) == ("runs/mine", "Apache-2.0", "It has seen the test.")
    found = {entry.key: entry.value for entry in onnx.load(tmp_path / "out" / "model.onnx").metadata_props}
    assert (found["bertnli.licence"], found["bertnli.disclosure"]) == ("Apache-2.0", "It has seen the test.")
    assert of_model(str(tmp_path / "out")) == known


def test_a_graph_that_the_checker_refuses_is_no_bundle(tiny_source, tmp_path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise onnx.checker.ValidationError("node 5 is odd")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    monkeypatch.setitem(build.EXPORTERS, "fp32", lambda *_: graph.check(tiny_graph(), labels=3))
    with pytest.raises(RunError, match="node 5 is odd"):
        export_bundle(tiny_source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unfused_attention_fails_unless_it_is_allowed(tiny_source, quick, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(graph, "FUSED_ATTENTION", {("", "AnotherAttention")})
    with pytest.raises(RunError, match="not fused; found 0 fused operators; expected 2"):
        export_bundle(tiny_source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    assert export_bundle(tiny_source, tmp_path / "out", allow_unfused=True)["fused_attention"] == 0


def test_a_graph_that_fails_the_gate_is_no_bundle(tiny_source, quick, tmp_path) -> None:
    bias = tiny_source.state["classifier.bias"] + 1  # another checkpoint than the graph's
    other = replace(tiny_source, state={**tiny_source.state, "classifier.bias": bias})
    with pytest.raises(RunError, match=r"the exported graph does not compute what its checkpoint computes.*logit"):
        export_bundle(other, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_real_rows_are_compared_and_their_accuracy_is_kept(tiny_source, quick, tmp_path) -> None:
    rows = tiny.snli_rows(60)
    summary = export_bundle(
        tiny_source, tmp_path / "out", verify_data=rows_file(tmp_path, rows), terms=LicenceInfo("MIT")
    )
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


def test_the_commit_of_a_fetched_model_is_in_the_manifest(quick, tmp_path) -> None:
    folder = tiny.hf_folder(tmp_path / "fetched")
    files = {"model.safetensors": {"sha256": digest(folder / "model.safetensors")}}
    (folder / "receipt.json").write_text(json.dumps({"revision": "c" * 40, "files": files}))
    source = pretrained.load(folder)
    assert source.revision == "c" * 40
    export_bundle(source, tmp_path / "out")
    manifest = Bundle.open(tmp_path / "out").manifest
    assert manifest.origin.revision == "c" * 40
    older = tmp_path / "out" / "manifest.json"
    content = json.loads(older.read_text())
    del content["origin"]["revision"]
    older.write_text(json.dumps(content))
    assert Bundle.open(tmp_path / "out").manifest.origin.revision is None


# --- bundles of other models


def test_the_bundle_gives_what_transformers_gives(tmp_path) -> None:
    """Also with two labels, in an order of their own."""
    transformers = pytest.importorskip("transformers")
    folder = tiny.hf_folder(tmp_path / "model", labels=TWO_LABELS, num_layers=1, max_length=None, seed=1)
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
    assert list(scores[0].probabilities) == list(TWO_LABELS)
    found = [list(score.probabilities.values()) for score in scores]
    np.testing.assert_allclose(found, softmax(logits), atol=1e-5)


def test_d2l_models_export_with_their_own_reading_of_text(d2l_source, d2l_bundle) -> None:
    assert not (d2l_bundle / "tokenizer_config.json").exists(), "transformers has no such tokenizer"
    scorer = Scorer(d2l_bundle, "cpu")
    assert scorer.labels == ("entailment", "contradiction", "neutral")
    assert scorer.tokenizer.settings == d2l_source.tokenizer.settings
    [raw, split] = scorer.score([("A man run.", "Two dogs run."), ("a man run .", "two dogs run .")])
    assert raw == split


# --- what is refused beforehand


def test_refusals(tiny_source, tmp_path, monkeypatch) -> None:
    already = tiny.bundle()
    monkeypatch.setitem(build.EXPORTERS, "fp32", lambda *_: pytest.fail("the work began"))
    with pytest.raises(InputError, match="--precision; found 'int3'"):
        export_bundle(tiny_source, tmp_path / "out", precision="int3")
    encoder = replace(tiny_source, state={k: v for k, v in tiny_source.state.items() if not k.startswith("classifier")})
    with pytest.raises(InputError, match="no classifier"):
        export_bundle(encoder, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("…")
    with pytest.raises(InputError, match=r"mine: exists already; found thesis\.txt"):
        export_bundle(tiny_source, tmp_path / "mine", force=True)
    with pytest.raises(InputError, match="--force"):
        export_bundle(tiny_source, already)
    with pytest.raises(InputError, match=r"out: cannot be written; found .*thesis\.txt, a file; give another OUT"):
        export_bundle(tiny_source, tmp_path / "mine" / "thesis.txt" / "new" / "out")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))  # tests run as root
    with pytest.raises(InputError, match=rf"out: cannot be written; found {tmp_path}, a folder without write"):
        export_bundle(tiny_source, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_leaves_nothing(tiny_source, quick, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx, "save_model", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device"):
        export_bundle(tiny_source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_a_bundle(tiny_source, quick, tmp_path) -> None:
    export_bundle(tiny_source, tmp_path / "bundle")
    export_bundle(tiny_source, tmp_path / "bundle", force=True, terms=LicenceInfo("MIT"))
    assert Bundle.open(tmp_path / "bundle").manifest.origin.licence == "MIT"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_force_replaces_a_damaged_bundle_too(tiny_source, quick, tmp_path) -> None:
    export_bundle(tiny_source, tmp_path / "bundle")
    (tmp_path / "bundle" / "model.onnx").unlink()
    export_bundle(tiny_source, tmp_path / "bundle", force=True)
    Bundle.open(tmp_path / "bundle").check_files()
