"""The losses: torch's own, with its gradients, however the pairs of a step are cut; and the scores that they take."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.model.attention import Packed
from bertnli.run.loss_config import LossConfig
from bertnli.train.class_weights import class_weights
from bertnli.train.loop import accumulate
from bertnli.train.losses import Loss
from bertnli.train.steps import Step

SCORE = ("score",)
CASES = {
    "one label": (Outputs(("a", "b", "c")), None, nn.CrossEntropyLoss()),
    "labels": (Outputs(("a", "b", "c"), "multi_label_classification", "sigmoid"), None, nn.BCEWithLogitsLoss()),
    "identity": (Outputs(SCORE, "regression", "identity"), None, nn.MSELoss()),
    "sigmoid": (Outputs(SCORE, "regression", "sigmoid"), None, nn.BCEWithLogitsLoss()),
    "identity, bce": (Outputs(SCORE, "regression", "identity"), "bce", nn.BCEWithLogitsLoss()),
    "sigmoid, mse": (Outputs(SCORE, "regression", "sigmoid"), "mse", lambda x, y: nn.MSELoss()(x.sigmoid(), y)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_the_loss_and_the_gradients_of_torch(case: str) -> None:
    outputs, chosen, theirs = CASES[case]
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(17, len(outputs.names), generator=draw)
    if outputs.problem_type == "single_label_classification":
        labels = torch.randint(0, 3, (17,), generator=draw)
    elif outputs.problem_type == "regression":
        labels = torch.rand(17, 1, generator=draw)
    else:
        labels = (torch.rand(17, 3, generator=draw) < 0.4).float()
    one, other = (logits.clone().requires_grad_() for _ in range(2))
    theirs(one, labels).backward()
    loss = Loss.of(outputs, LossConfig(kind=chosen))  # type: ignore[arg-type]
    parts = [loss(other[cut], labels[cut]) for cut in (slice(0, 5), slice(5, 17))]
    for part, _ in parts:
        (part / 17).backward()
    assert torch.allclose(sum(part for part, _ in parts) / 17, theirs(logits, labels), rtol=1e-6)
    assert torch.allclose(other.grad, one.grad, rtol=1e-5, atol=1e-8)
    counted = float(sum(count for _, count in parts)) / 17
    scores = logits.sigmoid() if outputs.activation == "sigmoid" else logits
    assert counted == pytest.approx(
        {
            "accuracy": lambda: (logits.argmax(1) == labels).float().mean().item(),
            "label_accuracy": lambda: ((scores > 0.5) == (labels > 0.5)).float().mean().item(),
            "mae": lambda: (scores - labels).abs().mean().item(),
        }[loss.counted](),
        rel=1e-5,
    )


@pytest.mark.parametrize(
    ("activation", "chosen", "message"),
    [
        ("identity", None, None),
        ("identity", "bce", r"2 of 3 scores are below 0 or above 1; found 5 in row 8; all are from -1 to 5; .* mse"),
        ("sigmoid", None, "loss: bce takes as probabilities; rescale them in the file, or give a new output loss: mse"),
        ("sigmoid", "mse", "which are all that the model's sigmoid gives; rescale them in the file$"),
    ],
)
def test_scores_that_the_loss_cannot_take_are_refused(activation, chosen, message) -> None:
    loss = Loss.of(Outputs(SCORE, "regression", activation), LossConfig(kind=chosen))
    labels, rows = np.array([[0.5], [5.0], [-1.0]]), np.array([7, 8, 9])
    loss.check_scores(labels[:1], rows, "a.tsv")
    if message is None:
        loss.check_scores(labels, rows, "a.tsv")
    else:
        with pytest.raises(InputError, match=message):
            loss.check_scores(labels, rows, "a.tsv")


WEIGHTS = (0.3, 1.0, 4.0)


@pytest.mark.parametrize(("weights", "smoothing"), [(WEIGHTS, 0.0), (None, 0.1), (WEIGHTS, 0.1)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_with_class_weights_and_smoothing_is_one_call_of_torch(weights, smoothing, ranks) -> None:
    """However the step is cut: its ranks' micro-batches have other sums of weights."""
    draw = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(23, 3, generator=draw), torch.randint(0, 3, (23,), generator=draw)
    theirs = nn.CrossEntropyLoss(weight=weights and torch.tensor(weights), label_smoothing=smoothing)
    one, other = (logits.clone().requires_grad_() for _ in range(2))
    expected = theirs(one, labels)
    expected.backward()

    model = Table(other)
    loss = Loss.of(Outputs(("a", "b", "c")), LossConfig(label_smoothing=smoothing), weights)
    corpus = pairs_of_lengths([3 + index % 7 for index in range(23)], labels.numpy())
    total = torch.zeros(2)
    for rank in range(ranks):
        step = Step.of(corpus, np.arange(23), rank, ranks, 20, torch.device("cpu"))
        assert len(step.micro_batches) > 2
        total += accumulate(model, step, loss)  # type: ignore[arg-type]
    assert total[0] / 23 == pytest.approx(expected.item(), rel=1e-6)
    assert total[1] == (logits.argmax(1) == labels).sum()
    torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-8)


