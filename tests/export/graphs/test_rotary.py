"""The graphs of a model with rotary positions, windows, norms before the layers, and gates (ModernBERT)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from bertnli_export.devices import CPU
from bertnli_export.graphs.graph import export_graph, fused_attention, torch_logits
from bertnli_export.graphs.int8 import export_int8
from bertnli_export.session import Session

from bertnli.data.labels import SNLI_ORDER
from bertnli.families.config import Head, ModelConfig, Rotary
from bertnli.model.classifier import PairClassifier

PLAIN = ModelConfig(
    family="modernbert",
    labels=SNLI_ORDER,
    vocab_size=50,
    hidden_size=24,
    num_layers=2,
    num_heads=4,
    intermediate_size=20,
    max_positions=64,
    rotary=Rotary(thetas=(100.0, 10.0), windows=(None, 5)),
    learned_positions=False,
    type_vocab_size=0,
    pre_norm=True,
    attention_bias=False,
    intermediate_bias=False,
    norm_bias=False,
    head=Head(activation="gelu", bias=False, norm=True),
)
FULL = replace(
    PLAIN,
    attention_bias=True,
    intermediate_bias=True,
    norm_bias=True,
    rotary=Rotary(thetas=(10.0, 10.0), windows=(5, 5)),
    head=Head(pooling="mean", activation="relu", norm=True),
)
EACH = pytest.mark.parametrize(
    "config",
    [
        pytest.param(PLAIN, id="first, no biases"),
        pytest.param(FULL, id="mean, biases", marks=pytest.mark.system),  # in int8 below
    ],
)


def random_model(config: ModelConfig) -> PairClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PairClassifier(config).eval()
        for name, parameter in model.named_parameters():
            mean = float("norm.weight" in name) if parameter.dim() == 1 else 0.0
            torch.nn.init.normal_(parameter, mean, 0.2 if parameter.dim() == 1 else 0.3)
    return model


@cache
def graph_of_full(precision: str) -> onnx.ModelProto:
    model = random_model(FULL)
    if precision == "fp32":
        return export_graph(model)
    return export_int8(model, None)  # type: ignore[arg-type]  # nothing is centred


def batch(lengths: list[int], width: int) -> tuple[Any, ...]:
    ids = np.random.default_rng(0).integers(1, 50, (len(lengths), width))
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return ids, mask, np.zeros_like(ids)


def session(graph: onnx.ModelProto, folder: Path) -> Session:
    onnx.save_model(graph, folder / "model.onnx")
    return Session(folder / "model.onnx", CPU, threads=1)


@EACH
def test_fp32_computes_what_the_model_computes_at_every_length(config: ModelConfig, tmp_path: Path) -> None:
    model = random_model(config)
    graph = graph_of_full("fp32") if config is FULL else export_graph(model)
    assert fused_attention(graph) == {"Attention": 2}
    operators = Counter(node.op_type for node in graph.graph.node)
    assert operators["RotaryEmbedding"] == 4 - (config is PLAIN), "the first token's query is not turned"
    assert operators["LessOrEqual"] == 1, "blocks with a window share its mask"
    runs = session(graph, tmp_path)
    for lengths, width in (([2], 2), ([6, 3], 6), ([9, 30, 31, 4], 31), ([64, 5], 64), ([7], 20)):
        inputs = batch(lengths, width)
        np.testing.assert_allclose(runs.logits(*inputs), torch_logits(model, *inputs), atol=1e-4)


def test_int8_is_near_and_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = random_model(FULL)
    graph = graph_of_full("int8")
    assert fused_attention(graph) == {"Attention": 2}
    products = sum(node.op_type == "MatMulIntegerToFloat" for node in graph.graph.node)
    assert products == 2 * 6 + 1, "query, key, value, output, two of the feed-forward network; the check for saturation"
    runs = session(graph, tmp_path)
    inputs = batch([9, 30, 31, 30, 4], 31)
    together = runs.logits(*inputs)
    np.testing.assert_allclose(together, torch_logits(model, *inputs), atol=0.3)
    for row in range(5):
        alone = runs.logits(*(part[row : row + 1] for part in inputs))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_without_padding_a_pair_has_the_same_logits_alone_to_the_last_bit(tmp_path: Path) -> None:
    for precision in ("fp32", "int8"):
        runs = session(graph_of_full(precision), tmp_path)
        for length in (3, 31, 64):
            inputs = batch([length] * 3, length)
            alone = [runs.logits(*(part[row : row + 1] for part in inputs)) for row in range(3)]
            np.testing.assert_array_equal(np.concatenate(alone), runs.logits(*inputs))
