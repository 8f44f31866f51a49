"""Does a bundle compute what its checkpoint computes? Asked at every export, and of any bundle on any device later.

The gate runs sentence pairs of every length from 3 tokens to the model's most, alone and in company of very different
lengths, in batches of 1, 2, 3 and 32, and compares the logits with the checkpoint's own. A few of these pairs stay
in the bundle (`parity.npz`) with the checkpoint's logits, so that `bertnli verify` needs neither checkpoint nor torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bertnli.errors import InputError, RunError
from bertnli.evaluate import evaluate
from bertnli.pairs import Columns, PairFile
from bertnli.tokens import Encoded, PairTokenizer, pad_batch
from export.bundle import PARITY, Bundle, Parity
from export.interface import INPUTS
from export.scorer import Logits, Scorer, run
from export.session import Session

BATCH_SIZES = (1, 2, 3, 32)
ROWS = 1000
"""Real rows that an export's gate takes from the data it is given, from the top."""


@dataclass(frozen=True)
class Limits:
    """What a bundle may differ from its checkpoint by."""

    logit_difference: float
    label_flips: float  # share of the pairs


LIMITS = {"fp32": Limits(logit_difference=1e-4, label_flips=0.0)}

# Ours, so that a bundle holds nobody's data. Their words matter little: a graph that pads or masks wrongly shows it
# on any text. They have the punctuation, digits and letters that tokenizers differ on.
SENTENCES = (
    ("A man is eating soup.", "A person is having a meal."),
    ("Two children play football in the rain.", "The children are asleep indoors."),
    ("The blond-haired singer holds a microphone.", "The singer is famous."),
    ("“Stop!” she said, at 7:45.", "She did not say a word."),
    ("A dog runs.", "An animal moves quickly across a wide green field while its owner calls it back."),
    ("Mehrere Leute warten am Bahnhof.", "Des gens attendent le train à la gare."),
    ("它在下雨。", "It is raining."),
    ("An old woman with grey hair sells apples, pears & plums on the market for $3.50 a kilo.", "Fruit is for sale."),
    ("no punctuation and no capitals", "NO LOWER CASE"),
    ("?", "!"),
    ("Nobody is here.", "Somebody isn't there."),
    ("Antidisestablishmentarianism", "A long word."),
)


@dataclass(frozen=True)
class Reference:
    """Tokenised pairs, and the checkpoint's logits for them, `[pairs, labels]` in fp32."""

    encoded: Encoded
    logits: NDArray[np.float32]

    def save(self, file: Path) -> None:
        parts = {name: getattr(self.encoded, name) for name in ("ids", "lengths", "first_segment", "truncated")}
        np.savez_compressed(file, logits=self.logits, **parts)

    @classmethod
    def load(cls, file: Path) -> Reference:
        """Raises InputError if the file is damaged."""
        try:
            with np.load(file, allow_pickle=False) as arrays:
                logits = arrays["logits"]
                parts = {name: arrays[name] for name in ("ids", "lengths", "first_segment", "truncated")}
        except Exception as error:  # numpy, zipfile and zlib each have their own
            raise InputError(f"{file}: damaged ({error})", do="export the model again") from None
        return cls(Encoded(**parts), logits)


