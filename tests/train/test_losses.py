"""The losses: torch's own, with its gradients, however the pairs of a step are cut; and the scores that they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.train.losses import Loss

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
    loss = Loss.of(outputs, chosen)  # type: ignore[arg-type]
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
    loss = Loss.of(Outputs(SCORE, "regression", activation), chosen)
    labels, rows = np.array([[0.5], [5.0], [-1.0]]), np.array([7, 8, 9])
    loss.check_scores(labels[:1], rows, "a.tsv")
    if message is None:
        loss.check_scores(labels, rows, "a.tsv")
    else:
        with pytest.raises(InputError, match=message):
            loss.check_scores(labels, rows, "a.tsv")
