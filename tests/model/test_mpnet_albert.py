"""MPNet and ALBERT compute what transformers' own classes compute: a relative bias, and blocks that are shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from bertnli.common.errors import InputError
from bertnli.data.batches import pack
from bertnli.data.labels import SNLI_ORDER
from bertnli.families import folder_config
from bertnli.families.table import FAMILIES
from bertnli.model.attention import to_device
from bertnli.model.classifier import PairClassifier
from bertnli.model.dropout import Dropout
from bertnli.model.keymaps import from_foreign, to_foreign
from bertnli.model.relative_bias import buckets_of
from tests.model.test_classifier import LAYOUTS, batch, lively, padded
from tests.model.test_varlen import LENGTHS, META, Engine, Operators, corpus
from tests.support.whole_block import WholeBlock

SIZES = {
    "vocab_size": 50,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 64,
    "num_labels": 3,
}
ALBERT = {"embedding_size": 10}
CASES = [
    ("mpnet", {}),
    ("mpnet", {"num_attention_heads": 3, "hidden_act": "relu", "layer_norm_eps": 1e-3, "num_hidden_layers": 1}),
    ("mpnet", {"hidden_size": 35, "num_attention_heads": 5, "max_position_embeddings": 300, "num_labels": 2}),
    ("albert", ALBERT),
    ("albert", ALBERT | {"num_hidden_layers": 5, "num_hidden_groups": 2, "hidden_act": "gelu", "num_labels": 1}),
    ("albert", {"embedding_size": 24, "num_hidden_layers": 3, "num_hidden_groups": 3, "type_vocab_size": 1}),
    ("albert", ALBERT | {"num_hidden_layers": 18, "num_hidden_groups": 14, "layer_norm_eps": 1e-3}),
]
EVERY = pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
LONG = [62, 3, 40, 5, 5, 33, 17]


def both(family: str, **changes: Any) -> tuple[Any, PairClassifier]:
    """A random model of transformers' own class and ours with its weights and its config.json."""
    shape = transformers.AutoConfig.for_model(family, **{**SIZES, **changes})
    torch.manual_seed(0)
    theirs = transformers.AutoModelForSequenceClassification.from_config(shape, attn_implementation="eager")
    theirs = lively(theirs)
    for name, parameter in theirs.named_parameters():
        if "relative_attention_bias" in name:
            nn.init.normal_(parameter)
    content = shape.to_dict() | {"architectures": [type(theirs).__name__]}
    labels = tuple(f"label {number}" for number in range(shape.num_labels))
    config = folder_config.parse(content, "config.json").to_ours(labels)
    ours = PairClassifier(config)
    ours.load_state_dict(from_foreign(theirs.state_dict(), config, "transformers", do=""))
    return theirs, ours.eval()


def pairs(theirs: Any, lengths: list[int] = LONG) -> tuple[Tensor, Tensor, Tensor]:
    """A batch without padding's own id, 0 or 1, among its tokens."""
    ids, segments, mask = batch(lengths)
    ids = ids.clamp(min=2).masked_fill(~mask, theirs.config.pad_token_id)
    return ids, segments % getattr(theirs.config, "type_vocab_size", 1), mask


def their_logits(theirs: Any, ids: Tensor, segments: Tensor, mask: Tensor) -> Tensor:
    types = {"token_type_ids": segments} if theirs.config.model_type == "albert" else {}
    return theirs(input_ids=ids, attention_mask=mask.long(), **types).logits


@LAYOUTS
@EVERY
def test_logits_and_gradients_equal_transformers(family: str, changes: dict[str, Any], layout: Any) -> None:
    theirs, ours = both(family, **changes)
    inputs = pairs(theirs)
    weights = torch.randn(len(LONG), theirs.config.num_labels)
    expected, logits = their_logits(theirs, *inputs), layout(ours, *inputs)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    for computed in (expected, logits):
        (computed * weights).sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    found = to_foreign({name: parameter.grad for name, parameter in ours.named_parameters()}, ours.config)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-4, msg=name)


@EVERY
def test_the_folder_that_is_written_is_theirs(family: str, changes: dict[str, Any]) -> None:
    theirs, ours = both(family, **changes)
    content = FAMILIES[family].schema.of(ours.config)
    default = transformers.AutoConfig.for_model(family)
    assert {name for name in content if not hasattr(default, name)} == set()
    assert {name: theirs.config.to_dict()[name] for name in content} == content
    theirs.load_state_dict(to_foreign(ours.state_dict(), ours.config), strict=False)
    missing = set(theirs.state_dict()) - set(to_foreign(ours.state_dict(), ours.config))
    assert all(FAMILIES[family].unused.fullmatch(name) for name in missing)


@pytest.mark.parametrize("family", ["mpnet", "albert"])
def test_dropout_acts_where_transformers_has_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As test_classifier.py does it for BERT. Eager attention draws as the others do."""
    draw = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0}
    draw |= {"classifier_dropout_prob": 0.2, **ALBERT} if family == "albert" else {}
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training, inplace=False: Dropout(p).train(training)(x))
    theirs, ours = both(family, **draw, num_hidden_layers=2, **({"num_hidden_groups": 2} if family == "albert" else {}))
    ours.blocks[-1] = WholeBlock(ours.blocks[-1])
    inputs = pairs(theirs, [9, 9, 9])
    torch.manual_seed(3)
    expected = their_logits(theirs.train(), *inputs)
    torch.manual_seed(3)
    torch.testing.assert_close(padded(ours.train(), *inputs), expected, atol=1e-5, rtol=0)


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
    config = folder_config.parse(content, "config.json").to_ours(SNLI_ORDER)
    with META:
        model = PairClassifier(config).to(dtype)
    with Operators():  # raises where a tensor is left on the CPU
        logits = model.train()(*to_device(pack(corpus(), np.arange(len(LENGTHS))), META))
        Engine(model).backward(logits.sum())
    assert (logits.dtype, logits.device) == (dtype, META)
    assert all(parameter.grad is not None for parameter in model.parameters())
