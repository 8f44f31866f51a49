"""Files of sentence pairs in every format, and the rows that are read from them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bertnli.data.pair_rows import Row
from bertnli.data.pairs import PairFile

SNLI = ("entailment", "neutral", "contradiction")
PAIRS = [
    ("A man plays.", "A man sleeps.", "contradiction"),
    ('He said "hi", twice.', "Two\u2028lines\x85here.", "neutral"),
    ("Ein Mann läuft.", "人々が歩く 🚶", "entailment"),
]


def write_tsv(path: Path) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in [("premise", "hypothesis", "label"), *PAIRS]))


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("premise", "hypothesis", "label"), *PAIRS])


def write_jsonl(path: Path) -> None:
    names = ("premise", "hypothesis", "label")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in PAIRS))


def write_parquet(path: Path) -> None:
    names = ("premise", "hypothesis", "label")
    pq.write_table(pa.table(dict(zip(names, zip(*PAIRS, strict=True), strict=True))), path)


WRITERS = {".tsv": write_tsv, ".txt": write_tsv, ".csv": write_csv, ".jsonl": write_jsonl, ".ndjson": write_jsonl}


def pack(data: bytes, packing: str) -> bytes:
    if packing == ".gz":
        return gzip.compress(data)
    return pa.Codec("zstd").compress(data, asbytes=True) if packing == ".zst" else data


def rows_of(folder: Path, name: str, content: str | bytes, **options: Any) -> list[Row]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(PairFile(path, **options).rows())


def pairs_of(rows: list[Row]) -> list[tuple[str | None, str | None, str | None]]:
    return [(row.premise, row.hypothesis, row.label) for row in rows]
