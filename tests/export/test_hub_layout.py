"""`bertnli export --layout hub`: a folder as models on the hub are, which other programs and bertnli itself open.

CrossEncoder and optimum themselves: test_layouts_system.py.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from bertnli_export import build, hub_layout
from bertnli_export.binding import BoundSession
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.devices import CPU
from bertnli_export.interface import INPUTS
from bertnli_export.manifest import update_manifest
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer
from bertnli_export.session import EXACT_INT8, Session
from bertnli_export.verify import verify

from bertnli.commands import model_argument
from bertnli.common.errors import InputError
from bertnli.evaluation.metrics import softmax
from bertnli.model import pretrained
from tests.support import tiny
from tests.support.bundles import edit_manifest, tiny_graph, without_metadata

INT8 = "onnx/model_quantized.onnx"
PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(40)] + [("A man run. " * 30, "Two dogs.")]


@pytest.fixture(scope="module")
def hub_bundle(tiny_source: pretrained.Pretrained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the model of `tiny.bundle()`, to be read only."""
    out = tmp_path_factory.mktemp("hub") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.EXPORTERS, "fp32", tiny_graph)
        summary = export_bundle(tiny_source, out, layout="hub")
    assert (summary["precision"], summary["label_flips"]) == ("fp32", 0)
    assert 0 < summary["int8_max_logit_difference"] < 0.5
    assert summary["int8_max_company_difference"] < 1e-5  # in batches with padding
    assert summary["note"].startswith("on an x86 CPU without VNNI")
    return out


@pytest.fixture(scope="module")
def without_types(hub_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a model whose tokenizer gives no token types, as RoBERTa's, though the model has two."""
    folder = tiny.hf_folder(tmp_path_factory.mktemp("untyped") / "model", max_length=None)
    file = folder / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | names))
    source = pretrained.load(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.EXPORTERS, "fp32", tiny_graph)
        patch.setitem(build.EXPORTERS, "int8", lambda *_: without_metadata(hub_bundle / INT8))
        export_bundle(replace(source, temperature=2.0), folder.parent / "bundle", layout="hub")
    return folder.parent / "bundle"


def logits(bundle: Path, graph: str) -> np.ndarray:
    """As a program computes them that has transformers' tokenizer and ONNX Runtime, and passes on what one gives."""
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    inputs = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, truncation=True, return_tensors="np")
    assert len(set(inputs["attention_mask"].sum(1).tolist())) > 1, "no padding in it"
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*EXACT_INT8)
    session = onnxruntime.InferenceSession(str(bundle / graph), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], dict(inputs))[0]


def probabilities(scorer: Scorer) -> list[list[float]]:
    return [list(score.probabilities.values()) for score in scorer.score(PAIRS)]


def test_the_folder_has_the_names_that_others_look_for(hub_bundle) -> None:
    files = {path.relative_to(hub_bundle).as_posix() for path in hub_bundle.rglob("*") if path.is_file()}
    theirs = {"onnx/model.onnx", INT8, "config.json", "tokenizer.json", "tokenizer_config.json"}
    assert files == theirs | {"parity.npz", "manifest.json"}
    assert set(Bundle.open(hub_bundle).manifest.files) == files - {"manifest.json"}


@pytest.mark.parametrize("graph", ["onnx/model.onnx", INT8])
def test_transformers_tokenizer_and_onnxruntime_alone_give_bertnlis_scores(hub_bundle, without_types, graph) -> None:
    for bundle in (hub_bundle, without_types):
        scorer = Scorer(bundle / graph, "cpu", temperature=1)
        np.testing.assert_allclose(softmax(logits(bundle, graph)), probabilities(scorer), atol=1e-5)


def test_bertnli_opens_the_folder_in_fp32_and_the_graph_in_int8(hub_bundle, tmp_path) -> None:
    usual = Scorer(tiny.bundle(), "cpu").score(PAIRS)
    assert Scorer(hub_bundle, "cpu").score(PAIRS) == Scorer(hub_bundle / "onnx/model.onnx", "cpu").score(PAIRS) == usual
    int8 = Scorer(hub_bundle / INT8, "cpu")
    together = int8.score(PAIRS)
    assert together != usual
    assert sum(one.label == other.label for one, other in zip(together, usual, strict=True)) >= len(PAIRS) - 2
    assert [int8.score([pair])[0] for pair in PAIRS] == together  # to the last bit
    assert (int8.bundle.manifest.precision, int8.bundle.place) == ("int8", hub_bundle / INT8)
    found = verify(hub_bundle / INT8, device="cpu")
    assert (found["precision"], found["bundle"]) == ("int8", str(hub_bundle / INT8))
    assert verify(hub_bundle, device="cpu")["precision"] == "fp32"
    assert model_argument.is_bundle(str(hub_bundle / INT8)) and not model_argument.is_bundle(str(tmp_path / "x.onnx"))


