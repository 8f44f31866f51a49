"""Files of pairs in every format, scored with the tiny bundle; runs that are stopped in the middle."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bertnli_export.score import score_file

from tests.support import tiny

FORMATS = ("tsv", "csv", "jsonl", "parquet")


FIELDS = ("pairID", "gold_label", "sentence1", "sentence2")


CHUNK = 64


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows in the format that the file's name says."""
    rows = [{name: row.get(name) for name in FIELDS} for row in rows]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=separator, lineterminator="\n")
        writer.writerows([FIELDS, *([row[name] for name in FIELDS] for row in rows)])
        path.write_text(text.getvalue())
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    text = path.read_text()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.splitlines()]
    separator, quoting = ("\t", csv.QUOTE_NONE) if path.suffix == ".tsv" else (",", csv.QUOTE_MINIMAL)
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, quoting=quoting))


def score(input: Path, output: Path, **options: Any) -> dict[str, Any]:
    return score_file(tiny.bundle(), input, output, device="cpu", **{"checkpoint_seconds": 0.0, **options})


class Stop(Exception):
    """Something that ends a run in the middle."""


def stop_after(chunks: int) -> Any:
    seen = 0

    def progress(rows: int, note: str) -> None:
        nonlocal seen
        seen += 1
        if seen == chunks:
            raise Stop

    return progress
