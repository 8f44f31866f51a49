"""Runs of the writer with made-up scores, and files for it in every format."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bertnli_export.writer import RowResult, open_writer

from bertnli.data.outputs import Outputs
from bertnli.data.pair_rows import Chunk
from bertnli.data.pairs import PairFile

LABELS = ("entailment", "neutral")


HEAD = ["prediction", "p_entailment", "p_neutral", "truncated", "error"]


TEXTS = [".tsv", ".csv", ".jsonl"]


OUTPUTS = [*TEXTS, ".tsv.gz", ".csv.zst", ".jsonl.gz", ".parquet"]


def score(chunk: Chunk) -> list[RowResult]:
    """Made-up results that tell the rows apart."""
    results = []
    for row in chunk.rows:
        p = (row.number % 999_983) / 1_000_003
        good = RowResult(LABELS[row.number % 2], (p, 1 - p), row.number % 3 == 0, None)
        results.append(RowResult(None, None, False, row.error) if row.error else good)
    return results


def run(source: Path, output: Path, *, size: int = 2, stop: int | None = None, **options: Any) -> dict[str, int]:
    """Write the rows (or the first `stop` chunks, and then leave it at that); the last checkpoint."""
    file = PairFile(source)
    with open_writer(output, file, Outputs(LABELS), **options) as writer:
        for chunk in islice(file.chunks(size), stop):
            if chunk.rows[-1].number > writer.rows:
                writer.write(chunk, score(chunk))
        state = writer.checkpoint()
        if stop is None:
            writer.finish()
    return json.loads(json.dumps(state))


SENTENCES = [("A man plays.", "He, too."), ('Say "hi"', "läuft 🚶"), ("a", "\u2028b\x85"), ("x y", "z\\t")]


def make(path: Path) -> None:
    if path.suffix == ".tsv":
        path.write_text("premise\thypothesis\n" + "".join(f"{a}\t{b}\n" for a, b in SENTENCES))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("premise", "hypothesis"), *SENTENCES])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"premise": a, "hypothesis": b}) + "\n" for a, b in SENTENCES))
    else:
        columns = list(zip(*SENTENCES, strict=True))
        pq.write_table(pa.table({"premise": columns[0], "hypothesis": columns[1]}), path)


def read_back(path: Path) -> list[dict[str, Any]]:
    file = PairFile(path)
    return [record or {} for chunk in file.chunks(3) for record in file.values(chunk)]
