"""What is DeBERTa's own beside the comparison that all families have (test_families.py): buckets, dropout, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import build_relative_position

from bertnli.common.errors import InputError
from bertnli.families import folder_config
from bertnli.families.config import Disentangled
from bertnli.model.attention import Packed
from bertnli.model.classifier import PairClassifier
from bertnli.model.disentangled import table_rows
from bertnli.model.dropout import Dropout
from bertnli.model.keymaps import from_foreign
from tests.support.deberta import LENGTHS, V3, batch, ours, theirs


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
