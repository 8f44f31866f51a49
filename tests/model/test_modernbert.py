"""ModernBERT computes what transformers' own class computes, from either form of its config.json."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

from bertnli.common.errors import InputError
from bertnli.families import folder_config
from bertnli.families.config import Rotary
from bertnli.families.modernbert import MODERNBERT
from bertnli.model import attention, pretrained
from bertnli.model.attention import Packed, Padded, ScoreRule
from bertnli.model.classifier import PairClassifier
from bertnli.model.dropout import Dropout
from bertnli.model.keymaps import from_foreign
from tests.support import tiny
from tests.support.whole_block import WholeBlock

LENGTHS = (3, 9, 30, 31, 17, 30, 5)
BIASES = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}
CONFIGS: list[dict[str, Any]] = [
    {},
    {"classifier_pooling": "mean"},
    {**BIASES, "hidden_size": 40, "global_attn_every_n_layers": 2},
    {**BIASES, "classifier_pooling": "mean", "local_attention": 9, "num_attention_heads": 2},
    {"global_attn_every_n_layers": 1, "classifier_activation": "relu", "hidden_activation": "gelu_pytorch_tanh"},
    {"global_attn_every_n_layers": 5, "num_labels": 2, "norm_eps": 1e-3, "attn_implementation": "sdpa"},
    {"local_attention": 1},
    {"global_rope_theta": 50.0, "local_rope_theta": 3.0},
    {"num_hidden_layers": 1},
]


def of_transformers(**changes: Any) -> transformers.ModernBertForSequenceClassification:
    """A random model whose logits depend on everything."""
    sizes = {
        "vocab_size": len(tiny.word_pieces()),
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 20,
        "local_attention": 8,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "attn_implementation": "eager",
    }
    special = dict.fromkeys(("pad", "bos", "cls", "eos", "sep"), 0)
    config = transformers.ModernBertConfig(
        **{"num_labels": 3} | sizes | {f"{name}_token_id": id_ for name, id_ in special.items()} | changes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ModernBertForSequenceClassification(config)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, float("norm.weight" in name), 0.2)
    return model.eval()


def ours(theirs: transformers.ModernBertForSequenceClassification) -> PairClassifier:
    content = theirs.config.to_dict() | {"architectures": [type(theirs).__name__]}
    labels = tuple(f"label {number}" for number in range(theirs.config.num_labels))
    config = folder_config.parse(json.loads(json.dumps(content)), "config.json").to_ours(labels)
    model = PairClassifier(config).eval()
    model.load_state_dict(from_foreign(theirs.state_dict(), config, "transformers", do=""))
    return model


def pairs(lengths: tuple[int, ...] = LENGTHS) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randint(1, len(tiny.word_pieces()), mask.shape, generator=draw), mask


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_logits_and_gradients_are_those_of_transformers(changes: dict[str, Any]) -> None:
    theirs = of_transformers(**changes)
    model, (ids, mask) = ours(theirs), pairs()
    expected = theirs(input_ids=ids, attention_mask=mask.long()).logits
    above = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    expected.backward(above)
    gradients = from_foreign({name: p.grad for name, p in theirs.named_parameters()}, model.config, "", do="")
    for tokens, layout in ((ids, Padded(mask)), (ids[mask], Packed(LENGTHS))):
        model.zero_grad()
        logits = model(tokens, torch.zeros_like(tokens), layout)
        logits.backward(above)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_long_pairs_are_computed_in_parts(pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_LONG", 20)
    monkeypatch.setattr(attention, "_QUERIES", 7)
    parts, mix = [], Padded._mix_in_parts
    monkeypatch.setattr(Padded, "_mix_in_parts", lambda *given: parts.append(1) or mix(*given))
    test_logits_and_gradients_are_those_of_transformers({"classifier_pooling": pooling})
    assert parts


def test_a_window_that_reaches_everything_is_none() -> None:
    rule = ScoreRule(window=8)
    assert rule.within(9) == ScoreRule() and rule.within(10) is rule
    lengths = [9, 4, 8]
    qkv = torch.randn(sum(lengths), 3, 2, 4)
    assert torch.equal(Packed(lengths).attend(qkv, 0.0, rule), Packed(lengths).attend(qkv, 0.0))
    assert not torch.allclose(Packed([21]).attend(qkv, 0.0, rule), Packed([21]).attend(qkv, 0.0))


def test_dropout_acts_where_transformers_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw the same masks in the same order, so in training too the logits are the same."""
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training, inplace=False: Dropout(p).train(training)(x))
    each = dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"), 0.2)
    theirs = of_transformers(**each, attn_implementation="sdpa")
    model, (ids, mask) = ours(theirs).train(), pairs()
    model.blocks[-1] = WholeBlock(model.blocks[-1])
    torch.manual_seed(3)
    expected = theirs.train()(input_ids=ids, attention_mask=mask.long()).logits
    torch.manual_seed(3)
    logits = model(ids, torch.zeros_like(ids), Padded(mask))
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


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
    found = folder_config.parse(OF_TRANSFORMERS_4 | {"num_hidden_layers": 4} | changes, "config.json").to_ours(("a",))
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


@pytest.mark.parametrize(
    "changes", [*CONFIGS, {"layer_types": ["sliding_attention", *["full_attention"] * 3]}], ids=str
)
def test_the_folder_that_is_written_opens_in_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = of_transformers(**changes)
    theirs.config.id2label = {number: f"label {number}" for number in range(theirs.config.num_labels)}
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "vocab.txt").write_text("\n".join(tiny.word_pieces()) + "\n")
    source = pretrained.load(tmp_path / "theirs")
    pretrained.save(source.build(), source.tokenizer, tmp_path / "ours")
    assert pretrained.load(tmp_path / "ours").config == source.config
    again = transformers.ModernBertForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    ids, mask = pairs()
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=mask.long()).logits
        np.testing.assert_allclose(again(input_ids=ids, attention_mask=mask.long()).logits, expected, atol=1e-5)
        logits = source.build().eval()(ids, torch.zeros_like(ids), Padded(mask))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_an_encoder_is_a_start_for_training(tmp_path: Path) -> None:
    """A bare encoder gets a new head; the pretraining task's model keeps the one that it shares, as in transformers."""
    theirs = of_transformers()
    masked = transformers.ModernBertForMaskedLM(theirs.config)
    for model, has_head in ((theirs.model, False), (masked, True)):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        (folder / "vocab.txt").write_text("\n".join(tiny.word_pieces()) + "\n")
        source = pretrained.load(folder)
        assert not source.has_classifier and ("pooler.weight" in source.state) is has_head
        built = source.build()
        torch.testing.assert_close(built.final_norm.weight, (model if not has_head else model.model).final_norm.weight)


def test_a_config_is_written_as_it_was_read() -> None:
    config = folder_config.parse(OF_TRANSFORMERS_4, "config.json").to_ours(("a",))
    written = MODERNBERT.schema.of(replace(config, family="modernbert"))
    for key, value in written.items():
        if key not in ("layer_types", "rope_parameters"):
            assert OF_TRANSFORMERS_4[key] == value, key
