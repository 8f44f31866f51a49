"""What a run trains, and at which rate: nothing trainable lies below what is frozen, in any family."""

from __future__ import annotations

from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.families.config import ModelConfig
from bertnli.model.classifier import PairClassifier
from bertnli.run.config import RunConfig
from bertnli.run.run_file import validate_run
from bertnli.train.parameter_groups import check_depths, depth_of, freeze, parameter_groups
from tests.model.test_families import ROWS, Row, inputs_of, ours_of, theirs_of
from tests.support.batch_layouts import packed

BERT = ModelConfig(
    labels=("a", "b", "c"), vocab_size=50, hidden_size=24, num_layers=3, num_heads=4, intermediate_size=40
)
ALBERT = ModelConfig(
    labels=("a", "b"),
    vocab_size=50,
    hidden_size=24,
    num_layers=4,
    num_heads=4,
    intermediate_size=40,
    embedding_size=8,
    distinct_blocks=2,
)


def config(**keys: Any) -> RunConfig:
    return validate_run({"model": "m", "data": {"train": "t"}, "output": "o", "epochs": 1, **keys}, "run.yaml")


@pytest.mark.parametrize(
    ("row", "blocks"),
    [
        pytest.param(row, blocks, id=f"{row.model_type}-{blocks}")
        for row in ROWS
        for blocks in ([0] if row.model_type == "albert" else [0, 1, 2, 3])
    ],
)
def test_the_backward_pass_ends_above_what_is_frozen(row: Row, blocks: int) -> None:
    changes = {**row.configurations[0], "num_hidden_layers": 3}
    if "conv_kernel_size" in str(row.configurations):
        changes["conv_kernel_size"] = 3
    theirs = theirs_of(row.config(**changes))
    model = ours_of(theirs).train()
    freeze(model, blocks)
    reached: list[bool] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda block, given: reached.append(given[0].requires_grad))
    packed(model, *inputs_of(theirs, [9, 3, 16])).sum().backward()
    assert reached == [number > blocks for number in range(3)]  # whether a block's input has a gradient
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == trained
    assert {"pooler.weight", "classifier.weight", "classifier.bias"} <= trained
    assert not any(name.startswith(("embeddings.", "relative.")) for name in trained)
    above = {str(number) for number in range(blocks, len(model.blocks))}
    assert {name.split(".")[1] for name in trained if name.startswith("blocks.")} == above


def test_each_depth_has_its_rate_and_norms_have_no_decay():
    model = PairClassifier(BERT)
    groups = parameter_groups(model, config(layer_decay=0.5, weight_decay=0.1))
    found = {id(one): (group["lr_scale"], group["weight_decay"]) for group in groups for one in group["params"]}
    rates = {
        "embeddings": 1 / 16,
        "blocks.0": 1 / 8,
        "blocks.1": 1 / 4,
        "blocks.2": 1 / 2,
        "pooler": 1,
        "classifier": 1,
    }
    for name, parameter in model.named_parameters():
        (rate,) = (rate for start, rate in rates.items() if name.startswith(f"{start}."))
        decay = 0.0 if "norm" in name or name.endswith("bias") else 0.1
        assert found.pop(id(parameter)) == (rate, decay), name
    assert not found and len(groups) == 10


def test_by_default_there_are_two_groups_of_one_rate():
    groups = parameter_groups(PairClassifier(BERT), config())
    assert [(group["weight_decay"], group["lr_scale"]) for group in groups] == [(0.01, 1.0), (0.0, 1.0)]


def test_what_is_beside_the_blocks_has_the_depth_of_where_it_is_used():
    names = ("relative.table.weight", "convolution.layer.weight", "final_norm.weight", "blocks.11.qkv.weight")
    assert [depth_of(name, 12) for name in names] == [0, 1, 13, 12]


@pytest.mark.parametrize(
    ("model", "keys", "expected"),
    [
        (BERT, {"freeze": 4}, "freeze: 4; found a model of 3 blocks; set freeze: 3 or less, or freeze: embeddings"),
        (BERT, {"freeze": 3, "layer_decay": 0.9}, ""),
        (ALBERT, {"freeze": "embeddings"}, ""),
        (
            ALBERT,
            {"freeze": 1},
            "freeze: 1 does not go with this model; found 4 layers that share 2 blocks of weights; "
            "expected a block of its own for each layer; set freeze: embeddings, or remove it",
        ),
        (ALBERT, {"layer_decay": 0.9}, "layer_decay: 0.9 does not go with this model; .* each layer; remove it"),
    ],
)
def test_what_the_model_does_not_have_is_refused(model: ModelConfig, keys: dict[str, Any], expected: str) -> None:
    if not expected:
        check_depths(config(**keys), model)
        return
    with pytest.raises(InputError, match=expected):
        check_depths(config(**keys), model)


def test_the_line_for_the_user_counts_what_is_trained():
    model = PairClassifier(BERT)
    every, embeddings, block = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (model, model.embeddings, model.blocks[0])
    )
    assert freeze(model, None) is None and all(parameter.requires_grad for parameter in model.parameters())
    trained = f"{every - embeddings:,} of {every:,} parameters are trained"
    assert freeze(model, 0) == f"freeze: the embeddings stay as they are; {trained}"
    trained = f"{every - embeddings - 2 * block:,} of {every:,} parameters are trained"
    assert freeze(model, 2) == f"freeze: the embeddings and the first 2 of 3 blocks stay as they are; {trained}"
