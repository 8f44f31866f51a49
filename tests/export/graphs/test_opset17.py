"""`--opset 17`: the same numbers from a graph with nothing newer. With an old ONNX Runtime: test_opset17_system.py."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from bertnli_export import build
from bertnli_export.build import export_bundle
from bertnli_export.graphs.opset17 import to_opset_17
from bertnli_export.scorer import Scorer
from onnx import helper

from bertnli.common.errors import InputError, RunError
from tests.support import tiny
from tests.support.bundles import tiny_graph

PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(40)]


def test_a_bundle_of_opset_17_gives_the_same_scores(tiny_source, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(build.EXPORTERS, "fp32", tiny_graph)
    summary = export_bundle(tiny_source, tmp_path / "bundle", opset=17)
    assert summary["fused_attention"] == summary["layers"] == 2
    graph = onnx.load(tmp_path / "bundle" / "model.onnx")
    assert {entry.domain: entry.version for entry in graph.opset_import} == {"": 17, "com.microsoft": 1}
    assert graph.ir_version <= 9
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert (manifest["opset"], manifest["onnxruntime"]) == (17, "1.16.0")
    assert manifest["attention"]["operators"] == {"com.microsoft::MultiHeadAttention": 2}
    scorer, usual = Scorer(tmp_path / "bundle", "cpu"), Scorer(tiny.bundle(), "cpu")
    found, expected = ([list(score.probabilities.values()) for score in one.score(PAIRS)] for one in (scorer, usual))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_opset_17_does_not_have_is_named() -> None:
    graph = tiny_graph()
    graph.graph.node.append(helper.make_node("RMSNormalization", ["logits", "x"], ["y"]))
    with pytest.raises(RunError, match="for opset 17; found operator RMSNormalization"):
        to_opset_17(graph)


def test_options_that_cannot_be_are_refused_first(tiny_source, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(build.EXPORTERS, "fp32", lambda *_: pytest.fail("the work began"))
    with pytest.raises(InputError, match="--opset; found 16; expected 23 or 17"):
        export_bundle(tiny_source, tmp_path / "out", opset=16)
    with pytest.raises(InputError, match="--opset; found 17 and --precision fp16; expected fp32 or int8"):
        export_bundle(tiny_source, tmp_path / "out", opset=17, precision="fp16")
