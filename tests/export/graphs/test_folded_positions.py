"""DeBERTa's positions as constants: the model computes the same, and its graph is right at every length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bertnli_export.graphs.centering import centre
from bertnli_export.graphs.folded_positions import with_folded_positions
from bertnli_export.graphs.graph import export_graph, fused_attention
from torch import Tensor

from bertnli.data.encoded import Encoded
from bertnli.model import pretrained
from bertnli.model.attention import Padded
from bertnli.model.classifier import PairClassifier
from tests.support import tiny
from tests.support.deberta import KINDS, batch, ours, theirs

EACH_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    """A few pairs of tokens to centre with."""
    encoded = pretrained.load(tiny.hf_folder(tmp_path_factory.mktemp("model"))).tokenizer.encode(
        ["a", "a b"], ["b", "c"]
    )
    encoded.ids[:] %= 50
    return encoded


@EACH_KIND
def test_the_folded_model_computes_the_same_and_so_it_does_once_centred(kind: dict[str, Any], few: Encoded) -> None:
    """Centring changes a layer that the positions share: theirs is folded before."""
    model, (ids, segments, mask) = ours(theirs(**kind)), batch()
    folded = with_folded_positions(model)
    with torch.no_grad():
        expected = model(ids, segments, Padded(mask))
        for form in (folded, centre(folded, few)):
            torch.testing.assert_close(form(ids, segments, Padded(mask)), expected, atol=2e-5, rtol=0)
        if kind["pos_att_type"] == "p2c|c2p" and kind["share_att_key"]:
            assert not torch.allclose(centre(model, few)(ids, segments, Padded(mask)), expected, atol=1e-3)


def feeds(model: PairClassifier) -> Iterator[tuple[dict[str, np.ndarray], Tensor]]:
    """Batches of lengths within and beyond the buckets, other than the exporter's example has; and their logits."""
    torch.manual_seed(2)
    for length in (2, 5, 9, 20, model.config.max_positions):
        ids, mask = (
            torch.randint(1, 50, (3, length)),
            torch.arange(length) < torch.tensor([[length], [length - 1], [2]]),
        )
        types = torch.randint(2, ids.shape)
        named = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": types}
        with torch.no_grad():
            yield {name: tensor.numpy() for name, tensor in named.items()}, model(ids, types, Padded(mask))


def check_lengths(model: PairClassifier, graph: onnx.ModelProto) -> None:
    assert fused_attention(graph) == {"Attention": model.config.num_layers}
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for feed, expected in feeds(model):
        np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["v2 without buckets", pytest.param("convolution", marks=pytest.mark.system)])
def test_a_graph_is_right_at_every_length(kind: str) -> None:
    model = ours(theirs(**KINDS[kind], num_hidden_layers=2))
    check_lengths(model, export_graph(model))
