"""ModernBERT's windows, and its config.json; test_families.py compares it with transformers' own class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.families import folder_config
from bertnli.families.config import Rotary
from bertnli.families.modernbert import MODERNBERT
from bertnli.model import attention, pretrained
from bertnli.model.attention import Packed, Padded, ScoreRule
from tests.model.test_families import ROWS, check_equal, save, theirs_of

ROW = next(row for row in ROWS if row.model_type == "modernbert")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_long_pairs_are_computed_in_parts(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LONG", 20)
    monkeypatch.setattr(attention, "_QUERIES", 7)
    parts, mix = [], Padded._mix_in_parts
    monkeypatch.setattr(Padded, "_mix_in_parts", lambda *given: parts.append(1) or mix(*given))
    config = ROW.config(classifier_pooling=pooling, num_hidden_layers=4, local_attention=8)
    check_equal(theirs_of(config), [3, 9, 30, 31, 17, 30, 5])
    assert parts


def test_a_window_that_reaches_everything_is_none() -> None:
    rule = ScoreRule(window=8)
    assert rule.within(9) == ScoreRule() and rule.within(10) is rule
    lengths = [9, 4, 8]
    qkv = torch.randn(sum(lengths), 3, 2, 4)
    assert torch.equal(Packed(lengths).attend(qkv, 0.0, rule), Packed(lengths).attend(qkv, 0.0))
    assert not torch.allclose(Packed([21]).attend(qkv, 0.0, rule), Packed([21]).attend(qkv, 0.0))


def test_padding_beyond_every_window_does_not_make_gradients_nan() -> None:
    check_equal(theirs_of(ROW.config(local_attention=4, num_hidden_layers=3)), [16, 17, 20])


def test_the_pretraining_tasks_model_keeps_the_head_that_it_shares(tmp_path: Path) -> None:
    """As in transformers, whose classifier has a layer and a norm of the same names."""
    theirs = theirs_of(ROW.config(), AutoModelForMaskedLM)
    source = pretrained.load(save(theirs, tmp_path))
    assert not source.has_classifier
    assert torch.equal(source.state["pooler.weight"], theirs.head.dense.weight)
    assert torch.equal(source.state["pooler_norm.weight"], theirs.head.norm.weight)


# --- config.json -----------------------------------------------------------------------------------------------------

OF_TRANSFORMERS_4: dict[str, Any] = {  # answerdotai/ModernBERT-base's keys
    "architectures": ["ModernBertForMaskedLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "classifier_activation": "gelu",
    "classifier_bias": False,
    "classifier_dropout": 0.0,
    "classifier_pooling": "mean",
    "decoder_bias": True,
    "embedding_dropout": 0.0,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "hidden_activation": "gelu",
    "hidden_size": 768,
    "initializer_cutoff_factor": 2.0,
    "initializer_range": 0.02,
    "intermediate_size": 1152,
    "layer_norm_eps": 1e-05,
    "local_attention": 128,
    "local_rope_theta": 10000.0,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "model_type": "modernbert",
    "norm_bias": False,
    "norm_eps": 1e-05,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
    "position_embedding_type": "absolute",
    "vocab_size": 50368,
}


def rotary(**changes: Any) -> Rotary:
    found = folder_config.parse(OF_TRANSFORMERS_4 | {"num_hidden_layers": 4} | changes, "config.json").to_ours(
        Outputs(("a",))
    )
    assert found.rotary is not None
    return found.rotary


def test_both_forms_of_config_json_are_read() -> None:
    wide, near = 160_000.0, 10_000.0
    assert rotary() == Rotary(thetas=(wide, near, near, wide), windows=(None, 64, 64, None))
    assert rotary(local_rope_theta=None).thetas == (wide,) * 4
    assert rotary(global_attn_every_n_layers=2, local_attention=9).windows == (None, 4, None, 4)
    types = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
    ropes = {"full_attention": {"rope_type": "default", "rope_theta": 7}, "sliding_attention": None}
    assert rotary(layer_types=types, rope_parameters=ropes) == Rotary(
        thetas=(near, 7.0, 7.0, near), windows=(64, None, None, 64)
    )


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"num_attention_heads": 256}, "num_attention_heads"),
        ({"layer_types": ["full_attention"]}, "layer_types"),
        ({"layer_types": ["chunked_attention"] * 4}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope_parameters.full_attention.rope_type"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, "rope_scaling"),
        ({"classifier_pooling": "max"}, "classifier_pooling"),
    ],
    ids=str,
)
def test_what_does_not_run_is_refused_by_the_name_of_its_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"config.json: key {key}; found"):
        rotary(**changes)


def test_a_config_is_written_as_it_was_read() -> None:
    config = folder_config.parse(OF_TRANSFORMERS_4, "config.json").to_ours(Outputs(("a",)))
    written = MODERNBERT.schema.of(config)
    for key, value in written.items():
        if key not in ("layer_types", "rope_parameters"):
            assert OF_TRANSFORMERS_4[key] == value, key
