"""The input of every peer of a set: one model folder and one file of rows, not adapted to any of them.

Training rows are complete batches of the transformers Trainer's own epoch over the full corpus. So a peer that batches
by length gets batches as good as in a long run, although a benchmark's run is short (grouping a thousand rows alone
would leave it 15% more padding). The batches are spread evenly over the lengths, so the rows are as long as those of
the corpus; a peer that shuffles gets the corpus's own mixture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MICRO_BATCH = 32
"""Consecutive training rows of nearly one length (default)."""

MAX_LENGTH = 128
"""Tokens of a pair, as in the d2l book and in our own default; no pair of SNLI is that long."""


@dataclass(frozen=True)
class Work:
    """model: an HF folder with a classifier, which every peer can load. rows: JSON lines with sentence1, sentence2 and
    gold_label (`-` if there is none, in scoring only). folder: for what peers write.

    tokens_per_pair: the mean, with special tokens, without padding. flop_per_pair: of all blocks for all tokens (see
    bertnli/train/flops.py); needed_flop_per_pair: with a last block that computes first tokens only. micro_batch:
    consecutive rows of nearly one length, which peers that batch by length take at once. max_length: the most tokens of
    a pair.
    """

    folder: Path
    model: Path
    rows: Path
    pairs: int
    tokens_per_pair: float
    flop_per_pair: float
    needed_flop_per_pair: float
    batch_size: int
    learning_rate: float = 1e-4
    micro_batch: int = MICRO_BATCH
    max_length: int = MAX_LENGTH

    def head(self, pairs: int) -> Path:
        """A file of the first `pairs` rows."""
        path = self.rows.with_name(f"{self.rows.stem}-{pairs}{self.rows.suffix}")
        if not path.exists():
            with self.rows.open(encoding="utf-8") as file:
                path.write_text("".join(islice(file, pairs)), encoding="utf-8")
        return path

    def read(self, pairs: int | None = None) -> list[dict[str, str]]:
        """The first `pairs` rows, or all."""
        with self.rows.open(encoding="utf-8") as file:
            return [json.loads(line) for line in islice(file, pairs)]

    def to_json(self, source: str) -> dict[str, Any]:
        """The entry of the record. source: the data's name."""
        return {
            "rows_from": source,
            "rows": self.pairs,
            "rows_sha256": hashlib.sha256(self.rows.read_bytes()).hexdigest(),
            "tokens_per_pair": round(self.tokens_per_pair, 2),
            "batch_size": self.batch_size,
            "flop_per_pair": self.flop_per_pair,
            "needed_flop_per_pair": self.needed_flop_per_pair,
        }