def test_a_file_scored_in_fp32_is_not_continued_in_int8(hub_bundle, tmp_path) -> None:
    rows, scores = tmp_path / "rows.tsv", tmp_path / "scores.tsv"
    rows.write_text("premise\thypothesis\n" + "".join(f"{premise}\t{hypothesis}\n" for premise, hypothesis in PAIRS))
    assert score_file(hub_bundle, str(rows), str(scores), device="cpu")["rows"] == len(PAIRS)
    with pytest.raises(InputError, match="bundle"):
        score_file(hub_bundle / INT8, str(rows), str(scores), device="cpu")


def test_a_temperature_is_stored_for_both_graphs(hub_bundle, tmp_path) -> None:
    bundle = shutil.copytree(hub_bundle, tmp_path / "bundle")
    model_argument.temperature_writer(str(bundle / INT8))
    update_manifest(bundle, temperature=2.5)
    assert [Scorer(bundle / graph, "cpu").temperature for graph in (".", INT8)] == [2.5, 2.5]


def test_a_graph_without_token_types_runs_with_bound_buffers(without_types) -> None:
    """As on a GPU."""
    session = Session(without_types / INT8, CPU)
    assert [value.name for value in session._session.get_inputs()] == ["input_ids", "attention_mask"]
    ids = np.random.default_rng(0).integers(5, 60, (3, 9))
    batch = [ids, np.ones_like(ids), np.ones_like(ids)]
    bound = BoundSession(session._session, CPU, 3, INPUTS[:2])
    np.testing.assert_array_equal(bound.run(batch), session.logits(*batch))


def test_a_changed_or_missing_int8_graph_is_named(hub_bundle, tmp_path) -> None:
    bundle = shutil.copytree(hub_bundle, tmp_path / "bundle")
    content = bytearray((bundle / INT8).read_bytes())
    content[-10] ^= 1
    (bundle / INT8).write_bytes(content)
    for opened in (bundle, bundle / INT8):
        with pytest.raises(InputError, match=r"model_quantized\.onnx: not the file that was exported; found SHA-256"):
            verify(opened, device="cpu")
    (bundle / INT8).unlink()
    with pytest.raises(InputError, match=r"model_quantized\.onnx: .*no such file"):
        Bundle.open(bundle)


def test_a_graph_that_the_manifest_does_not_describe_is_refused(hub_bundle, tmp_path) -> None:
    bundle = shutil.copytree(hub_bundle, tmp_path / "bundle")
    (bundle / "onnx" / "model_fp16.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=r"model_fp16\.onnx: a file that the bundle's manifest\.json does not name"):
        Bundle.open(bundle)
    (bundle / "onnx" / "model_fp16.onnx").unlink()
    edit_manifest(bundle, lambda content: content.update(others={}))
    with pytest.raises(InputError, match=r"no graph of the bundle.*found model_quantized\.onnx; expected model\.onnx"):
        Bundle.open(bundle / INT8)
    edit_manifest(bundle, lambda content: content["files"].pop(INT8))
    with pytest.raises(InputError, match="a file that the bundle's"):
        Bundle.open(bundle)
    (bundle / "manifest.json").write_bytes((hub_bundle / "manifest.json").read_bytes())
    edit_manifest(bundle, lambda content: content["files"].pop(INT8))
    with pytest.raises(InputError, match=r"key files; found no model_quantized\.onnx"):
        Bundle.open(bundle)


def test_what_the_layout_cannot_be_made_of_is_refused_first(tiny_source, d2l_source, tmp_path, monkeypatch) -> None:
    for precision in ("fp32", "int8"):
        monkeypatch.setitem(build.EXPORTERS, precision, lambda *_: pytest.fail("the work began"))
    with pytest.raises(InputError, match="--layout hub; found a tokenizer of d2l's"):
        export_bundle(d2l_source, tmp_path / "out", layout="hub")
    with pytest.raises(InputError, match=r"--precision; found int8, and --layout hub; .*omit --precision"):
        export_bundle(tiny_source, tmp_path / "out", layout="hub", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_what_other_programs_do_otherwise_is_said(tiny_source) -> None:
    tokenizer = tiny_source.tokenizer
    (always,) = hub_layout.notes(tokenizer, 1.0)
    assert "int8 graph gives NaN" in always and EXACT_INT8[0] in always
    assert hub_layout.notes(tokenizer, 1.5)[1:] == [
        "other programs do not divide the logits by the temperature, 1.5; the labels agree"
    ]
    assert hub_layout.notes(tokenizer.changed(None, "only_first", 64), 1.0)[1:] == [
        "other programs cut pairs that are too long as longest_first does, bertnli as only_first does"
    ]
