"""The parity gate: whether a bundle's graph computes what its checkpoint computes. Every export runs it.

The gate runs sentence pairs of many lengths, from 3 tokens to the model's maximum, alone and in batches of 2, 3 and 32
pairs of very different lengths, then some hundred plain ones, and compares the logits with the checkpoint's. These
pairs stay in the bundle (`parity.npz`) with the checkpoint's logits.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.common.errors import InputError, RunError, first_line
from bertnli.data import unfit_rows
from bertnli.data.columns import listed
from bertnli.data.encoded import Encoded, pad_batch
from bertnli.data.labels import UNKNOWN, LabelTable
from bertnli.data.outputs import Outputs
from bertnli.data.tokenizer import PairTokenizer
from bertnli.evaluation.activations import activate
from bertnli.evaluation.data_sets import LabelledSet
from bertnli_export import sentences
from bertnli_export.devices import CPU, Device
from bertnli_export.interface import INPUTS
from bertnli_export.manifest import Parity
from bertnli_export.scorer import Logits, length_batches, run_batches
from bertnli_export.session import Session

BATCH_SIZES = (1, 2, 3, 32)
_LONG = 1024
"""Tokens. Of longer pairs the gate has fewer, and puts fewer of them into a batch: a head's scores have the square of
their length."""


ROWS = 2000
"""The gate at an export takes the first so many rows of the data that it is given. If 1% of the labels change and no
accuracy is lost, 1,000 rows would still show a loss of half a percentage point in 6% of all cases, 2,000 rows in 1%."""

_LARGEST_REFERENCE = 1 << 26  # bytes; ours have less than a hundredth
_MOST_PAIRS = 10_000


@dataclass(frozen=True)
class Limits:
    """How much a bundle may differ from its checkpoint."""

    logit_difference: float | None  # None: not limited
    batch_difference: float  # batch invariance: of a pair's logits alone from its logits in a batch with others
    label_flips: float  # fraction of the real rows' labels
    own_label_flips: float  # fraction of the gate's own pairs: they are few, and some models are undecided on them
    accuracy_lost: float  # fraction of the labelled rows
    score_error: float  # see `Differences.score_error`; a correlation of 0.995 has 0.1, one of 0.9998 has 0.02


LIMITS = {
    "fp32": Limits(1e-4, 1e-4, label_flips=0.0, own_label_flips=0.0, accuracy_lost=0.0, score_error=1e-3),
    "fp16": Limits(2e-2, 2e-2, label_flips=0.001, own_label_flips=0.01, accuracy_lost=0.005, score_error=0.02),
    # Attention's sums depend on padding in their last bit. Sometimes that bit decides which of two int8 values is
    # nearer.
    "int8": Limits(None, 2e-2, label_flips=0.015, own_label_flips=0.1, accuracy_lost=0.005, score_error=0.1),
}
_LEAST_SPREAD = 0.02  # of sigmoids, which are all near 0 on pairs of no interest to a reranker


@dataclass(frozen=True)
class Reference:
    """Tokenised pairs, and the checkpoint's logits for them, `[pairs, labels]` in fp32. The first `mixed` pairs are of
    all lengths, and are meant to be batched with each other."""

    encoded: Encoded
    logits: NDArray[np.float32]
    mixed: int

    def save(self, file: Path) -> None:
        parts = {name: getattr(self.encoded, name) for name in ("ids", "lengths", "first_segment", "truncated")}
        np.savez_compressed(file, logits=self.logits, mixed=self.mixed, **parts)

    @classmethod
    def load(cls, file: Path) -> Reference:
        """Raises InputError if the file is damaged, or has arrays that do not fit each other."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                if sum(entry.file_size for entry in arrays.zip.infolist()) > _LARGEST_REFERENCE:
                    raise ValueError(f"unpacked more than {_LARGEST_REFERENCE:,} bytes")
                logits, mixed = arrays["logits"], int(arrays["mixed"])
                parts = {name: arrays[name] for name in ("ids", "lengths", "first_segment", "truncated")}
            loaded = cls(Encoded(**parts), logits, mixed)
            loaded._check()
        except Exception as error:  # numpy, zipfile and zlib each have their own
            raise InputError(f"{file}: damaged ({first_line(error)})", do="export the model again") from None
        return loaded

    def _check(self) -> None:
        """Raise ValueError for arrays that `save` would not write."""
        encoded, pairs = self.encoded, len(self.encoded)
        per_pair = (encoded.lengths, encoded.first_segment, encoded.truncated)
        fits = (
            all(array.shape == (pairs,) for array in per_pair)
            and all(array.dtype.kind == "i" for array in (encoded.ids, *per_pair[:2]))
            and 0 < self.mixed <= pairs <= _MOST_PAIRS
            and encoded.lengths.min() > 0
            and encoded.ids.shape == (int(encoded.lengths.sum(dtype=np.int64)),)
            and self.logits.dtype == np.float32
            and self.logits.ndim == 2
            and len(self.logits) == pairs
            and np.isfinite(self.logits).all()
        )
        if not fits:
            raise ValueError("its arrays do not fit each other")

    def check_fits(self, labels: int, tokenizer: PairTokenizer, where: str) -> None:
        """Raise InputError that names `where` if it is of a model with other labels, another length or vocabulary."""
        ids = self.encoded.ids
        for what, found, expected in (
            ("labels", self.logits.shape[1], labels),
            ("tokens of a pair", int(self.encoded.lengths.max()), tokenizer.max_length),
            ("ids", int(ids.max()), tokenizer.vocab_size - 1),
        ):
            if found > expected or (what == "labels" and found < expected):
                raise InputError(
                    f"{where}: {what}", found=f"{found:,}", expected=f"{expected:,}", do="export the model again"
                )
        if ids.min() < 0:
            raise InputError(f"{where}: ids", found=f"{ids.min():,}", expected="0 or more", do="export the model again")