def training(folder: Path, model: str, data: str, pairs: int, batch_size: int, micro_batch: int = MICRO_BATCH) -> Work:
    """Work for training peers: `pairs` rows of `data`, in micro-batches of rows of nearly one length."""
    return _training(
        folder,
        model,
        data,
        batch_size,
        micro_batch,
        lambda lengths: _micro_batches(lengths, batch_size, micro_batch, pairs // micro_batch),
    )


def sample(folder: Path, model: str, data: str, pairs: int, batch_size: int, seed: int) -> Work:
    """Work for training peers that batch themselves: `pairs` rows of `data` and a new classifier, drawn by `seed`."""
    return _training(
        folder,
        model,
        data,
        batch_size,
        MICRO_BATCH,
        lambda lengths: np.random.default_rng(seed).choice(len(lengths), pairs, replace=False),
        seed=seed,
        spread=1.0,
    )


def _training(
    folder: Path,
    model: str,
    data: str,
    batch_size: int,
    micro_batch: int,
    choose: Callable[[NDArray[np.integer]], NDArray[np.int64]],
    **classifier: Any,
) -> Work:
    """Work of some rows of `data`: `choose` gets the tokens of each pair and returns indices."""
    from bertnli.data.corpus import prepare
    from bertnli.data.labelled import read_labelled
    from bertnli.data.pairs import PairFile
    from bertnli.fetch.resolve import resolve_data
    from bertnli.train.flops import needed_flop, training_flop

    path, source = model_folder(folder, model, **classifier)
    file = PairFile(resolve_data(data))
    corpus = prepare(file, source.tokenizer, source.config.labels)
    chosen = choose(np.asarray(corpus.lengths))
    wanted = set(corpus.rows[chosen].tolist())
    texts = {row.number: row for row in read_labelled(file, source.config.labels) if row.number in wanted}
    rows = folder / f"training-{batch_size}.jsonl"
    with rows.open("w", encoding="utf-8") as out:
        for number in corpus.rows[chosen].tolist():
            row = texts[number]
            cells = {"sentence1": row.premise, "sentence2": row.hypothesis}
            out.write(json.dumps({**cells, "gold_label": source.config.labels[row.label]}) + "\n")
    tokens = float(corpus.lengths[chosen].mean())
    flop, needed = training_flop(source.config, tokens), needed_flop(source.config, tokens, pairs=1)
    return Work(folder, path, rows, len(chosen), tokens, flop, needed, batch_size, micro_batch=micro_batch)


def _micro_batches(lengths: NDArray[np.integer], batch_size: int, micro_batch: int, count: int) -> NDArray[np.int64]:
    """Indices of `count` micro-batches of the Trainer's epoch over all rows: spread over the lengths, then shuffled."""
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    order = get_length_grouped_indices(lengths.tolist(), batch_size, generator=torch.Generator().manual_seed(0))
    whole = np.asarray(order)[: len(order) // micro_batch * micro_batch].reshape(-1, micro_batch)
    by_length = whole[np.argsort(lengths[whole].max(axis=1), kind="stable")]
    places = ((np.arange(count) + 0.5) / count * len(by_length)).astype(np.int64)
    return np.random.default_rng(0).permutation(by_length[places]).ravel()


def scoring(folder: Path, model: str, data: str, pairs: int, max_length: int = MAX_LENGTH) -> Work:
    """Work for scoring peers: `pairs` rows of `data`, taken evenly from the complete file, in its order."""
    from bertnli.data.pairs import PairFile
    from bertnli.fetch.resolve import resolve_data
    from bertnli.train.flops import needed_flop, training_flop

    path, source = model_folder(folder, model, max_length=max_length)
    good = [row for row in PairFile(resolve_data(data)).rows() if row.error is None]
    chosen = [good[place] for place in np.linspace(0, len(good) - 1, min(pairs, len(good))).astype(int)]
    rows = folder / "scoring.jsonl"
    with rows.open("w", encoding="utf-8") as out:
        for row in chosen:
            cells = {"sentence1": row.premise, "sentence2": row.hypothesis}
            out.write(json.dumps({**cells, "gold_label": row.label or "-"}) + "\n")
    texts = [row.premise or "" for row in chosen], [row.hypothesis or "" for row in chosen]
    tokens = float(source.tokenizer.encode(*texts).lengths.mean())
    flop, needed = training_flop(source.config, tokens), needed_flop(source.config, tokens, pairs=1)
    return Work(folder, path, rows, len(chosen), tokens, flop / 3, needed / 3, 0, max_length=max_length)


def long_rows(folder: Path, data: str, words: int) -> Path:
    """`data` with premises of `words` words or a little more: those of rows that follow one another are joined."""
    from bertnli.data.pairs import PairFile
    from bertnli.fetch.resolve import resolve_data

    rows = folder / "long-rows.jsonl"
    joined: list[str] = []
    with rows.open("w", encoding="utf-8") as out:
        for row in PairFile(resolve_data(data)).rows():
            joined += (row.premise or "").split()
            if len(joined) >= words:
                cells = {"sentence1": " ".join(joined), "sentence2": row.hypothesis, "gold_label": row.label or "-"}
                out.write(json.dumps(cells) + "\n")
                joined = []
    return rows


BERT_BASE = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "intermediate_size": 3072}


def random_model(folder: Path, model: str, shape: Mapping[str, Any]) -> Path:
    """A classifier of `shape` with random weights, and with `model`'s tokenizer."""
    import torch

    from bertnli.fetch.resolve import resolve
    from bertnli.model import pretrained
    from bertnli.model.classifier import PairClassifier

    source = pretrained.load(resolve(model, "model"), max_length=MAX_LENGTH)
    torch.manual_seed(0)
    classifier = PairClassifier(replace(source.config, **shape))
    for parameter in classifier.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02)  # Devlin et al. 2018, the released modeling.py
    path = folder / "random"
    pretrained.save(classifier, source.tokenizer, path)
    return path


def kept() -> Path:
    """The folder for what benchmarks keep between runs."""
    from bertnli.common.files import cache_dir

    return cache_dir() / "benchmarks"


def model_folder(
    folder: Path, model: str, *, seed: int = 0, spread: float = 20.0, max_length: int = MAX_LENGTH
) -> tuple[Path, Any]:
    """The model as a folder with a classifier, which every peer can load; returns the folder and its source.

    An encoder without a classifier gets a random one. Its weights are multiplied by `spread`, so that labels differ
    from row to row.
    """
    import torch

    from bertnli.fetch.resolve import resolve
    from bertnli.model import pretrained

    source = pretrained.load(resolve(model, "model"), max_length=max_length)
    torch.manual_seed(seed)
    classifier = source.build()
    if not source.has_classifier:
        classifier.classifier.weight.data *= spread
    path = folder / "model"
    pretrained.save(classifier, source.tokenizer, path)
    return path, source
