"""What is DeBERTa's own beside the comparison that all families have (test_families.py): buckets, dropout, refusals."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from bertnli.common.errors import InputError
from bertnli.data.batches import pack
from bertnli.families import folder_config
from bertnli.families.config import Disentangled
from bertnli.model.attention import Packed, to_device
from bertnli.model.classifier import PairClassifier
from bertnli.model.compiled import compile_blocks
from bertnli.model.disentangled import table_rows
from bertnli.model.dropout import Dropout
from bertnli.model.keymaps import from_foreign
from tests.model.test_varlen import META, Engine, Operators, corpus
from tests.support.deberta import KINDS, LENGTHS, V3, batch, ours, theirs


def test_dropout_acts_where_transformers_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place drops the same channels, and its probability shows in the others. (Attention's own is torch's.)"""

    def drop(x: Tensor, probability: float) -> Tensor:
        return x * (torch.arange(x.shape[-1]) % 5 != 1) * (1 + probability)

    probabilities = {"hidden_dropout_prob": 0.1, "pooler_dropout": 0.2, "cls_dropout": 0.3}
    reference = theirs(**V3, **probabilities, attention_probs_dropout_prob=0.0).train()
    ids, segments, mask = batch()
    expected, model = reference.eval()(ids, attention_mask=mask.long()).logits, ours(reference).train()
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training, inplace: drop(x, p) if training and p else x)
    monkeypatch.setattr(Dropout, "forward", lambda self, x: drop(x, self.p) if self.training and self.p else x)
    dropped = reference.train()(ids, attention_mask=mask.long()).logits
    assert not torch.allclose(dropped, expected, atol=1e-2)
    torch.testing.assert_close(model(ids[mask], segments[mask], Packed(LENGTHS)), dropped, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("buckets", "largest"), [(256, 512), (256, 384), (8, 32), (5, 20), (2, 9), (0, 12)])
def test_each_distance_has_the_row_that_transformers_gives_it(buckets: int, largest: int) -> None:
    """Buckets are found by rounding logarithms, so an operation in another order may take another one."""
    positions = 600
    like = torch.empty(1, positions, 1)
    span = buckets or largest
    grid = build_relative_position(like, like, buckets or -1, largest)[0]
    expected = (grid + span).clamp(0, 2 * span - 1)
    rows = table_rows(Disentangled(position_buckets=buckets, max_distance=largest), positions)
    i, j = np.ogrid[:positions, :positions]
    assert torch.equal(rows[i - j + positions - 1], expected)


REFUSED = {
    "conv_kernel_size": 4,
    "conv_groups": 2,
    "relative_attention": False,
    "pos_att_type": "c2p|p2p",
    "position_buckets": 62,
    "norm_rel_ebd": "group_norm",
    "embedding_size": 16,
    "attention_head_size": 16,
}


@pytest.mark.parametrize("key", REFUSED)
def test_what_it_cannot_run_is_refused_by_name(key: str) -> None:
    content = json.loads(theirs(**V3).config.to_json_string()) | {"attention_head_size": 8, "embedding_size": 32}
    folder_config.parse(content, "config.json")
    with pytest.raises(InputError, match=f"key {key}"):
        folder_config.parse(content | {key: REFUSED[key]}, "config.json")


def test_a_pretrained_encoder_has_weights_that_a_classifier_does_not_read() -> None:
    model = theirs(**V3)
    config = ours(model).config
    more = (
        "lm_predictions.lm_head.bias",
        "mask_predictions.dense.weight",
        "deberta.embeddings.word_embeddings._weight",
    )
    more += ("deberta.embeddings.position_embeddings.weight", "cls.predictions.bias")
    state = from_foreign(model.state_dict() | dict.fromkeys(more, torch.ones(3)), config, "weights", "…")
    assert state.keys() == PairClassifier(config).state_dict().keys()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def test_a_gpu_waits_for_nothing_and_its_memory_efficient_kernel_takes_the_bias(
    kind: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As test_varlen.py has it for BERT. The kernel takes a bias in the queries' dtype, whose last axis lies in one
    piece; torch brings its rows to the alignment that it needs."""
    config = ours(theirs(**kind)).config
    with META:
        model = PairClassifier(config).to(dtype)
    biases, attention = [], nn.functional.scaled_dot_product_attention

    def record(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, **others: Any) -> Tensor:
        biases.append((attn_mask.dtype, attn_mask.stride(-1), attn_mask.shape))
        return attention(query, key, value, attn_mask, **others)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record)
    with Operators():  # raises where a tensor is left on the CPU
        logits = model.train()(*to_device(pack(corpus(), np.arange(6)), META))
        Engine(model).backward(logits.sum())
    assert (logits.dtype, logits.device) == (dtype, META)
    assert all(parameter.grad is not None for parameter in model.parameters())
    heads = model.config.num_heads
    assert biases == [(dtype, 1, (6, heads, 20, 20))] * 2 + [(dtype, 1, (6, heads, 1, 20))]


def test_a_gpus_block_is_one_graph_and_other_sizes_need_no_other() -> None:
    """As test_compiled.py has it for BERT."""
    torch._dynamo.reset()
    config = ours(theirs(**V3)).config
    with META:
        model = PairClassifier(config)
    backend = CompileCounterWithBackend("eager")
    compile_blocks(model, fullgraph=True, backend=backend)
    graphs = []
    for lengths in ((5, 7, 9, 12, 12, 20), (5, 7, 9), (31, 30, 8, 9)):
        model(*to_device(pack(corpus(lengths), np.arange(len(lengths))), META))
        graphs.append(backend.frame_count)
    assert graphs[0] == graphs[-1] < 5


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_sixteen_bits_on_a_cpu(kind: dict[str, Any]) -> None:
    """In training in bf16 and under autocast; attention itself is fp32 there."""
    model, (ids, segments, mask) = ours(theirs(**kind)), batch()
    expected = model(ids[mask], segments[mask], Packed(LENGTHS)).detach()
    for cast in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            found = (model if cast else model.bfloat16())(ids[mask], segments[mask], Packed(LENGTHS))
        found.float().sum().backward()
        assert cast or found.dtype == torch.bfloat16
        assert (found.float() - expected).abs().max() < 0.1 * expected.abs().max()