def test_pos_weight_is_torchs() -> None:
    draw = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(9, 3, generator=draw), (torch.rand(9, 3, generator=draw) < 0.4).float()
    loss = Loss.of(Outputs(("a", "b", "c"), "multi_label_classification", "sigmoid"), weights=WEIGHTS)
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(WEIGHTS))(logits, labels)
    assert loss(logits, labels)[0] / 9 == pytest.approx(expected.item(), rel=1e-6)


class Table:
    """In place of an engine: the logits of a pair are looked up by its first token's id."""

    def __init__(self, logits: torch.Tensor):
        self._logits = logits

    def __call__(self, ids: torch.Tensor, token_types: torch.Tensor, layout: Packed) -> torch.Tensor:
        return self._logits[ids[layout.cu_seqlens[:-1].long()]]

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()


def pairs_of_lengths(lengths: list[int], labels: Any) -> Any:
    """In place of a corpus: pairs whose tokens are all the pair's number."""
    sizes = np.array(lengths)
    return SimpleNamespace(
        ids=np.repeat(np.arange(len(sizes)), sizes),
        offsets=np.cumsum(sizes) - sizes,
        lengths=sizes,
        first_segment=sizes,
        labels=np.asarray(labels),
    )


def not_asked() -> np.ndarray:
    raise AssertionError("the labels of all pairs are read for balanced alone")


def test_balanced_weights_are_scikit_learns() -> None:
    outputs, labels = Outputs(("a", "b", "c")), np.repeat(np.arange(3, dtype=np.int8), [10, 3, 1])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(LossConfig(class_weights="balanced"), outputs, lambda: labels) == pytest.approx(
        tuple(expected)
    )
    assert class_weights(LossConfig(class_weights={"C ": 3, "a": 1, "b": 2}), outputs, not_asked) == (1, 2, 3)
    assert class_weights(LossConfig(), outputs, not_asked) is None
    several = Outputs(("a", "b"), "multi_label_classification", "sigmoid")
    has = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert class_weights(LossConfig(pos_weight="balanced"), several, lambda: has) == pytest.approx((2 / 3, 3 / 2))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"class_weights": "balanced"}, "balanced; found 2 pairs to train on, with b on 0 of them, c on 0 of them"),
        ({"class_weights": {"a": 1, "b": 2}}, r"found weights of a, b; expected one for each .*: a, b, c"),
        ({"class_weights": {"a": 1, "b": 2, "d": 1}}, r"weights of a, b, d"),
    ],
)
def test_weights_that_are_not_the_labels_are_refused(keys, message) -> None:
    with pytest.raises(InputError, match=message):
        class_weights(LossConfig(**keys), Outputs(("a", "b", "c")), lambda: np.zeros(2, np.int8))


@pytest.mark.parametrize(
    ("kind", "activation", "metric", "gold", "message"),
    [
        (None, "sigmoid", "roc_auc", [0.0, 1.0], None),
        (None, "identity", "roc_auc", [0.0, 2.0], "roc_auc; found held-out scores from 0 to 2; expected 0 and 1"),
        (None, "sigmoid", "log_loss", [0.5], None),
        (None, "identity", "log_loss", [0.5], "log_loss; found loss: mse; expected loss: bce"),
    ],
)
def test_a_metric_that_scores_cannot_have_is_refused(kind, activation, metric, gold, message) -> None:
    loss = Loss.of(Outputs(SCORE, "regression", activation), LossConfig(kind=kind))
    with pytest.raises(InputError, match=message) if message else nullcontext():
        loss.check_metric(metric, np.array(gold)[:, None])
