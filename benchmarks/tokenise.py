"""Tokenising a corpus before training: our preparation with an empty and a full cache, and transformers' tokenizer."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks import work
from benchmarks.peer import Peer, Run, Unavailable, stopwatch
from benchmarks.peers import hf
from benchmarks.work import MAX_LENGTH, Work

_CHECKED = 512  # rows whose token ids are compared


def tokenising(folder: Path, model: str, data: str) -> Work:
    """All of `data`. pairs: the labelled rows; rows: a link to the file, so that nothing is written beside the data."""
    from bertnli.data.corpus import prepare
    from bertnli.data.pairs import PairFile
    from bertnli.fetch.resolve import resolve_data

    path, source = work.model_folder(folder, model)
    found = Path(resolve_data(data)).absolute()
    rows = folder / f"rows{found.suffix}"
    rows.symlink_to(found)
    corpus = prepare(PairFile(rows), source.tokenizer, source.config.labels)
    return Work(folder, path, rows, len(corpus), float(corpus.lengths.mean()), 0.0, 0.0, 0)


@dataclass
class CorpusPreparation(Peer):
    """`corpus.prepare`, from the file to arrays on disk. again: the arrays exist already, as in a second run."""

    work: Work
    again: bool = False
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        self.name = "bertnli-again" if self.again else "bertnli"
        self.about = f"bertnli, {'found in its cache' if self.again else 'from an empty cache to files on disk'}"

    def options(self) -> dict[str, Any]:
        return {"max_length": MAX_LENGTH, "cache": "full" if self.again else "empty"}

    def check(self) -> list[float]:
        self.prepare()
        return self._corpus(self.work.head(_CHECKED)).ids.tolist()

    def prepare(self) -> None:
        from bertnli.model import pretrained

        self._cache = self.work.folder / f"{self.name}-cache"
        os.environ["BERTNLI_CACHE"] = str(self._cache)
        self._source = pretrained.load(self.work.model, max_length=MAX_LENGTH)

    def run(self, amount: int) -> Run:
        rows = self.work.rows if amount >= self.work.pairs else self.work.head(amount)
        if self.again:
            self._corpus(rows)
        else:
            shutil.rmtree(self._cache, ignore_errors=True)
        with stopwatch() as seconds:
            corpus = self._corpus(rows)
        return Run(len(corpus), seconds())

    def _corpus(self, rows: Path) -> Any:
        from bertnli.data.corpus import prepare
        from bertnli.data.pairs import PairFile

        return prepare(PairFile(rows), self._source.tokenizer, self._source.config.labels)


@dataclass
class TransformersTokenizer(Peer):
    """transformers' fast tokenizer in one call on all rows, as its guides use it inside `datasets.map(batched=True)`.

    Its threads stay on. Reading the rows counts, as it does in ours; nothing is written to disk.
    """

    work: Work
    name: str = "transformers-tokenizer"
    about: str = "transformers' tokenizer(premises, hypotheses), from the file to lists in memory"
    tolerance: float = 0.0

    def options(self) -> dict[str, Any]:
        return {"truncation": True, "max_length": MAX_LENGTH, "rows": "json.loads of each line"}

    def check(self) -> list[float]:
        self.prepare()
        return [number for ids in self._tokenise(_CHECKED) for number in ids]

    def prepare(self) -> None:
        try:
            self._tokenizer = hf.tokenizer(self.work)
        except ImportError as error:
            raise Unavailable(f"{error}") from None

    def run(self, amount: int) -> Run:
        with stopwatch() as seconds:
            found = self._tokenise(None if amount >= self.work.pairs else amount)
        return Run(len(found), seconds())

    def _tokenise(self, rows: int | None) -> Any:
        with self.work.rows.open(encoding="utf-8") as file:
            read = [row for row in map(json.loads, islice(file, rows)) if row["gold_label"] != "-"]
        premises, hypotheses = ([row[name] for row in read] for name in ("sentence1", "sentence2"))
        return self._tokenizer(premises, hypotheses, truncation=True, max_length=MAX_LENGTH)["input_ids"]
