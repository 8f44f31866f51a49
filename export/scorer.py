"""Sentence pairs to labels and probabilities, from a bundle: for Python, and what `bertnli score` is built on.

from bertnli import Scorer

scorer = Scorer("bundle")
for score in scorer.score([("A man eats.", "A person eats.")]):
    print(score.label, score.probabilities)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bertnli.errors import InputError, RunError
from bertnli.tokens import Encoded, pad_batch
from export.bundle import INPUTS, Bundle
from export.session import Session

Logits = Callable[..., NDArray[np.float32]]
"""(input_ids, attention_mask, token_type_ids), each int64 [batch, length], to [batch, labels]: `Session.logits`."""

CHUNK = 1024
"""Pairs sorted by length and cut into batches together; the unit of resuming, too."""

# One batch at most. On a CPU, matrices of about a thousand rows are the fastest: larger ones leave its caches.
_MAX_PAIRS = {"cpu": 32, "cuda": 1024}
_MAX_TOKENS = {"cpu": 1024, "cuda": 65_536}  # padding included
_MAX_PADDING = 64  # tokens that one pair is filled up with: a long pair makes no other long


@dataclass(frozen=True, slots=True)
class Score:
    """What the model says of one pair."""

    label: str
    probabilities: dict[str, float]  # of every label, in the model's order; they sum to 1
    truncated: bool  # the pair was longer than the model's maximum length and was cut


class Scorer:
    """A bundle, loaded on one device. A pair's score does not depend on the pairs around it.

    Attributes: `bundle`, `tokenizer`, `session`.
    """

    def __init__(self, bundle: str | os.PathLike[str] | Bundle, device: str = "auto", threads: int | None = None):
        """`device`: `cpu`, `cuda`, or `auto`, which is CUDA where there is a GPU. `threads`: as `Session` has it.

        Raises InputError if the bundle is damaged or the device cannot be used.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.tokenizer = self.bundle.tokenizer()
        self.session = Session(self.bundle.file("model.onnx"), device, threads)
        if self.session.outputs != len(self.labels):
            raise InputError(
                f"{self.bundle.path}: labels",
                found=str(len(self.labels)),
                expected=f"{self.session.outputs}, as outputs",
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the model's outputs."""
        return self.bundle.labels

    def score(self, pairs: Iterable[tuple[str, str]]) -> list[Score]:
        """Score (premise, hypothesis) pairs, in their order. Raises InputError for a pair that is not two texts."""
        return list(self.iter(pairs))

    def iter(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Score]:
        """`score` as a stream: takes and gives `CHUNK` pairs at a time, so memory does not grow with their number."""
        source = iter(pairs)
        while chunk := list(islice(source, CHUNK)):
            for pair in chunk:
                if isinstance(pair, str) or len(pair) != 2:
                    raise InputError("a pair to score", found=repr(pair)[:80], expected="a premise and a hypothesis")
            premises, hypotheses = zip(*chunk, strict=True)
            encoded = self.tokenizer.encode(premises, hypotheses)
            probabilities = softmax(self.encoded_logits(encoded))
            best = probabilities.argmax(axis=1)
            for row, index, truncated in zip(probabilities.tolist(), best, encoded.truncated.tolist(), strict=True):
                yield Score(self.labels[index], dict(zip(self.labels, row, strict=True)), truncated)

    def logits(self, premises: Sequence[str], hypotheses: Sequence[str]) -> NDArray[np.float32]:
        """`[pairs, labels]`, in the order of the pairs (`bertnli.evaluate.Predictor`)."""
        return self.encoded_logits(self.tokenizer.encode(premises, hypotheses))

    def encoded_logits(self, encoded: Encoded) -> NDArray[np.float32]:
        """`logits` of pairs that are tokenised: batched by length, run, put back in order.

        Raises RunError if a logit is no finite number.
        """
        result = run(self.session.logits, encoded, len(self.labels), self.tokenizer.pad_id, self.session.device)
        if not np.isfinite(result).all():
            raise RunError(
                f"{self.bundle.path}: the model's scores are not finite numbers",
                do="look at the training loss of the checkpoint, or export it in fp32",
            )
        return result


def run(logits: Logits, encoded: Encoded, labels: int, pad_id: int, device: str) -> NDArray[np.float32]:
    """`[pairs, labels]` of tokenised pairs, in their order, through padded batches as `device` likes them."""
    result = np.empty((len(encoded), labels), np.float32)
    for indices in batches(encoded.lengths, _MAX_PAIRS[device], _MAX_TOKENS[device]):
        batch = pad_batch(encoded, indices, pad_id)
        result[indices] = logits(*(batch[name] for name in INPUTS))
    return result


def batches(lengths: NDArray[np.integer], max_pairs: int, max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """All pairs, each once, as arrays of indices; from the longest down, pairs of similar length together.

    A batch has at most `max_pairs` pairs and, filled up to its longest, `max_tokens` tokens (one pair always fits).
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    begin = 0
    while begin < len(order):
        longest = int(lengths[order[begin]])
        end = begin + max(1, min(max_pairs, max_tokens // longest))
        near = lengths[order[begin:end]] >= longest - _MAX_PADDING  # true, then false
        yield order[begin : begin + int(near.sum())]
        begin += int(near.sum())


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities `[pairs, labels]`, computed in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return shifted / shifted.sum(axis=1, keepdims=True)
