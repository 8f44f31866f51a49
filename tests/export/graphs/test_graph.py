"""The ONNX graph: one attention operator for each layer, a bundle's interface, the same file for the same model."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from bertnli_export.bundle import Bundle
from bertnli_export.graphs import graph

from bertnli.common.errors import InputError, RunError
from bertnli.model.pretrained import Pretrained
from tests.support import tiny
from tests.support.bundles import tiny_graph


def test_every_layer_is_one_attention_operator() -> None:
    found = onnx.load(tiny.bundle() / "model.onnx")
    assert graph.fused_attention(found) == {"Attention": 2}
    assert [(entry.domain, entry.version) for entry in found.opset_import] == [("", 23)]
    assert Bundle.open(tiny.bundle()).manifest.attention.model_dump() == {
        "fused": 2,
        "layers": 2,
        "operators": {"Attention": 2},
    }


def test_the_same_model_gives_the_same_file_and_no_path_of_this_machine(tiny_source: Pretrained) -> None:
    content = graph.export_graph(tiny_source.build()).SerializeToString()
    assert str(Path(graph.__file__).parent).encode() not in content
    assert content == tiny_graph().SerializeToString()  # which another process has made


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
def test_another_interface_is_named(change, message, monkeypatch) -> None:
    monkeypatch.setattr(onnx.checker, "check_model", lambda *_, **__: None)  # it would stop at some of these itself
    other = tiny_graph()
    change(other)
    with pytest.raises(RunError, match=message):
        graph.check(other, labels=3)


def test_a_model_too_large_for_one_file_is_named(tiny_source, monkeypatch) -> None:
    monkeypatch.setattr(graph, "_LARGEST", 1000)
    with pytest.raises(InputError, match=r"too large for one ONNX file; found [\d,]+ bytes; expected 1,000"):
        graph.export_graph(tiny_source.build())
