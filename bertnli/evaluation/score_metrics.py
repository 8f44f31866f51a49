"""Metrics of a model with one output, its score: against gold scores, gold labels of 0 and 1, and within groups."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import RunError
from bertnli.data.outputs import Activation
from bertnli.evaluation.activations import activate
from bertnli.evaluation.metrics import Floats
from bertnli.evaluation.ranking import (
    K,
    average_precision,
    in_groups,
    ndcg,
    pearson,
    reciprocal_rank,
    roc_auc,
    spearman,
)

LossKind = Literal["bce", "mse"]


class OutputMetrics:
    """Logits and gold numbers `[rows, outputs]` of a model whose outputs are not the probabilities of one label.

    It keeps them, 12 bytes for a row and output, because ranks need all rows. loss_kind: what training minimises; by
    default it follows from the activation. temperature: of the rows added last.
    """

    def __init__(self, outputs: int, activation: Activation, loss_kind: LossKind | None = None):
        self.activation = activation
        self._loss_kind: LossKind = loss_kind or ("mse" if activation == "identity" else "bce")
        self.temperature = 1.0
        self._logits: list[NDArray[np.float32]] = [np.zeros((0, outputs), np.float32)]
        self._gold: list[Floats] = [np.zeros((0, outputs))]

    def add(self, logits: NDArray[np.floating], gold: NDArray[np.floating], temperature: float = 1.0) -> None:
        """Add rows. Raises RunError if a logit is not a finite number."""
        assert logits.shape == gold.shape
        if not np.isfinite(logits).all():
            raise RunError("the model's scores are not finite numbers", do="check the training loss, or use fp32")
        self._logits.append(logits.astype(np.float32))
        self._gold.append(gold.astype(np.float64))
        self.temperature = temperature

    @property
    def rows(self) -> int:
        return sum(map(len, self._gold))

    @property
    def gold(self) -> Floats:
        self._gold = [np.concatenate(self._gold)]
        return self._gold[0]

    @property
    def logits(self) -> NDArray[np.float32]:
        self._logits = [np.concatenate(self._logits)]
        return self._logits[0]

    @property
    def values(self) -> Floats:
        """What users see, `[rows, outputs]`: scores or probabilities."""
        return self.values_of(self.logits)

    def values_of(self, logits: NDArray[np.floating]) -> Floats:
        return activate(logits, self.activation, self.temperature)

    @property
    def loss(self) -> float:
        """The mean over rows and outputs of what training minimises."""
        if not self.rows:
            return math.nan
        return self.log_loss if self._loss_kind == "bce" else float(((self.values - self.gold) ** 2).mean())

    @property
    def figures(self) -> dict[str, Any]:
        """By name; None where a figure is not defined."""
        raise NotImplementedError

    def figure(self, name: str) -> float:
        """One of `figures`, or `log_loss`; NaN where it is not defined."""
        value = self.log_loss if name == "log_loss" else self.figures.get(name)
        return math.nan if value is None else value

    @property
    def log_loss(self) -> float:
        """The mean binary cross-entropy over rows and outputs, in nats."""
        exact = self.logits.astype(np.float64) / self.temperature
        return float((np.logaddexp(0.0, exact) - exact * self.gold).mean())


class ScoreMetrics(OutputMetrics):
    """Of scores. Ranks and correlations are of the score that users see, after the activation."""

    def __init__(self, activation: Activation, loss_kind: LossKind | None = None):
        super().__init__(1, activation, loss_kind)

    @property
    def binary(self) -> bool:
        """Whether the gold scores are labels: 0 and 1, and both of them."""
        return self.rows > 0 and set(np.unique(self.gold).tolist()) == {0.0, 1.0}

    @property
    def comparable(self) -> bool:
        """Whether the model can give the gold scores; a sigmoid gives none below 0 or above 1."""
        within = self.rows > 0 and self.gold.min() >= 0 and self.gold.max() <= 1
        return self.activation == "identity" or bool(within)

    @property
    def main(self) -> tuple[str, float]:
        """The figure by which models are compared, and its name. NaN if it is not defined."""
        figures = self.figures
        name = "average_precision" if self.binary else "spearman"
        return name, math.nan if figures[name] is None else figures[name]

    @property
    def figures(self) -> dict[str, Any]:
        """By name; None where a figure is not defined, as a correlation with equal scores is not."""
        gold, scores = self.gold[:, 0], self.values[:, 0]
        errors = scores - gold if self.comparable and self.rows else np.full(1, np.nan)
        found = {
            "pearson": pearson(gold, scores),
            "spearman": spearman(gold, scores),
            "mse": float((errors**2).mean()),
            "mae": float(np.abs(errors).mean()),
        }
        if self.binary:
            found |= {"average_precision": average_precision(gold > 0, scores), "roc_auc": roc_auc(gold > 0, scores)}
        return {name: defined(value) for name, value in found.items()}

    def ranking(self, groups: NDArray[np.integer]) -> dict[str, Any]:
        """How the rows of each group are ranked: means over the groups; a group without a relevant row counts as 0.

        groups: `[rows]`, the number of each row's group. The gold scores are gains; a row is relevant if its gold score
        is 1 and the others of the file are 0. MRR and average precision are None for other gold scores, and nDCG for
        negative ones.
        """
        gold, scores, members = self.gold[:, 0], self.values[:, 0], list(in_groups(groups))
        relevant = gold > 0

        def mean(figure: Any, of: NDArray[Any], defined: bool) -> float | None:
            return float(np.mean([figure(of[rows], scores[rows]) for rows in members])) if defined else None

        def precision(of: NDArray[np.bool_], by: Floats) -> float:
            return average_precision(of, by) if of.any() else 0.0

        return {
            "groups": len(members),
            "without_relevant": sum(not relevant[rows].any() for rows in members),
            f"mrr_at_{K}": mean(reciprocal_rank, relevant, self.binary),
            f"ndcg_at_{K}": mean(ndcg, gold, bool((gold >= 0).all())),
            "map": mean(precision, relevant, self.binary),
        }

    def to_json(self) -> dict[str, Any]:
        gold, scores = self.gold[:, 0], self.values[:, 0]
        likely = self.activation == "sigmoid" and self.comparable
        return {
            "problem_type": "regression",
            "rows": self.rows,
            **self.figures,
            "log_loss": defined(self.log_loss) if likely else None,
            "activation": self.activation,
            "gold": _spread(gold),
            "scores": _spread(scores),
            **({"positive_rows": int(gold.sum())} if self.binary else {}),
        }


def defined(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def _spread(values: Floats) -> Mapping[str, float]:
    return {"lowest": float(values.min()), "mean": float(values.mean()), "highest": float(values.max())}
