"""MPNet's relative bias, and ALBERT's blocks that serve several layers, beside what test_families.py compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from bertnli.common.errors import InputError
from bertnli.data.batches import pack
from bertnli.data.labels import SNLI_ORDER
from bertnli.data.outputs import Outputs
from bertnli.families import folder_config
from bertnli.model.attention import to_device
from bertnli.model.classifier import PairClassifier
from bertnli.model.relative_bias import buckets_of
from tests.model.test_varlen import LENGTHS, META, Engine, Operators, corpus

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
}
ALBERT = {"embedding_size": 10}


def test_the_buckets_of_distances_are_transformers() -> None:
    distances = torch.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(distances)
    assert torch.equal(buckets_of(distances, 32, 128), expected)
    assert expected.unique().tolist() == list(range(32))[:16] + list(range(17, 32))  # distance 0 is a left one


@pytest.mark.parametrize(
    ("family", "key", "value", "said"),
    [
        ("albert", "inner_group_num", 2, r"key inner_group_num; found 2; expected 1; choose a checkpoint"),
        ("albert", "num_hidden_groups", 4, r"key num_hidden_groups; found 4; expected .*num_hidden_layers, which is 3"),
        ("mpnet", "relative_attention_num_buckets", 64, r"key relative_attention_num_buckets; found 64; expected 32"),
        ("mpnet", "hidden_act", "silu", r"key hidden_act; found 'silu'"),
    ],
)
def test_what_cannot_run_is_refused_by_name(family: str, key: str, value: Any, said: str) -> None:
    content = transformers.AutoConfig.for_model(family, **SIZES).to_dict()
    with pytest.raises(InputError, match=said):
        folder_config.parse(content | {key: value}, "config.json")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["mpnet", "albert"])
def test_a_gpu_waits_for_nothing(family: str, dtype: torch.dtype) -> None:
    """As test_varlen.py has it for BERT."""
    content = transformers.AutoConfig.for_model(family, **SIZES, **(ALBERT if family == "albert" else {})).to_dict()
    config = folder_config.parse(content, "config.json").to_ours(Outputs(SNLI_ORDER))
    with META:
        model = PairClassifier(config).to(dtype)
    with Operators():  # raises where a tensor is left on the CPU
        logits = model.train()(*to_device(pack(corpus(), np.arange(len(LENGTHS))), META))
        Engine(model).backward(logits.sum())
    assert (logits.dtype, logits.device) == (dtype, META)
    assert all(parameter.grad is not None for parameter in model.parameters())
