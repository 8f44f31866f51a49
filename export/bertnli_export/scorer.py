"""Sentence pairs to labels and probabilities, or to scores: for Python, and what `bertnli score` is built on.

from bertnli import Scorer

scorer = Scorer("bundle")
for score in scorer.score([("A man eats.", "A person eats.")]):
    print(score.label, score.probabilities)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import compress, islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError
from bertnli.data.encoded import Encoded, pad_batch
from bertnli.data.outputs import Outputs
from bertnli.evaluation.activations import activate
from bertnli_export.devices import Device
from bertnli_export.interface import INPUTS
from bertnli_export.scoring_setup import ScoringSetup, prepare
from bertnli_export.session import Session

if TYPE_CHECKING:
    from bertnli_export.expansion import Expansion

Logits = Callable[..., NDArray[np.float32]]
"""(input_ids, attention_mask, token_type_ids), each int64 [batch, length], to [batch, labels]: `Session.logits`."""

Batch = tuple[NDArray[np.int64], list[NDArray[np.int64]]]
"""Indices of pairs, and these pairs as `INPUTS`, padded."""

CHUNK = {"cpu": 1024, "cuda": 8192}
"""By kind of device: pairs that are sorted by length and cut into batches together. Resuming goes by it, too."""

# Limits of one batch. On a CPU, matrices of some hundred rows are the fastest, because larger ones do not fit its
# caches. A GPU is fastest with many pairs of nearly the same length.
_MAX_PAIRS = {"cpu": 512, "cuda": 1024}
_MAX_TOKENS = {"cpu": 512, "cuda": 32_768}  # padding included
# Padding tokens of one pair. Without padding a pair's sums are the same in every batch, to the last bit, and small
# batches cost a CPU little.
_MAX_PADDING = {"cpu": 0, "cuda": 16}

NOT_FINITE = "the model's scores are not finite numbers"


@dataclass(frozen=True, slots=True)
class Score:
    """What the model predicts for one pair.

    label: the most probable label; None if the model's labels are independent of each other, or if it gives a score.
    probabilities: of every label, in the model's order. They sum to 1, unless the labels are independent. Empty if the
    model gives a score.
    truncated: the pair was longer than the model's maximum length and was cut.
    labels: `label`, or of independent labels those above the threshold.
    score: of a model with one output, as a reranker; otherwise None.
    """

    label: str | None
    probabilities: dict[str, float]
    truncated: bool
    labels: tuple[str, ...] = ()
    score: float | None = None


class Submitted(NamedTuple):
    """Pairs whose batches the session has or will run."""

    truncated: NDArray[np.bool_]  # [pairs]
    unfit: NDArray[np.int64]  # indices of pairs that truncation cannot shorten (`Encoded.unfit`)
    batches: list[tuple[NDArray[np.int64], Future[NDArray[np.float32]]]]  # indices of pairs, their logits


Prediction = str | tuple[str, ...] | None
"""The label; of independent labels those above the threshold; None if the model gives a score."""


class Scores(NamedTuple):
    """What the model predicts for many pairs. Where its logits are not finite numbers, the values are NaN."""

    predictions: Sequence[Prediction]  # [pairs]
    values: NDArray[np.float64]  # [pairs, outputs]: probabilities, or the score
    truncated: NDArray[np.bool_]  # [pairs]
    refused: Mapping[int, str] = MappingProxyType({})  # index of a pair that cannot be scored: the reason
    extras: Sequence[Sequence[Any]] = ()  # [pairs], what an expansion says of each; empty without one


class Scorer:
    """A bundle, loaded on one device. A pair's score does not depend on the other pairs of its batch.

    Attributes: `bundle`, `tokenizer`, `session`, `temperature`, `threshold`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        device: str = "auto",
        temperature: float | None = None,
        *,
        threads: int | None = None,
        threshold: float | None = None,
    ):
        """`bundle`: the folder that `bertnli export` made. `device`: `cpu`, `cuda`, one of several GPUs as `cuda:1`,
        or `auto`, which is CUDA where there is a GPU. `temperature` divides the logits before the softmax or sigmoid:
        above 1 it makes the probabilities less extreme, and never changes the label; default: the bundle's own.
        `threads` of the CPU, by default one for each core that the process may use. `threshold`, of a model with
        independent labels: the labels with a probability above it are predicted; default: 0.5.

        Raises InputError as `prepare` does.
        """
        self._load(prepare(bundle, device, temperature, threshold=threshold), threads)

    @classmethod
    def from_setup(cls, setup: ScoringSetup, *, threads: int | None = None) -> Scorer:
        """A scorer of a bundle that was prepared already. Raises InputError if its graph cannot be loaded."""
        scorer = cls.__new__(cls)
        scorer._load(setup, threads)
        return scorer

    def _load(self, setup: ScoringSetup, threads: int | None) -> None:
        self.bundle, self.tokenizer = setup.bundle, setup.tokenizer
        self.temperature, self.threshold = setup.temperature, setup.threshold
        self.truncated = 0  # pairs that were cut so far
        self.session = Session(self.bundle.model, setup.device, threads=threads)
        if self.session.outputs != len(self.labels):
            raise InputError(
                f"{self.bundle.path}: labels",
                found=str(len(self.labels)),
                expected=f"{self.session.outputs}, as many as the graph has outputs",
            )
        self._check_metadata()

    def _check_metadata(self) -> None:
        """Raise InputError if the graph's own metadata, which another program may have removed, is another bundle's."""
        for key, what, ours in (
            ("labels", "other labels, or another order,", json.dumps(self.labels)),
            ("precision", "another precision", self.bundle.manifest.precision),
            ("problem_type", "another meaning of the outputs", self.outputs.problem_type),
            ("activation", "another activation", self.outputs.activation),
        ):
            if (said := self.session.metadata.get(f"bertnli.{key}", ours)) != ours:
                raise InputError(
                    f"{self.bundle.path}: {what} than in its graph's own metadata",
                    found=ours,
                    expected=said,
                    do="do not use the bundle; export the model again",
                )

    @property
    def setup(self) -> ScoringSetup:
        """What it was loaded from, with the temperature that it has now."""
        return ScoringSetup(self.bundle, self.tokenizer, self.session.device, self.temperature, self.threshold)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the model's outputs."""
        return self.bundle.labels

    @property
    def outputs(self) -> Outputs:
        """What the model's outputs mean."""
        return self.bundle.outputs

    def score(self, pairs: Iterable[Any], expansion: Expansion | None = None) -> list[Score]:
        """Score (premise, hypothesis) pairs, in their order.

        expansion: `Windows`, for long premises, or `ZeroShot`, for texts in place of pairs.

        Raises InputError for a pair that is not two texts, RunError for one whose scores are not finite numbers.
        """
        return list(self.iter(pairs, expansion))

    def iter(self, pairs: Iterable[Any], expansion: Expansion | None = None) -> Iterator[Score]:
        """`score` as a stream: takes and gives `CHUNK` pairs at a time, so memory does not grow with their number."""
        if isinstance(pairs, str | bytes | Mapping):  # their characters or keys would be scored
            items = "texts" if expansion is not None and expansion.reads_texts else "pairs"
            raise InputError("what to score", found=repr(pairs)[:80], expected=f"a list of {items}")
        if expansion is not None:
            yield from expansion.iter(self, pairs)
            return
        source = iter(pairs)
        while chunk := list(islice(source, CHUNK[self.session.device.kind])):
            scores = self.collect(self.submit(*two_texts(chunk)))
            self.check_scores(scores, chunk)
            rows = zip(scores.predictions, scores.values.tolist(), scores.truncated.tolist(), strict=True)
            for prediction, values, truncated in rows:
                yield score_of(self.labels, prediction, values, truncated)

    def check_scores(self, scores: Scores, items: Sequence[object]) -> None:
        """Raise InputError for the first of the `items` that cannot be scored, RunError for scores that are NaN."""
        for index, reason in scores.refused.items():
            raise InputError(f"a pair to score: {reason}", found=repr(items[index])[:200])
        if np.isnan(scores.values).any():
            raise RunError(
                f"{self.bundle.path}: {NOT_FINITE}",
                do="look at the training loss of the checkpoint, or export it in fp32",
            )

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, labels]`, in the order of the pairs, before the temperature (`evaluation.evaluate.Predictor`)."""
        return self.wait_for_logits(self.submit(premises, hypotheses))

    def submit(self, premises: Sequence[str], hypotheses: Sequence[str]) -> Submitted:
        """Tokenise, batch by length, pad, and hand the batches to the session. Raises as `score` does."""
        return self.submit_encoded(self.tokenizer.encode(premises, hypotheses))

    def submit_encoded(self, encoded: Encoded) -> Submitted:
        """`submit` of pairs that are tokenised already."""
        batches = padded_batches(encoded, self.tokenizer.pad_id, self.session.device)
        self.truncated += int(encoded.truncated.sum())
        begun = [(indices, self.session.submit(inputs)) for indices, inputs in batches]
        return Submitted(encoded.truncated, encoded.unfit, begun)

    def collect(self, submitted: Submitted) -> Scores:
        """Wait for the logits of `submitted`. Raises RunError if the session fails."""
        logits = self.wait_for_logits(submitted)
        logits[~np.isfinite(logits).all(axis=1)] = np.nan
        logits[submitted.unfit] = np.nan
        values = activate(logits, self.outputs.activation, self.temperature)
        refused = dict.fromkeys(submitted.unfit.tolist(), self.tokenizer.refusal) if len(submitted.unfit) else {}
        return Scores(self._predictions(logits, values), values, submitted.truncated, refused)

    def _predictions(self, logits: NDArray[np.float32], values: NDArray[np.float64]) -> list[Prediction]:
        labels, problem = self.labels, self.outputs.problem_type
        if problem == "regression":
            return [None] * len(values)
        if problem == "single_label_classification":  # of the undivided logits: rounding changes no label
            return [labels[index] for index in logits.argmax(axis=1).tolist()]
        return [tuple(compress(labels, above)) for above in (values > self.threshold).tolist()]

    def wait_for_logits(self, submitted: Submitted) -> NDArray[np.float32]:
        """`[pairs, labels]`, before the temperature. Raises RunError if the session fails."""
        result = np.empty((len(submitted.truncated), len(self.labels)), np.float32)
        try:
            for indices, logits in submitted.batches:
                result[indices] = logits.result()
        except BaseException:
            for _, logits in submitted.batches:
                logits.cancel()
            raise
        return result


def two_texts(pairs: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Premises and hypotheses. Raises InputError for a pair that is not two things."""
    check_twos(pairs, "a pair to score", "a premise and a hypothesis")
    return [premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs]


def check_twos(items: Sequence[Any], what: str, expected: str) -> None:
    """Raise InputError for the first item that is not two things in their order. A map would give its keys."""
    for item in items:
        if isinstance(item, str | bytes | Mapping | Set) or not hasattr(item, "__len__") or len(item) != 2:
            raise InputError(what, found=repr(item)[:80], expected=expected)


def score_of(labels: Sequence[str], prediction: Prediction, values: Sequence[float], truncated: bool) -> Score:
    """Of one pair. labels: the names of the values, if they are probabilities."""
    if prediction is None:
        return Score(None, {}, truncated, score=values[0])
    probabilities = dict(zip(labels, values, strict=True))
    if isinstance(prediction, str):
        return Score(prediction, probabilities, truncated, (prediction,))
    return Score(None, probabilities, truncated, prediction)


def run_batches(logits: Logits, encoded: Encoded, labels: int, pad_id: int, device: Device) -> NDArray[np.float32]:
    """`[pairs, labels]` of tokenised pairs, in their order, through padded batches of the sizes that suit `device`."""
    result = np.empty((len(encoded), labels), np.float32)
    for indices, inputs in padded_batches(encoded, pad_id, device):
        result[indices] = logits(*inputs)
    return result


def padded_batches(encoded: Encoded, pad_id: int, device: Device) -> Iterator[Batch]:
    """All pairs, each once, in batches of the sizes that suit `device`."""
    limits = _MAX_PAIRS[device.kind], _MAX_TOKENS[device.kind], _MAX_PADDING[device.kind]
    for indices in length_batches(encoded.lengths, *limits):
        batch = pad_batch(encoded, indices, pad_id)
        yield indices, [batch[name] for name in INPUTS]


def length_batches(
    lengths: NDArray[np.integer], max_pairs: int, max_tokens: int, max_padding: int
) -> Iterator[NDArray[np.int64]]:
    """All pairs, each once, as arrays of indices; from the longest down, pairs of similar length together.

    A batch has at most `max_pairs` pairs and, padded to its longest, `max_tokens` tokens (one pair always fits); no
    pair gets more than `max_padding` of padding.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        end = begin + max(1, min(max_pairs, max_tokens // longest))
        near = lengths[order[begin:end]] >= longest - max_padding  # true, then false
        yield order[begin : begin + int(near.sum())]
        begin += int(near.sum())
