"""What training minimises, by what the model's outputs mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bertnli.common.errors import InputError
from bertnli.data.outputs import THRESHOLD, Activation, Outputs

Kind = Literal["cross_entropy", "bce", "mse"]


@dataclass(frozen=True)
class Loss:
    """A loss, and a figure that is counted beside it.

    kind: cross-entropy of one label for each pair; the binary cross-entropy of a sigmoid; the squared error of the
    score that users see. counted: the figure's name in metrics.jsonl. `accuracy`; `label_accuracy`, the share of right
    decisions on independent labels; or `mae`, the mean absolute error of a score.
    """

    kind: Kind
    activation: Activation
    counted: Literal["accuracy", "label_accuracy", "mae"]

    @classmethod
    def of(cls, outputs: Outputs, chosen: Literal["bce", "mse"] | None) -> Loss:
        """The loss of a model with these outputs. chosen: by the user; otherwise by the activation."""
        if outputs.problem_type == "single_label_classification":
            return cls("cross_entropy", outputs.activation, "accuracy")
        if outputs.problem_type == "multi_label_classification":
            return cls("bce", outputs.activation, "label_accuracy")
        return cls(chosen or ("bce" if outputs.activation == "sigmoid" else "mse"), outputs.activation, "mae")

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, with its gradient, and the counted figure, both summed over the pairs.

        logits: `[pairs, outputs]` in fp32. labels: int64 `[pairs]`, indices; or fp32 `[pairs, outputs]`. With several
        outputs a pair's loss is their mean, as in torch's BCEWithLogitsLoss.
        """
        detached = logits.detach()
        if self.kind == "cross_entropy":
            right = (detached.argmax(dim=1) == labels).sum()
            return F.cross_entropy(logits, labels, reduction="sum"), right
        if self.kind == "bce":
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        else:
            loss = F.mse_loss(self._scores(logits), labels, reduction="sum")
        scores = self._scores(detached)
        counted = (scores - labels).abs() if self.counted == "mae" else (scores > THRESHOLD) == (labels > THRESHOLD)
        return loss / logits.shape[1], counted.sum() / logits.shape[1]

    def check_scores(self, labels: NDArray[Any], rows: NDArray[np.integer], where: str) -> None:
        """Raise InputError that names `where` if gold scores are not among those that the model can give.

        labels: `[pairs, outputs]`. rows: `[pairs]`, the row of each pair in its file.
        """
        if self.counted != "mae" or (self.kind == "mse" and self.activation == "identity"):
            return
        outside = np.flatnonzero((labels[:, 0] < 0) | (labels[:, 0] > 1))
        if len(outside):
            row, score = rows[outside[0]], labels[outside[0], 0]
            other = ", or give a new output loss: mse" if self.kind == "bce" else ""
            raise InputError(
                f"{where}: {len(outside)} of {len(labels)} scores are below 0 or above 1",
                found=f"{score:g} in row {row}; all are from {labels.min():g} to {labels.max():g}",
                expected="scores from 0 to 1, which "
                + (
                    "loss: bce takes as probabilities"
                    if self.kind == "bce"
                    else "are all that the model's sigmoid gives"
                ),
                do=f"rescale them in the file{other}",
            )

    def _scores(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.activation == "sigmoid" else logits


CROSS_ENTROPY = Loss("cross_entropy", "softmax", "accuracy")
