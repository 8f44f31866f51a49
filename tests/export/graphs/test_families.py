"""The graphs of the families, at lengths that the exporter was not shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bertnli_export.graphs.graph import export_graph, fused_attention

from tests.model.test_families import ROWS, call, inputs_of, ours_of, theirs_of

SHAPES = [
    ("roberta", {"type_vocab_size": 1}),
    ("mpnet", {}),
    ("albert", {"embedding_size": 10, "num_hidden_layers": 4}),  # a projection, and blocks that serve several layers
    pytest.param("distilbert", {"hidden_size": 35, "num_attention_heads": 5}, marks=pytest.mark.system),
    pytest.param("electra", {"embedding_size": 16}, marks=pytest.mark.system),
    pytest.param("bert", {"type_vocab_size": 1, "num_labels": 5}, marks=pytest.mark.system),
    pytest.param("ernie", {"use_task_id": True, "type_vocab_size": 4}, marks=pytest.mark.system),
    pytest.param("camembert", {"type_vocab_size": 1, "pad_token_id": 0}, marks=pytest.mark.system),
]


def weights(graph: onnx.ModelProto) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in graph.graph.initializer)


@pytest.mark.parametrize(("model_type", "changes"), SHAPES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_graph_computes_what_transformers_computes_at_every_length(model_type: str, changes: Any) -> None:
    row = next(row for row in ROWS if row.model_type == model_type)
    theirs = theirs_of(row.config(**changes))
    ours = ours_of(theirs)
    graph = export_graph(ours)
    assert fused_attention(graph) == {"Attention": ours.config.num_layers}
    # What several layers share is there once; a position's bias is a number for each bucket and head.
    assert weights(graph) < 1.05 * sum(parameter.numel() for parameter in ours.parameters()) + 500
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for lengths in ([2], [7, 7], [60, 3, 41, 17], [9, 33, 2]):
        ids, segments, mask = inputs_of(theirs, lengths)
        ids[0, 1] = theirs.config.pad_token_id  # as a text may contain it
        feeds = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": segments}
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        with torch.no_grad():
            np.testing.assert_allclose(found, call(theirs, ids, segments, mask).numpy(), atol=1e-4)