def reference(checkpoint: Logits, tokenizer: PairTokenizer) -> Reference:
    """The built-in pairs (those of sentences.py, and one of each of `chosen_lengths`) and the checkpoint's logits."""
    unusual = tokenizer.encode(*zip(*sentences.UNUSUAL, strict=True))
    template = tokenizer.template
    lengths = chosen_lengths(tokenizer.max_length, template.special_tokens)
    # Pairs of any length, made by repeating the tokens of those sentences.
    words = unusual.ids[~np.isin(unusual.ids, template.join([], []))]
    made = []
    for length in lengths:
        inner = np.resize(np.roll(words, -length), length - template.special_tokens).tolist()
        made += template.join(inner[: len(inner) // 2], inner[len(inner) // 2 :])
    inner_lengths = np.array(lengths) - template.special_tokens
    by_length = Encoded(
        ids=np.array(made, np.int32),
        lengths=np.array(lengths, np.int32),
        first_segment=template.first_segment(inner_lengths // 2, inner_lengths - inner_lengths // 2),
        truncated=np.zeros(len(lengths), bool),
    )
    plain = tokenizer.encode(*zip(*sentences.plain(), strict=True))
    parts = {
        name: np.concatenate([getattr(each, name) for each in (unusual, by_length, plain)])
        for name in ("ids", "lengths", "first_segment", "truncated")
    }
    encoded, mixed = Encoded(**parts), len(unusual) + len(by_length)
    alone = [_run(checkpoint, encoded, np.array([index]), tokenizer.pad_id) for index in range(mixed)]
    together = run_batches(checkpoint, plain, alone[0].shape[1], tokenizer.pad_id, CPU)
    return Reference(encoded, np.concatenate([*alone, together]), mixed)


def chosen_lengths(longest: int, shortest: int = 3) -> list[int]:
    """Lengths from `shortest` tokens to `longest`: the short ones, and those around every power of two; of those beyond
    _LONG, the powers alone."""
    steps = {3, 4, 5, 6, 7, longest} | ({longest - 1} if longest <= _LONG else set())
    for power in range(3, longest.bit_length()):
        steps |= {2**power - 1, 2**power, 2**power + 1} if 2**power <= _LONG else {2**power}
    return sorted(length for length in steps if shortest <= length <= longest)


@dataclass
class Differences:
    """Between a bundle's logits and the checkpoint's.

    label_flips: of the labels that the model predicts for a pair: one, or each of its independent labels; none of a
    model that gives a score.
    """

    outputs: Outputs
    pairs: int = 0
    max_logit_difference: float = 0.0
    max_company_difference: float = 0.0  # batch invariance: of a pair alone from itself in a batch with others
    label_flips: int = 0
    _sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))  # expected scores, squares, squared errors

    def add(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        self.pairs += len(found)
        self.max_logit_difference = max(self.max_logit_difference, _largest(found - expected))
        problem, activation = self.outputs.problem_type, self.outputs.activation
        if problem == "single_label_classification":
            self.label_flips += int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
        else:
            ours, theirs = activate(found, activation), activate(expected, activation)
            self._sums += theirs.sum(), (theirs**2).sum(), ((ours - theirs) ** 2).sum()
        if problem == "multi_label_classification":
            self.label_flips += int(((found > 0) != (expected > 0)).sum())

    @property
    def spread(self) -> float:
        """The standard deviation of the checkpoint's scores or independent probabilities."""
        mean, square, _ = (self._sums / max(1, self.pairs * len(self.outputs.names))).tolist()
        return math.sqrt(max(0.0, square - mean**2))

    @property
    def score_error(self) -> float | None:
        """The root mean square error of the scores, or of the probabilities of independent labels, as a fraction of
        their spread. So it does not depend on the unit of a score. None for one of several labels."""
        if self.outputs.problem_type == "single_label_classification":
            return None
        _, square, error = self._sums.tolist()
        values = max(1, self.pairs * len(self.outputs.names))
        if self.outputs.activation == "sigmoid":
            least = _LEAST_SPREAD
        else:  # of nearly constant scores, rounding is not small beside the spread
            least = max(1e-3 * math.sqrt(square / values), sys.float_info.min)
        return math.sqrt(error / values) / max(self.spread, least)

    def summary(self) -> dict[str, Any]:
        """For the user, by name."""
        figures: dict[str, Any] = {
            "pairs": self.pairs,
            "max_logit_difference": self.max_logit_difference,
            "max_company_difference": self.max_company_difference,
        }
        if self.outputs.problem_type != "regression":
            figures["label_flips"] = self.label_flips
        return figures if self.score_error is None else figures | {"score_error": self.score_error}

    def check(self, precision: str, what: str, real: bool = False) -> None:
        """Raise RunError if they are beyond the precision's limits; with `real`, beyond those for real rows."""
        limits = LIMITS[precision]
        flips = limits.label_flips if real else limits.own_label_flips
        unit = self._unit()
        problems = []
        allowed = np.finfo(np.float32).max if limits.logit_difference is None else unit * limits.logit_difference
        if self.max_logit_difference > allowed:
            problems.append(
                f"the largest difference of a logit is {self.max_logit_difference:.2g}, {allowed:.2g} is allowed"
            )
        if self.max_company_difference > unit * limits.batch_difference:
            problems.append(
                f"a pair's logits depend on the other pairs of its batch: by {self.max_company_difference:.2g}, "
                f"{unit * limits.batch_difference:.2g} is allowed"
            )
        whose = "real rows'" if real else "built-in pairs'"
        decisions = self.pairs * (len(self.outputs.names) if self.score_error is not None else 1)
        if self.label_flips > flips * decisions:
            problems.append(f"{self.label_flips} of {decisions} {whose} labels differ, {flips:.2%} is allowed")
        if self.score_error is not None and not self.score_error <= limits.score_error:
            problems.append(
                f"the {whose} scores differ by {self.score_error:.2%} of their standard deviation, "
                f"{limits.score_error:.2%} is allowed"
            )
        if problems:
            raise RunError(
                f"{what} does not compute what its checkpoint computes: {'; '.join(problems)}",
                do="do not use it; export in another precision, or report this",
            )

    def _unit(self) -> float:
        """What the limits of logits are multiplied by. They are for logits that spread over a few units, as those of a
        classifier do; a score may have any unit, such as percent."""
        return max(1.0, self.spread) if self.outputs.activation == "identity" else 1.0


def compare(reference: Reference, logits: Logits, pad_id: int, outputs: Outputs) -> Differences:
    """Run the mixed pairs of `reference` in mixed batches of each size, and the other pairs once."""
    differences = Differences(outputs)
    mixed = reference.mixed
    alone = np.empty_like(reference.logits[:mixed])
    for indices in _mixed_batches(reference.encoded.lengths[:mixed]):
        found = _run(logits, reference.encoded, indices, pad_id)
        differences.add(found, reference.logits[indices])
        if len(indices) == 1:
            alone[indices] = found
        differences.max_company_difference = max(differences.max_company_difference, _largest(found - alone[indices]))
    for indices in length_batches(reference.encoded.lengths[mixed:], max_pairs=32, max_tokens=512, max_padding=0):
        differences.add(_run(logits, reference.encoded, mixed + indices, pad_id), reference.logits[mixed + indices])
    return differences


def _largest(values: NDArray[np.float32]) -> float:
    """The largest absolute value; infinite if one is NaN, so that it exceeds every limit."""
    largest = float(np.abs(values).max(initial=0.0))
    return np.inf if np.isnan(largest) else largest


def _mixed_batches(lengths: NDArray[np.integer]) -> Iterator[NDArray[np.int64]]:
    """Batches of each size, those of one pair first. A batch of one may be of any length; no other needs more memory
    for its scores than 32 pairs of _LONG tokens."""
    draw = np.random.default_rng(0)
    for size in BATCH_SIZES:
        longest = lengths.max() if size == 1 else math.isqrt(BATCH_SIZES[-1] * _LONG**2 // size)
        pairs = draw.permutation(np.flatnonzero(lengths <= longest))
        order = np.resize(pairs, -(-len(pairs) // size) * size)  # the last batch is full, too
        yield from order.reshape(-1, size)


def _run(logits: Logits, encoded: Encoded, indices: NDArray[np.int64], pad_id: int) -> NDArray[np.float32]:
    batch = pad_batch(encoded, indices, pad_id)
    return logits(*(batch[name] for name in INPUTS))


@dataclass(frozen=True)
class RealRows:
    """Sentence pairs of a data set; `gold` `[pairs]`: index into the model's labels, -1 for no label, and for all pairs
    if the model does not give one of several labels."""

    data: str  # the data set, as the user named it
    premises: list[str]
    hypotheses: list[str]
    gold: NDArray[np.int64]

    @classmethod
    def read(
        cls, data: LabelledSet, outputs: Outputs, tokenizer: PairTokenizer | None = None, most: int = ROWS
    ) -> RealRows:
        """The first `most` good rows. tokenizer: pairs that it cannot cut are bad rows. Raises InputError if there are
        none, or if the model knows none of their labels: the accuracy could not be compared."""
        every = unfit_rows.marked(data.file.rows(), tokenizer)
        rows = list(islice((row for row in every if row.error is None), most))
        if not rows:
            raise InputError(f"{data.file.name}: no usable row", do="give another file to verify with")
        pairs = [str(row.premise) for row in rows], [str(row.hypothesis) for row in rows]
        if outputs.problem_type != "single_label_classification":
            return cls(data.name, *pairs, np.full(len(rows), -1))
        table = LabelTable(outputs.names, data.schema.label_names, strict=False)
        gold = np.array([max(table.index(row.label), -1) for row in rows])
        # Some labels may be unknown: the data set may have other classes than the model.
        strange = sorted({row.label for row in rows if row.label and table.index(row.label) == UNKNOWN})
        if strange and gold.max() < 0:
            raise InputError(
                f"{data.file.name}: the model knows none of the labels",
                found=listed(strange, 5),
                expected=", ".join(outputs.names),
                do="give their meaning with --label-names, or name the right column with --label",
            )
        return cls(data.name, *pairs, gold)


def gate(
    checkpoint: Logits,
    session: Session,
    reference: Reference,
    tokenizer: PairTokenizer,
    precision: str,
    outputs: Outputs,
    rows: RealRows | None = None,
) -> Parity:
    """Compare the exported graph with its checkpoint on `reference` and on real rows. outputs: what the logits mean.

    Raises RunError if they differ by more than the precision's limits.
    """
    own, real = compare(reference, session.logits, tokenizer.pad_id, outputs), Differences(outputs)
    own.check(precision, "the exported graph")
    lengths = reference.encoded.lengths
    accuracy, labelled, truncated = None, 0, 0
    if rows is not None:
        encoded = tokenizer.encode(rows.premises, rows.hypotheses)
        lengths, truncated = np.concatenate([lengths, encoded.lengths]), int(encoded.truncated.sum())
        expected = run_batches(checkpoint, encoded, session.outputs, tokenizer.pad_id, CPU)
        found = run_batches(session.logits, encoded, session.outputs, tokenizer.pad_id, session.device)
        real.add(found, expected)
        real.check(precision, "the exported graph", real=True)
        has_gold = rows.gold >= 0
        labelled = int(has_gold.sum())
        if labelled:
            accuracy = {
                name: float((logits.argmax(axis=1) == rows.gold)[has_gold].mean())
                for name, logits in (("checkpoint", expected), ("bundle", found))
            }
            _check_accuracy(accuracy["checkpoint"] - accuracy["bundle"], labelled, precision)
    return to_parity(
        own,
        real,
        lengths,
        precision,
        session.device,
        data=None if rows is None else Path(rows.data).name,
        accuracy=accuracy,
        labelled_rows=labelled,
        truncated=truncated,
    )


def to_parity(
    own: Differences, real: Differences, lengths: NDArray[np.integer], precision: str, device: Device, **of_data: Any
) -> Parity:
    """The manifest's section. lengths: of all compared pairs. of_data: the fields about real rows."""
    score_errors = [each.score_error for each in (own, real) if each.pairs and each.score_error is not None]
    return Parity(
        pairs=own.pairs + real.pairs,
        batch_sizes=list(BATCH_SIZES),
        lengths=(int(lengths.min()), int(lengths.max())),
        max_logit_difference=max(own.max_logit_difference, real.max_logit_difference),
        max_company_difference=own.max_company_difference,
        label_flips=own.label_flips + real.label_flips,
        max_logit_difference_allowed=LIMITS[precision].logit_difference,
        label_flips_allowed=LIMITS[precision].label_flips,
        score_error=max(score_errors, default=None),
        device=device.kind,
        **of_data,
    )


def _check_accuracy(lost: float, rows: int, precision: str) -> None:
    if lost > LIMITS[precision].accuracy_lost:
        raise RunError(
            f"the exported graph is right on {lost:.2%} fewer of {rows} labelled rows than its checkpoint",
            expected=f"{LIMITS[precision].accuracy_lost:.2%} at most",
            do="export in another precision",
        )
