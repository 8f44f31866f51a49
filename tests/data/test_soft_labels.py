"""Soft labels are read from columns p_<label>, in the files that `bertnli score` writes, as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from bertnli.common.errors import InputError
from bertnli.data.corpus import prepare
from bertnli.data.labelled import read_labelled
from bertnli.data.pairs import PairFile
from bertnli.data.tokenizer import PairTokenizer
from tests.support import tiny

LABELS = ("entailment", "neutral", "contradiction")
HEADER = ("premise", "hypothesis", "gold_label", "prediction", "p_neutral", "p_entailment", "p_contradiction", "error")
ROWS: list[tuple[Any, ...]] = [
    ("a man", "a dog", "neutral", "neutral", 0.5, 0.3, 0.2, None),
    ("a man", "a cat", "-", "entailment", 0.1, 0.9, 0.0, None),
    ("a man", "two", "contradiction", "neutral", 0.333333, 0.333333, 0.333333, None),
]
BAD = {
    "no value in column 'p_neutral', where a probability belongs": (None, 0.5, 0.5),
    "'1.2' in column 'p_entailment', where": (0.0, 1.2, -0.2),
    "its probabilities in 'p_entailment' and the others sum to 0.7, not to 1": (0.1, 0.2, 0.4),
    "'high' in column 'p_contradiction'": (0.1, 0.2, "high"),
}


def written(path: Path, rows: list[tuple[Any, ...]], header: tuple[str, ...] = HEADER) -> PairFile:
    """The rows in the format of the path's name."""
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in rows))
    else:
        sign = {".tsv": "\t", ".csv": ","}[path.suffix]
        lines = [header, *(["" if cell is None else str(cell) for cell in row] for row in rows)]
        path.write_text("".join(sign.join(line) + "\n" for line in lines))
    return PairFile(path)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl", "a.parquet"])
def test_each_format_has_the_same_soft_labels(tmp_path: Path, name: str) -> None:
    pairs = read_labelled(written(tmp_path / name, ROWS), LABELS, soft=True)
    found = np.array([pair.label for pair in pairs])
    third = 1 / 3
    np.testing.assert_allclose(found, [[1, 0.3, 0.5, 0.2], [-1, 0.9, 0.1, 0.0], [2, third, third, third]], rtol=1e-9)
    counted = {label: rows["used"] for label, rows in pairs.rows_by_label().items()}
    assert counted == {"entailment": 1, "neutral": 1, "contradiction": 1}


@pytest.mark.parametrize("reason", BAD)
def test_a_row_without_a_distribution_is_a_bad_row(tmp_path: Path, reason: str) -> None:
    rows = [*ROWS, ("a man", "three", "neutral", "neutral", *BAD[reason], None)]
    file = written(tmp_path / "a.tsv", rows)
    with pytest.raises(InputError, match=f"1 bad row of 4; found row 4: {reason}"):
        list(read_labelled(file, LABELS, soft=True))
    pairs = read_labelled(file, LABELS, soft=True, skip_bad_rows=True)
    assert len(list(pairs)) == 3 and pairs.rows_by_label()["neutral"] == {"used": 1, "left out": 1}


def test_a_file_without_them_is_refused_and_one_with_them_alone_is_explained(tmp_path: Path) -> None:
    file = written(tmp_path / "a.tsv", [row[:3] for row in ROWS], HEADER[:3])
    with pytest.raises(InputError, match=r"no columns of soft labels; .*expected p_entailment, p_neutral, p_contradi"):
        read_labelled(file, LABELS, soft=True)
    other = written(tmp_path / "b.tsv", [(*row[:2], *row[4:7]) for row in ROWS], (*HEADER[:2], *HEADER[4:7]))
    with pytest.raises(InputError, match=r"no label column; .*in a run file, loss: {soft: 1}"):
        read_labelled(other, LABELS)
    assert [pair.label[0] for pair in read_labelled(other, LABELS, soft=True)] == [-1, -1, -1]


def test_a_corpus_has_the_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTNLI_CACHE", str(tmp_path / "cache"))
    file, tokenizer = written(tmp_path / "a.tsv", ROWS), PairTokenizer.from_folder(tiny.hf_folder(tmp_path / "model"))
    alone, mixed = (prepare(file, tokenizer, LABELS, soft=soft) for soft in (1.0, 0.25))
    third = 1 / 3
    np.testing.assert_allclose(alone.soft_labels, [[0.3, 0.5, 0.2], [0.9, 0.1, 0], [third] * 3], rtol=1e-6)
    expected = [[0.075, 0.875, 0.05], [0.9, 0.1, 0], [third / 4, third / 4, third / 4 + 0.75]]
    np.testing.assert_allclose(mixed.soft_labels, expected, rtol=1e-6)
    for corpus in (alone, mixed, prepare(file, tokenizer, LABELS, soft=0.25)):
        assert corpus.labels.tolist() == [1, 0, 2] and corpus.without_gold == 1
    plain = prepare(file, tokenizer, LABELS)
    assert plain.soft_labels is None and plain.labels.tolist() == [1, 2] and plain.without_gold == 0
