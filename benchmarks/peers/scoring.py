"""Scoring peers: a file of pairs to a file of scores, tokenising and writing included, loading the model apart."""

from __future__ import annotations

import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Peer, Run, Unavailable, stopwatch
from benchmarks.work import MAX_LENGTH, Work

_CHECKED = 256  # pairs whose probabilities are compared


@dataclass
class _Scoring(Peer):
    work: Work
    tolerance: float = 1e-4  # of a probability, fp32 everywhere

    @abstractmethod
    def load(self) -> None:
        """The model, ready. Raises Unavailable."""

    @abstractmethod
    def score(self, rows: Path, out: Path) -> float:
        """Score `rows` into `out`, JSON lines with `p_LABEL` for each label; returns the seconds not to be counted."""

    def check(self) -> list[float]:
        self.load()
        out = self.work.folder / f"{self.name}-check.jsonl"
        self.score(self.work.head(_CHECKED), out)
        rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        return [row[name] for row in rows for name in sorted(row) if name.startswith("p_")]

    def prepare(self) -> None:
        self.load()

    def run(self, amount: int) -> Run:
        rows = self.work.head(min(amount, self.work.pairs))
        with stopwatch() as seconds:
            apart = self.score(rows, self.work.folder / f"{self.name}.jsonl")
        return Run(min(amount, self.work.pairs), seconds() - apart)


@dataclass
class BertnliScore(_Scoring):
    """`export.score.score_file`, what `bertnli score` runs; the loading that it reports is taken off."""

    name: str = "bertnli"
    about: str = "bertnli score, fp32 bundle"

    def options(self) -> dict[str, Any]:
        return {"precision": "fp32", "device": "auto"}

    def load(self) -> None:
        from bertnli import pretrained
        from export.build import export_bundle

        self._bundle = self.work.folder / "bundle"
        if not self._bundle.exists():
            export_bundle(pretrained.load(self.work.model, max_length=MAX_LENGTH), self._bundle)

    def score(self, rows: Path, out: Path) -> float:
        from export.score import score_file

        return score_file(self._bundle, rows, out, restart=True)["load_seconds"]


@dataclass
class TransformersPipeline(_Scoring):
    """`pipeline("text-classification")` with batches of 32, its documented way to go faster than one by one."""

    name: str = "transformers-pipeline"
    about: str = "transformers pipeline, batch 32"

    def options(self) -> dict[str, Any]:
        return {"batch_size": 32, "top_k": None, "truncation": True, "max_length": MAX_LENGTH}

    def load(self) -> None:
        try:
            from transformers import pipeline
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._pipeline = pipeline("text-classification", model=str(self.work.model))

    def score(self, rows: Path, out: Path) -> float:
        read = _read(rows)
        inputs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in read]
        found: Any = self._pipeline(inputs, **self.options())
        _write(out, read, [{part["label"]: part["score"] for part in parts} for parts in found])
        return 0.0


@dataclass
class CrossEncoderPredict(_Scoring):
    """sentence-transformers' `CrossEncoder.predict`, which sorts by length, with its default batches of 32."""

    name: str = "cross-encoder"
    about: str = "sentence-transformers CrossEncoder.predict, batch 32"

    def options(self) -> dict[str, Any]:
        return {"batch_size": 32, "apply_softmax": True, "show_progress_bar": False}

    def load(self) -> None:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise Unavailable(str(error)) from None
        self._model = CrossEncoder(str(self.work.model), max_length=MAX_LENGTH)

    def score(self, rows: Path, out: Path) -> float:
        read = _read(rows)
        found = self._model.predict([(row["sentence1"], row["sentence2"]) for row in read], **self.options())
        labels = self._model.config.id2label
        _write(out, read, [{labels[place]: value for place, value in enumerate(row)} for row in found.tolist()])
        return 0.0


def _read(rows: Path) -> list[dict[str, Any]]:
    with rows.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _write(out: Path, rows: list[dict[str, Any]], scores: list[dict[str, float]]) -> None:
    """The rows with their prediction and probabilities, as bertnli's output has them."""
    with out.open("w", encoding="utf-8") as file:
        for row, score in zip(rows, scores, strict=True):
            found = {"prediction": max(score, key=score.__getitem__), **{f"p_{name}": p for name, p in score.items()}}
            file.write(json.dumps({**row, **found}, ensure_ascii=False) + "\n")
