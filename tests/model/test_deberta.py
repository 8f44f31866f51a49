"""DeBERTa's disentangled attention computes what transformers' own class computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from bertnli.common.errors import InputError
from bertnli.families import folder_config
from bertnli.families.config import Disentangled
from bertnli.model.attention import Packed, Padded
from bertnli.model.classifier import PairClassifier
from bertnli.model.disentangled import table_rows
from bertnli.model.dropout import Dropout
from bertnli.model.keymaps import from_foreign, to_foreign

V3 = {
    "position_buckets": 8,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
}
KINDS: dict[str, dict[str, Any]] = {
    "v3": V3,
    "mdeberta": V3 | {"max_relative_positions": 20, "hidden_size": 36, "num_attention_heads": 3},
    "v2 without buckets": {"pos_att_type": ["c2p", "p2c"], "type_vocab_size": 2, "max_relative_positions": 12},
    "own projections": V3 | {"share_att_key": False, "pooler_hidden_act": "tanh", "hidden_act": "gelu_new"},
    "c2p alone": V3 | {"pos_att_type": "c2p", "share_att_key": False},
    "p2c alone": V3 | {"pos_att_type": ["p2c"], "norm_rel_ebd": "none"},
}
LENGTHS = [3, 9, 30, 28, 2, 1, 17, 17]  # both within the buckets and far beyond


def theirs(**changes: Any) -> DebertaV2ForSequenceClassification:
    """A random model whose logits depend on everything."""
    sizes = {"hidden_size": 32, "num_attention_heads": 4} | changes
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = DebertaV2Config(
            vocab_size=50,
            num_hidden_layers=3,
            intermediate_size=40,
            max_position_embeddings=32,
            relative_attention=True,
            num_labels=3,
            **sizes,
        )
        model = DebertaV2ForSequenceClassification(config)
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding):
                for parameter in module.parameters():
                    nn.init.normal_(parameter, std=0.3, mean=float(isinstance(module, nn.LayerNorm)))
    return model.eval()


def ours(model: DebertaV2ForSequenceClassification) -> PairClassifier:
    content = json.loads(model.config.to_json_string(use_diff=False)) | {"model_type": "deberta-v2"}
    config = folder_config.parse(content, "config.json").to_ours(("a", "b", "c"))
    built = PairClassifier(config)
    built.load_state_dict(from_foreign(model.state_dict(), config, "weights", "…"))
    return built.eval()


def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    shape = (len(LENGTHS), max(LENGTHS))
    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    return torch.randint(1, 50, shape), torch.randint(2, shape), mask  # 0 is theirs for padding, without a gradient


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_logits_and_gradients_are_those_of_transformers(kind: dict[str, Any]) -> None:
    reference = theirs(**kind)
    ids, segments, mask = batch()
    expected = reference(ids, attention_mask=mask.long(), token_type_ids=segments).logits
    assert expected.std(0).min() > 0.05, "the same logits for all pairs: nothing is compared"
    weights = torch.randn(expected.shape)
    (expected * weights).sum().backward()
    gradients = from_foreign({n: p.grad for n, p in reference.named_parameters()}, ours(reference).config, "", "")
    for padded in (True, False):
        model = ours(reference)
        found = model(ids, segments, Padded(mask)) if padded else model(ids[mask], segments[mask], Packed(LENGTHS))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        (found * weights).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-4, rtol=1e-4, msg=name)


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


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_written_is_what_was_read(kind: dict[str, Any], tmp_path: Path) -> None:
    reference = theirs(**kind)
    model = ours(reference)
    schema = type(folder_config.parse(json.loads(reference.config.to_json_string()), ""))
    written = {"model_type": "deberta-v2", **schema.of(model.config)}
    assert folder_config.parse(written, "").to_ours(("a", "b", "c")) == model.config
    again = DebertaV2ForSequenceClassification(DebertaV2Config(**written, num_labels=3)).eval()
    again.load_state_dict(to_foreign(model.state_dict(), model.config))
    ids, segments, mask = batch()
    inputs = {"attention_mask": mask.long(), "token_type_ids": segments}
    torch.testing.assert_close(again(ids, **inputs).logits, reference(ids, **inputs).logits)


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
    "conv_kernel_size": 3,
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