def reference(checkpoint: Logits, tokenizer: PairTokenizer) -> Reference:
    """The gate's own pairs with the logits of `checkpoint`: `SENTENCES`, and a pair of every interesting length."""
    sentences = tokenizer.encode(*zip(*SENTENCES, strict=True))
    lengths = ladder(tokenizer.max_length)
    cls, sep = tokenizer.cls_id, tokenizer.sep_id
    # The sentences' own tokens, over and over, fill up any length.
    words = sentences.ids[(sentences.ids != cls) & (sentences.ids != sep)]
    made = []
    for length in lengths:
        inner = np.resize(np.roll(words, -length), length - 3)
        made.append(np.concatenate([[cls], inner[: len(inner) // 2], [sep], inner[len(inner) // 2 :], [sep]]))
    encoded = Encoded(
        ids=np.concatenate([sentences.ids, *made]).astype(np.int32),
        lengths=np.concatenate([sentences.lengths, lengths]).astype(np.int32),
        first_segment=np.concatenate([sentences.first_segment, [2 + (n - 3) // 2 for n in lengths]]).astype(np.int32),
        truncated=np.concatenate([sentences.truncated, np.zeros(len(lengths), bool)]),
    )
    alone = [_run(checkpoint, encoded, np.array([index]), tokenizer.pad_id) for index in range(len(encoded))]
    return Reference(encoded, np.concatenate(alone))


def ladder(longest: int) -> list[int]:
    """Lengths from 3 tokens to `longest`: the short ones, and those around every power of two."""
    steps = {3, 4, 5, 6, 7, longest - 1, longest}
    for power in range(3, longest.bit_length()):
        steps |= {2**power - 1, 2**power, 2**power + 1}
    return sorted(length for length in steps if 3 <= length <= longest)


@dataclass
class Figures:
    """Differences between a bundle's logits and the checkpoint's."""

    pairs: int = 0
    max_logit_difference: float = 0.0
    label_flips: int = 0

    def add(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        self.pairs += len(found)
        difference = float(np.abs(found - expected).max(initial=0.0))
        # max() alone would drop a NaN
        self.max_logit_difference = max(self.max_logit_difference, np.inf if np.isnan(difference) else difference)
        self.label_flips += int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())

    def check(self, precision: str, what: str) -> None:
        """Raise RunError if they are beyond the precision's limits."""
        limits = LIMITS[precision]
        problems = []
        if self.max_logit_difference > limits.logit_difference:
            problems.append(
                f"the largest difference of a logit is {self.max_logit_difference:.2g}, "
                f"{limits.logit_difference:.2g} is allowed"
            )
        if self.label_flips > limits.label_flips * self.pairs:
            problems.append(f"{self.label_flips} of {self.pairs} labels differ, {limits.label_flips:.2%} is allowed")
        if problems:
            raise RunError(f"{what} does not compute what its checkpoint computes: {'; '.join(problems)}")


def compare(known: Reference, logits: Logits, pad_id: int) -> Figures:
    """Every pair of `known` in batches of each size, in mixed company, against its own logits."""
    figures = Figures()
    for indices in _mixed_batches(len(known.encoded)):
        figures.add(_run(logits, known.encoded, indices, pad_id), known.logits[indices])
    return figures


def _mixed_batches(pairs: int) -> Iterator[NDArray[np.int64]]:
    draw = np.random.default_rng(0)
    for size in BATCH_SIZES:
        order = np.resize(draw.permutation(pairs), -(-pairs // size) * size)  # the last batch is full, too
        yield from order.reshape(-1, size)


def _run(logits: Logits, encoded: Encoded, indices: NDArray[np.int64], pad_id: int) -> NDArray[np.float32]:
    batch = pad_batch(encoded, indices, pad_id)
    return logits(*(batch[name] for name in INPUTS))


# ----------------------------------------------------------------------------------------------- at export: the gate


@dataclass(frozen=True)
class RealRows:
    """Sentence pairs of a file; `gold` `[pairs]`: index into the model's labels, -1 where the file has none of them."""

    data: str
    premises: list[str]
    hypotheses: list[str]
    gold: NDArray[np.int64]

    @classmethod
    def read(cls, file: PairFile, labels: Sequence[str], most: int = ROWS) -> RealRows:
        """The first `most` good rows. Raises InputError if there is none."""
        rows = list(islice((row for row in file.rows() if row.error is None), most))
        if not rows:
            raise InputError(f"{file.name}: no usable row", do="give another file to verify with")
        index = {label.casefold(): number for number, label in enumerate(labels)}
        gold = [index.get((row.label or "").strip().casefold(), -1) for row in rows]
        return cls(file.name, [str(row.premise) for row in rows], [str(row.hypothesis) for row in rows], np.array(gold))


def gate(
    checkpoint: Logits,
    session: Session,
    known: Reference,
    tokenizer: PairTokenizer,
    precision: str,
    rows: RealRows | None = None,
) -> Parity:
    """Compare the exported graph with its checkpoint on `known` and on real rows.

    Raises RunError if they differ by more than the precision's limits.
    """
    figures = compare(known, session.logits, tokenizer.pad_id)
    lengths = known.encoded.lengths
    accuracy, labelled = None, 0
    if rows is not None:
        encoded = tokenizer.encode(rows.premises, rows.hypotheses)
        lengths = np.concatenate([lengths, encoded.lengths])
        expected = run(checkpoint, encoded, session.outputs, tokenizer.pad_id, "cpu")
        found = run(session.logits, encoded, session.outputs, tokenizer.pad_id, session.device)
        figures.add(found, expected)
        has_gold = rows.gold >= 0
        labelled = int(has_gold.sum())
        if labelled:
            accuracy = {
                name: float((logits.argmax(axis=1) == rows.gold)[has_gold].mean())
                for name, logits in (("checkpoint", expected), ("bundle", found))
            }
    figures.check(precision, "the exported graph")
    return Parity(
        pairs=figures.pairs,
        batch_sizes=list(BATCH_SIZES),
        lengths=(int(lengths.min()), int(lengths.max())),
        max_logit_difference=figures.max_logit_difference,
        label_flips=figures.label_flips,
        max_logit_difference_allowed=LIMITS[precision].logit_difference,
        label_flips_allowed=LIMITS[precision].label_flips,
        device=session.device,
        data=None if rows is None else Path(rows.data).name,
        accuracy=accuracy,
        labelled_rows=labelled,
    )


# ------------------------------------------------------------------------------------------- later: `bertnli verify`


def verify(
    path: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    columns: Columns | None = None,
) -> dict[str, Any]:
    """Check a bundle's files, and its logits on this machine's device against the checkpoint's; accuracy on `data`.

    Returns `bundle`, `device`, `precision`, `pairs`, `max_logit_difference`, `label_flips`, and with data `accuracy`
    and `rows`. Raises InputError for a damaged bundle, bad data or an unusable device, RunError if the bundle does not
    compute what its checkpoint computes.
    """
    bundle = Bundle.open(path)
    bundle.check_files()
    scorer = Scorer(bundle, device)
    reads_parse = scorer.tokenizer.settings.reads_parse
    file = None if data is None else PairFile(data, columns=columns, prefer_parse=reads_parse)
    figures = compare(Reference.load(bundle.file(PARITY)), scorer.session.logits, scorer.tokenizer.pad_id)
    figures.check(bundle.manifest.precision, f"{bundle.path} on {scorer.session.description}")
    summary: dict[str, Any] = {
        "bundle": str(bundle.path),
        "device": scorer.session.device,
        "precision": bundle.manifest.precision,
        **vars(figures),
    }
    if file is not None:
        tally = evaluate(scorer, file).tally
        summary |= {"accuracy": tally.accuracy, "rows": tally.rows}
    return summary
