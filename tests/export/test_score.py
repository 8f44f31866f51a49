"""Files of pairs to files of scores: every row once, in its place, with its columns."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export.manifest import update_manifest
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer

from bertnli.common.errors import InputError, RunError
from bertnli.data.pairs import Columns
from tests.support import tiny
from tests.support.scored_files import CHUNK, FIELDS, FORMATS, Stop, read, score, stop_after, write

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(tiny.bundle(), "cpu")


def test_a_parquet_files_own_class_names_count_for_the_accuracy(tmp_path, scorer) -> None:
    """Its numbers have another order than the model's labels."""
    rows = [row for row in tiny.snli_rows(40) if row["gold_label"] != "-"]
    names = ["contradiction", "entailment", "neutral"]
    table = pa.table({name: [row[name] for row in rows] for name in ("sentence1", "sentence2")})
    table = table.append_column("label", pa.array([names.index(row["gold_label"]) for row in rows]))
    features = {"label": {"names": names, "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(about), tmp_path / "in.parquet")
    summary = score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    said = scorer.score((row["sentence1"], row["sentence2"]) for row in rows)
    right = sum(row["gold_label"] == one.label for row, one in zip(rows, said, strict=True))
    assert (summary["labelled"], summary["accuracy"]) == (len(rows), right / len(rows))


@pytest.mark.parametrize("format", FORMATS)
def test_every_row_comes_back_in_place_with_its_columns(tmp_path, format, scorer) -> None:
    rows = tiny.snli_rows(CHUNK + 40)
    rows[7]["sentence2"] = ""
    rows[CHUNK + 2]["sentence1"] = "  "
    rows[9]["sentence1"] = "a dog " * 60
    summary = score(write(tmp_path / f"in.{format}", rows), tmp_path / f"out.{format}")
    found = read(tmp_path / f"out.{format}")

    assert [row["pairID"] for row in found] == [row["pairID"] for row in rows]
    assert list(found[0])[:9] == [*FIELDS, "prediction", "p_entailment", "p_neutral", "p_contradiction", "truncated"]
    good = [index for index in range(len(rows)) if index not in (7, CHUNK + 2)]
    expected = scorer.score((rows[index]["sentence1"], rows[index]["sentence2"]) for index in good)
    for index, one in zip(good, expected, strict=True):
        row = found[index]
        assert row["prediction"] == one.label
        assert float(row["p_neutral"]) == pytest.approx(one.probabilities["neutral"], abs=2e-6)
        assert not row["error"]
    assert [found[index]["error"] for index in (7, CHUNK + 2)] == ["empty hypothesis", "empty premise"]
    assert all(not found[7][name] for name in ("prediction", "p_entailment"))
    assert str(found[9]["truncated"]).lower() == "true"

    known = [(index, one) for index, one in zip(good, expected, strict=True) if rows[index]["gold_label"] != "-"]
    right = sum(rows[index]["gold_label"] == one.label for index, one in known)
    assert summary["accuracy"] == right / len(known)
    assert summary["labelled"] == len(known)
    assert summary["truncated"] == sum(one.truncated for one in expected) > 0
    assert (summary["rows"], summary["errors"], summary["device"]) == (len(rows), 2, "cpu")
    assert summary["pairs_per_second"] > 0 < summary["load_seconds"]
    assert summary["output"] == str(tmp_path / f"out.{format}")
    assert {path.name for path in tmp_path.iterdir()} == {f"in.{format}", f"out.{format}", f"_out.{format}.run.json"}


def test_rows_of_all_kinds_of_badness_keep_their_place(tmp_path) -> None:
    lines = [
        b'{"premise": "a man", "hypothesis": "a dog"}',
        b"",
        b"not json",
        b'{"premise": null, "hypothesis": "a"}',
        b'{"hypothesis": "a"}',
        b'{"premise": 5, "hypothesis": "a"}',
        b'{"premise": "\\ud800", "hypothesis": "a"}',
        b'{"premise": "a\\u0000b", "hypothesis": "a"}',
        b'{"premise": "\xff", "hypothesis": "a"}',
        b'{"premise": "' + b"long " * 200_000 + b'", "hypothesis": "a"}',
        b"[" * 2000,
        b'{"premise": "a man", "hypothesis": "a dog"}',
    ]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    summary = score(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert len(found) == summary["rows"] == len(lines)
    assert [bool(row["error"]) for row in found] == [False, *[True] * 8, False, True, False]
    assert summary["errors"] == 9
    assert found[9]["truncated"] is True
    assert found[0]["prediction"] == found[11]["prediction"]
    assert "accuracy" not in summary


@pytest.mark.parametrize(
    ("name", "content", "errors"),
    [
        ("tsv", b"premise\thypothesis\na\tb\n\na\na\tb\tc\n\xff\tb\na\0\tb\n \tb\na\tb\n", 6),
        ("csv", b'premise,hypothesis\na,b\n\na\na,b,c\n\xff,b\na\0,b\n" ",b\n"open,b\na,b\n', 7),
    ],
)
def test_bad_rows_of_delimited_files_keep_their_place(tmp_path, name, content, errors) -> None:
    (tmp_path / f"in.{name}").write_bytes(content)
    summary = score(tmp_path / f"in.{name}", tmp_path / "out.jsonl")
    found = read(tmp_path / "out.jsonl")
    assert [bool(row["error"]) for row in found] == [False, *[True] * errors, False]
    assert (summary["rows"], summary["errors"]) == (errors + 2, errors)
    with pytest.raises(InputError, match=r"row 2: blank line"):
        score(tmp_path / f"in.{name}", tmp_path / "strict.jsonl", strict=True)


def test_a_null_and_a_missing_cell_of_parquet(tmp_path) -> None:
    table = pa.table({"premise": ["a", None, ""], "hypothesis": ["b", "b", "b"]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet", tmp_path / "out.parquet")["errors"] == 2
    assert [bool(row["error"]) for row in read(tmp_path / "out.parquet")] == [False, True, True]


def test_a_file_of_bad_rows_only(tmp_path) -> None:
    (tmp_path / "in.tsv").write_text("premise\thypothesis\n\n\n")
    summary = score(tmp_path / "in.tsv", tmp_path / "out.tsv")
    assert (summary["rows"], summary["errors"]) == (2, 2)
    (tmp_path / "none.tsv").write_text("premise\thypothesis\n")
    assert score(tmp_path / "none.tsv", tmp_path / "none.out.tsv")["rows"] == 0


@pytest.mark.parametrize("name", ["jsonl", "jsonl.gz", "jsonl.zst", "tsv", "csv.gz", "parquet"])
def test_a_file_of_no_rows_is_one_and_so_is_what_is_made_of_it(tmp_path, name, scorer) -> None:
    (tmp_path / "zero.jsonl").touch()
    first, second = tmp_path / f"first.{name}", tmp_path / "second.csv"
    assert score(tmp_path / "zero.jsonl", first)["rows"] == 0
    assert score(tmp_path / "zero.jsonl", first)["already_finished"]
    if name.startswith("jsonl"):
        assert score(first, second)["rows"] == 0
        header = "premise,hypothesis,prediction,p_entailment,p_neutral,p_contradiction,truncated,error,raw\n"
        assert second.read_text() == header
        # a partition on Ray: the same, with a Scorer that is kept
        assert score_file(scorer, first, tmp_path / "out.parquet")["rows"] == 0
    else:  # as a file with rows that bertnli has scored
        with pytest.raises(InputError, match="column 'prediction' has the name of one that the output adds"):
            score(first, second)
        assert score(first, second, prefix="again_")["rows"] == 0


def test_strict_stops_at_the_first_bad_row_and_shows_nothing(tmp_path) -> None:
    rows = tiny.snli_rows(2 * CHUNK)
    rows[CHUNK + 10]["sentence1"] = ""
    rows[CHUNK + 20]["sentence1"] = ""
    file = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(InputError, match=rf"row {CHUNK + 11}: empty premise; .*--strict"):
        score(file, tmp_path / "out.jsonl", strict=True)
    assert not (tmp_path / "out.jsonl").exists()
    summary = score(file, tmp_path / "out.jsonl")
    assert (summary["resumed_at"], summary["rows"], summary["errors"]) == (CHUNK, 2 * CHUNK, 2)
    with pytest.raises(InputError, match="skipped 2 bad rows"):
        score(file, tmp_path / "out.jsonl", strict=True)


def test_columns_prefix_and_formats_can_be_given(tmp_path) -> None:
    (tmp_path / "in.txt").write_text("q,a,prediction\none,two,mine\n")
    options = {"columns": Columns("q", "a"), "input_format": "csv"}
    with pytest.raises(InputError, match=r"'prediction'.*--prefix"):
        score(tmp_path / "in.txt", tmp_path / "out", output_format="jsonl", **options)
    score(tmp_path / "in.txt", tmp_path / "out", output_format="jsonl", prefix="nli_", **options)
    [row] = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert row["prediction"] == "mine"
    assert row["nli_prediction"] in tiny.SNLI_LABELS


def test_the_evidence_is_the_premise_of_a_claim(tmp_path, scorer) -> None:
    rows = [row for row in tiny.snli_rows(12) if row["gold_label"] != "-"]
    lines = [{"claim": r["sentence2"], "evidence": r["sentence1"], "labels": r["gold_label"]} for r in rows]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said: list[str] = []
    summary = score_file(scorer, tmp_path / "in.jsonl", tmp_path / "out.jsonl", say=said.append)
    expected = scorer.score([(row["sentence1"], row["sentence2"]) for row in rows])
    assert [line["prediction"] for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())] == [
        one.label for one in expected
    ]
    right = sum(one.label == row["gold_label"] for one, row in zip(expected, rows, strict=True))
    assert summary["accuracy"] == right / len(rows)
    assert "column 'evidence' is the premise, column 'claim' is the hypothesis, column 'labels' is the label" in said[0]


def test_pipes_at_both_ends(tmp_path, capfdbinary, monkeypatch) -> None:
    rows = tiny.snli_rows(20)
    file = write(tmp_path / "in.jsonl", rows)
    score(file, tmp_path / "out.jsonl")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
    summary = score_file(tiny.bundle(), "-", "-", device="cpu", input_format="jsonl", output_format="jsonl")
    assert summary["rows"] == 20
    assert capfdbinary.readouterr().out == (tmp_path / "out.jsonl").read_bytes()


def test_a_pipe_does_not_replace_a_file_unasked(tmp_path, monkeypatch) -> None:
    (tmp_path / "out.jsonl").write_text("mine")
    line = b'{"premise": "a", "hypothesis": "b"}\n'
    for restart in (False, True):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(line)))
        if not restart:
            with pytest.raises(InputError, match=r"exists, and no record says that bertnli made it; .*--restart"):
                score(Path("-"), tmp_path / "out.jsonl", input_format="jsonl")
            assert (tmp_path / "out.jsonl").read_text() == "mine"
        else:
            score(Path("-"), tmp_path / "out.jsonl", input_format="jsonl", restart=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]
    assert len(read(tmp_path / "out.jsonl")) == 1


def test_packed_input(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(10))
    (tmp_path / "in.tsv.gz").write_bytes(gzip.compress(file.read_bytes()))
    score(tmp_path / "in.tsv.gz", tmp_path / "out.tsv")
    assert len(read(tmp_path / "out.tsv")) == 10


def test_a_damaged_input_is_one_message(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(3 * CHUNK))
    packed = gzip.compress(file.read_bytes())
    (tmp_path / "in.tsv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(RunError, match=r"in\.tsv\.gz: cannot be read beyond row \d+"):
        score(tmp_path / "in.tsv.gz", tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


@pytest.mark.parametrize(
    ("format", "logits"),
    [
        *((format, [np.nan] * 3) for format in FORMATS),
        ("jsonl", [np.inf, np.inf, 0.0]),
        ("jsonl", [0.0, -np.inf, 1.0]),
    ],
)
def test_a_row_whose_scores_are_no_numbers_keeps_its_place_with_the_reason(
    tmp_path, monkeypatch, scorer, format, logits
) -> None:
    from bertnli_export.session import Session

    rows = [{**row, "sentence1": "a man", "sentence2": "a dog"} for row in tiny.snli_rows(2 * CHUNK)]
    for number in (3, CHUNK + 5):
        rows[number]["sentence1"] = "a dog " * 60
    rows[4]["sentence1"] = ""
    real = Session.logits

    def overflows(session: Session, ids: Any, *rest: Any) -> Any:
        found = real(session, ids, *rest)
        return np.full_like(found, logits) if ids.shape[1] >= scorer.tokenizer.max_length else found

    monkeypatch.setattr(Session, "logits", overflows)
    file, output = write(tmp_path / f"in.{format}", rows), tmp_path / f"out.{format}"
    with pytest.raises(Stop):
        score(file, output, progress=stop_after(2))
    summary = score(file, output)
    found = read(output)
    reason = "the model's scores are not finite numbers"
    assert {number: row["error"] for number, row in enumerate(found) if row["error"]} == {
        3: reason,
        4: "empty premise",
        CHUNK + 5: reason,
    }
    assert all(not found[3][name] for name in ("prediction", "p_entailment"))
    assert (summary["rows"], summary["errors"], summary["resumed_at"]) == (2 * CHUNK, 3, CHUNK)
    with pytest.raises(RunError, match=rf"in\.{format}: row 4: {reason}; .*--strict"):
        score(file, tmp_path / f"strict.{format}", strict=True)
    with pytest.raises(RunError, match=reason):
        scorer.score([("a dog " * 60, "a")])


def test_a_changed_bundle_is_noticed_before_scoring(tmp_path) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    with (bundle / "model.onnx").open("r+b") as model:
        model.seek(-100, os.SEEK_END)
        model.write(b"\0")
    with pytest.raises(InputError, match=r"model\.onnx: not the file that was exported"):
        score_file(bundle, write(tmp_path / "in.tsv", tiny.snli_rows(3)), tmp_path / "out.tsv", device="cpu")


def test_a_file_is_scored_with_the_bundles_temperature_or_a_given_one(tmp_path) -> None:
    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    update_manifest(bundle, temperature=3.0)
    file = write(tmp_path / "in.tsv", tiny.snli_rows(60))
    score_file(bundle, file, tmp_path / "own.tsv", device="cpu")
    score(file, tmp_path / "given.tsv", temperature=3.0)
    score_file(bundle, file, tmp_path / "off.tsv", device="cpu", temperature=1)
    score(file, tmp_path / "plain.tsv")
    with pytest.raises(InputError, match=r"options: temperature was 3.0, is 2.0"):
        score(file, tmp_path / "given.tsv", temperature=2.0)
    assert score_file(bundle, file, tmp_path / "own.tsv", device="cpu", temperature=3.0)["already_finished"]
    assert (tmp_path / "own.tsv").read_bytes() == (tmp_path / "given.tsv").read_bytes()
    assert (tmp_path / "off.tsv").read_bytes() == (tmp_path / "plain.tsv").read_bytes()
    assert (tmp_path / "own.tsv").read_bytes() != (tmp_path / "off.tsv").read_bytes()
