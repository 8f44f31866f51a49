"""What training minimises, by what the model's outputs mean."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bertnli.common.errors import InputError
from bertnli.data.outputs import THRESHOLD, Activation, Outputs
from bertnli.run.loss_config import LossConfig, Metric, TeacherConfig

NO_CHOICE = LossConfig()
Kind = Literal["cross_entropy", "bce", "mse"]


@dataclass(frozen=True)
class Loss:
    """A loss, and a figure that is counted beside it.

    kind: cross-entropy of one label for each pair; the binary cross-entropy of a sigmoid; the squared error of the
    score that users see. counted: the figure's name in metrics.jsonl. `accuracy`; `label_accuracy`, the share of right
    decisions on independent labels; or `mae`, the mean absolute error of a score.
    weights: of the labels, in their order (class_weights.py). label_smoothing: as in torch's CrossEntropyLoss.
    mix, temperature: of soft labels and a teacher; see `__call__`.
    """

    kind: Kind
    activation: Activation
    counted: Literal["accuracy", "label_accuracy", "mae"]
    weights: tuple[float, ...] | None = None
    label_smoothing: float = 0.0
    mix: float = 1.0
    temperature: float = 1.0

    @classmethod
    def of(
        cls,
        outputs: Outputs,
        config: LossConfig = NO_CHOICE,
        weights: tuple[float, ...] | None = None,
        teacher: TeacherConfig | None = None,
    ) -> Loss:
        """The loss of a model with these outputs, as a run file says."""
        if outputs.problem_type == "single_label_classification":
            taught = () if teacher is None else (teacher.mix, teacher.temperature)
            return cls("cross_entropy", outputs.activation, "accuracy", weights, config.label_smoothing, *taught)
        if outputs.problem_type == "multi_label_classification":
            return cls("bce", outputs.activation, "label_accuracy", weights)
        return cls(config.kind or ("bce" if outputs.activation == "sigmoid" else "mse"), outputs.activation, "mae")

    def pairs_per_weight(self, labels: NDArray[Any]) -> float:
        """The pairs of a step / the sum of their weights. labels: of all pairs in the step.

        Losses of weighted labels are averaged over the weights and not over the pairs, as in torch's CrossEntropyLoss.
        """
        if self.weights is None or self.kind != "cross_entropy":
            return 1.0
        return len(labels) / float(np.asarray(self.weights)[labels].sum())

    def __call__(
        self, logits: Tensor, labels: Tensor, soft: Tensor | None = None, pairs_per_weight: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """The loss, with its gradient, and the counted figure, both summed over the pairs. The sum over all pairs of a
        step, divided by their number, is the step's loss.

        logits: `[pairs, outputs]` in fp32. labels: int64 `[pairs]`, indices; or fp32 `[pairs, outputs]`. With several
        outputs a pair's loss is their mean, as in torch's BCEWithLogitsLoss. pairs_per_weight: see there.
        soft: fp32 `[pairs, labels]`, probabilities: the cross-entropy with them, at `temperature` and times its square,
        is the share `mix` of the loss, that with `labels` the rest (Hinton et al. 2015, section 2). label_smoothing is
        for `labels`, or, if they have no share, for `soft`.
        """
        detached = logits.detach()
        weights = None if self.weights is None else _on_device(self.weights, logits.device)
        if self.kind == "cross_entropy":
            right = (detached.argmax(dim=1) == labels).sum()
            smoothing = self.label_smoothing
            if soft is not None and self.mix == 1:
                return self._softened(logits, soft, smoothing), right
            loss = F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing)
            loss = loss if weights is None else loss * pairs_per_weight
            return loss if soft is None else self.mix * self._softened(logits, soft) + (1 - self.mix) * loss, right
        if self.kind == "bce":
            loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum", pos_weight=weights)
        else:
            loss = F.mse_loss(self._scores(logits), labels, reduction="sum")
        scores = self._scores(detached)
        counted = (scores - labels).abs() if self.counted == "mae" else (scores > THRESHOLD) == (labels > THRESHOLD)
        return loss / logits.shape[1], counted.sum() / logits.shape[1]

    def _softened(self, logits: Tensor, soft: Tensor, smoothing: float = 0.0) -> Tensor:
        loss = F.cross_entropy(logits / self.temperature, soft, reduction="sum", label_smoothing=smoothing)
        return loss * self.temperature**2

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

    def check_metric(self, metric: Metric | None, labels: NDArray[Any]) -> None:
        """Raise InputError if a score evaluated against these gold scores, `[pairs, 1]`, cannot have the metric."""
        found = expected = ""
        if self.counted != "mae":
            return
        if metric in ("average_precision", "roc_auc") and set(np.unique(labels).tolist()) != {0.0, 1.0}:
            found, expected = f"held-out scores from {labels.min():g} to {labels.max():g}", "0 and 1, and no others"
        if metric == "log_loss" and (self.kind, self.activation) == ("mse", "identity"):
            found, expected = "loss: mse", "loss: bce, or a model that gives a score through a sigmoid"
        if found:
            do = "set metric_for_best: spearman, or remove it"
            raise InputError(f"metric_for_best: {metric}", found=found, expected=expected, do=do)

    def _scores(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits) if self.activation == "sigmoid" else logits


@cache
def _on_device(weights: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied to a GPU once, as the host may wait for a copy."""
    return torch.tensor(weights, device=device)


CROSS_ENTROPY = Loss("cross_entropy", "softmax", "accuracy")
