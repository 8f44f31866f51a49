"""DeBERTa's graphs: positions as constants, right at every length, for fp32 and int8."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from bertnli_export.build import export_bundle
from bertnli_export.bundle import Bundle
from bertnli_export.graphs.centering import centre
from bertnli_export.graphs.folded_positions import with_folded_positions
from bertnli_export.graphs.graph import export_graph, fused_attention
from bertnli_export.scorer import Scorer
from torch import Tensor

from bertnli.model import pretrained
from bertnli.model.attention import Padded
from bertnli.model.classifier import PairClassifier
from bertnli.model.pretrained import Pretrained
from tests.support import tiny
from tests.support.deberta import KINDS, V3, batch, ours, theirs

EACH_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
PAIRS = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(40)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """A model in the form of v3, whose longest pairs are far beyond the distances with buckets of their own."""
    tokens = pretrained.load(tiny.hf_folder(tmp_path_factory.mktemp("tokens"), max_positions=64)).tokenizer
    shape = {"vocab_size": len(tiny.word_pieces()), "max_position_embeddings": 64, "num_hidden_layers": 2}
    model = ours(theirs(**V3, **shape, hidden_size=64))
    return Pretrained(model.config, model.state_dict(), tokens, "0" * 64)


@EACH_KIND
def test_the_folded_model_computes_the_same_and_so_it_does_once_centred(kind: dict[str, Any], source: Any) -> None:
    """Centring changes a layer that the positions share: theirs is folded before."""
    model, (ids, segments, mask) = ours(theirs(**kind)), batch()
    folded = with_folded_positions(model)
    few = source.tokenizer.encode(["a", "a b c"], ["b", "c a"])
    few.ids[:] %= 50
    with torch.no_grad():
        expected = model(ids, segments, Padded(mask))
        for form in (folded, centre(folded, few)):
            torch.testing.assert_close(form(ids, segments, Padded(mask)), expected, atol=2e-5, rtol=0)
        if kind["pos_att_type"] == "p2c|c2p" and model.blocks[0].attention.positions.shared:
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


def test_a_graph_with_a_row_for_each_distance_and_a_convolution_is_right_at_every_length() -> None:
    model = ours(theirs(**KINDS["v2 without buckets"], num_hidden_layers=2, conv_kernel_size=3))
    check_lengths(model, export_graph(model))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_is_right_at_every_length_and_a_score_depends_on_no_other_pair(
    precision: str, source: Pretrained, tmp_path: Path
) -> None:
    export_bundle(source, tmp_path / "bundle", precision=precision)
    assert Bundle.open(tmp_path / "bundle").manifest.parity is not None
    if precision == "fp32":
        check_lengths(source.build().eval(), onnx.load(tmp_path / "bundle" / "model.onnx"))
    scorer = Scorer(tmp_path / "bundle", "cpu")
    together = scorer.score(PAIRS)
    assert [scorer.score([pair])[0] for pair in PAIRS] == together
    assert scorer.score(PAIRS[::-1]) == together[::-1]
    assert np.ptp([score.probabilities["a"] for score in together]) > 0.02
