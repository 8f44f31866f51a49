"""Files of pairs to files of scores: every row once, in place, the same whatever happened on the way."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bertnli_export import score as score_module
from bertnli_export.run_record import RunRecord, record_path
from bertnli_export.score import Scorer, score_file
from bertnli_export.scorer import CHUNK as CHUNKS
from bertnli_export.scorer import length_batches
from hypothesis import given, settings
from hypothesis import strategies as st

from bertnli.common.errors import InputError, Interrupted, RunError
from bertnli.data.pairs import Columns
from tests.conftest import environment
from tests.support import tiny

FORMATS = ("tsv", "csv", "jsonl", "parquet")
FIELDS = ("pairID", "gold_label", "sentence1", "sentence2")
CHUNK = 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHUNKS, "cpu", CHUNK)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer(tiny.bundle(), "cpu")


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


# --- a pair's score is its own


def test_scores_are_the_same_alone_in_any_batch_and_in_any_order(scorer) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(150)]
    pairs += [("", "a"), ("a", ""), ("x" * 5000, "y")]
    together = np.array([list(one.probabilities.values()) for one in scorer.score(pairs)])
    assert len(set(together.argmax(axis=1))) > 1
    order = random.Random(0).sample(range(len(pairs)), len(pairs))
    shuffled = scorer.score(pairs[index] for index in order)
    for index, one in zip(order, shuffled, strict=True):
        np.testing.assert_allclose(list(one.probabilities.values()), together[index], atol=1e-5)
    for index in range(0, len(pairs), 5):
        [alone] = scorer.score([pairs[index]])
        np.testing.assert_allclose(list(alone.probabilities.values()), together[index], atol=1e-5)
        assert alone.label == scorer.labels[together[index].argmax()]


def test_iter_is_score_as_a_stream(scorer) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(CHUNK + 3)]
    taken = 0

    def source():
        nonlocal taken
        for pair in pairs:
            taken += 1
            yield pair

    stream = scorer.iter(source())
    first = next(stream)
    assert taken == CHUNK
    assert [first, *stream] == scorer.score(pairs)


def test_the_scorer_says_what_is_no_pair(scorer) -> None:
    assert scorer.score([]) == []
    for bad in [("a",), "ab", ("a", "b", "c")]:
        with pytest.raises(InputError, match="expected a premise and a hypothesis"):
            scorer.score([("a", "b"), bad])
    with pytest.raises(InputError, match="expected text"):
        scorer.score([("a", None)])
    with pytest.raises(InputError, match="surrogate"):
        scorer.score([("a", "\ud800")])


@settings(deadline=None)
@given(st.lists(st.integers(3, 512), max_size=200), st.integers(1, 40), st.integers(1, 2000))
def test_batches_hold_every_pair_once_and_keep_to_the_limits(lengths, max_pairs, max_tokens) -> None:
    found = list(length_batches(np.array(lengths, np.int32), max_pairs, max_tokens, 64))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        inside = [lengths[index] for index in batch]
        assert len(batch) <= max_pairs
        assert len(batch) == 1 or len(batch) * max(inside) <= max_tokens
        assert max(inside) - min(inside) <= 64


def test_a_long_pair_makes_no_other_long() -> None:
    lengths = np.array([30] * 31 + [512], np.int32)
    assert [len(batch) for batch in length_batches(lengths, 32, 100_000, 64)] == [1, 31]


def test_a_temperature_changes_how_sure_the_model_is_and_no_label(tmp_path, scorer) -> None:
    pairs = [(row["sentence1"], row["sentence2"]) for row in tiny.snli_rows(60)]
    plain = scorer.score(pairs)
    logits = scorer.logits(*zip(*pairs, strict=True)).astype(np.float64)
    for temperature in (0.25, 3.0, 1e6):
        found = Scorer(tiny.bundle(), "cpu", temperature).score(pairs)
        assert [one.label for one in found] == [one.label for one in plain]
        powers = np.exp(logits / temperature)
        expected = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose([list(one.probabilities.values()) for one in found], expected, atol=1e-6)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(InputError, match=f"--temperature; found {wrong}; expected a number above 0"):
            Scorer(tiny.bundle(), "cpu", wrong)

    bundle = shutil.copytree(tiny.bundle(), tmp_path / "bundle")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest.pop("temperature") == 1.0  # written, and its absence in older bundles means the same
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    assert Scorer(bundle, "cpu").score(pairs) == plain
    (bundle / "manifest.json").write_text(json.dumps(manifest | {"temperature": 3.0}))
    assert Scorer(bundle, "cpu").score(pairs) == Scorer(tiny.bundle(), "cpu", 3.0).score(pairs)
    assert Scorer(bundle, "cpu", 1).score(pairs) == plain

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


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads, scorer) -> None:
    """So a record need not know how many there were when a run is gone on with."""
    pairs = [(row["sentence1"], row["sentence2"] + " a dog" * (at % 9)) for at, row in enumerate(tiny.snli_rows(300))]
    one, many = (Scorer(tiny.bundle(), "cpu", threads=number) for number in (1, threads))
    np.testing.assert_array_equal(one.logits(*zip(*pairs, strict=True)), many.logits(*zip(*pairs, strict=True)))


# --- rows in, rows out


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
    with pytest.raises(RunError, match=r"row 2: blank line"):
        score(tmp_path / f"in.{name}", tmp_path / "strict.jsonl", strict=True)


def test_a_null_and_a_missing_cell_of_parquet(tmp_path) -> None:
    table = pa.table({"premise": ["a", None, ""], "hypothesis": ["b", "b", "b"]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet", tmp_path / "out.parquet")["errors"] == 2
    assert [bool(row["error"]) for row in read(tmp_path / "out.parquet")] == [False, True, True]


def test_a_file__of_nothing_but_bad_rows(tmp_path) -> None:
    (tmp_path / "in.tsv").write_text("premise\thypothesis\n\n\n")
    summary = score(tmp_path / "in.tsv", tmp_path / "out.tsv")
    assert (summary["rows"], summary["errors"]) == (2, 2)
    (tmp_path / "none.tsv").write_text("premise\thypothesis\n")
    assert score(tmp_path / "none.tsv", tmp_path / "none.out.tsv")["rows"] == 0


def test_strict_stops_at_the_first_bad_row_and_shows_nothing(tmp_path) -> None:
    rows = tiny.snli_rows(2 * CHUNK)
    rows[CHUNK + 10]["sentence1"] = ""
    rows[CHUNK + 20]["sentence1"] = ""
    file = write(tmp_path / "in.jsonl", rows)
    with pytest.raises(RunError, match=rf"row {CHUNK + 11}: empty premise; .*--strict"):
        score(file, tmp_path / "out.jsonl", strict=True)
    assert not (tmp_path / "out.jsonl").exists()
    summary = score(file, tmp_path / "out.jsonl")
    assert (summary["resumed_at"], summary["rows"], summary["errors"]) == (CHUNK, 2 * CHUNK, 2)
    with pytest.raises(RunError, match="skipped 2 bad rows"):
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


# --- exactly once


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


@pytest.mark.parametrize("format", [*FORMATS, "tsv.gz", "jsonl.zst"])
def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path, format) -> None:
    rows = tiny.snli_rows(3 * CHUNK + 5)
    rows[3]["sentence1"] = ""
    file = write(tmp_path / "in.jsonl", rows)
    undisturbed = score(file, tmp_path / f"whole.{format}")
    output = tmp_path / f"out.{format}"
    for chunks in (1, 2):
        with pytest.raises(Stop):
            score(file, output, progress=stop_after(chunks))
        assert not output.exists()
    summary = score(file, output)
    # the first run was stopped before its only checkpoint; the second made one
    assert summary["resumed_at"] == CHUNK
    assert output.read_bytes() == (tmp_path / f"whole.{format}").read_bytes()
    same = ("rows", "errors", "truncated", "labelled", "accuracy")
    assert {key: summary[key] for key in same} == {key: undisturbed[key] for key in same}


def test_a_finished_output_is_recognised(tmp_path, monkeypatch) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(30))
    first = score(file, tmp_path / "out.tsv")
    monkeypatch.setattr(score_module, "_load", lambda *_: pytest.fail("it was scored again"))
    assert score(file, tmp_path / "out.tsv") == first | {"already_finished": True}
    shutil.move(file, tmp_path / "moved.tsv")  # the content counts
    assert score(tmp_path / "moved.tsv", tmp_path / "out.tsv")["already_finished"]


def test_a_deleted_output_is_made_again(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(30))
    score(file, tmp_path / "out.tsv")
    (tmp_path / "out.tsv").unlink()
    assert score(file, tmp_path / "out.tsv")["already_finished"] is False
    assert (tmp_path / "out.tsv").exists()


def test_a_kill_between_the_last_rename_and_its_note_is_harmless(tmp_path, monkeypatch) -> None:
    for format in FORMATS:
        file = write(tmp_path / f"in.{format}", tiny.snli_rows(30))
        output = tmp_path / f"out.{format}"
        with monkeypatch.context() as context:
            context.setattr(RunRecord, "finish", lambda *_: (_ for _ in ()).throw(Stop))
            with pytest.raises(Stop):
                score(file, output)
        before = output.stat().st_mtime_ns
        summary = score(file, output)
        assert (summary["rows"], summary["resumed_at"]) == (30, 30)
        assert output.stat().st_mtime_ns == before
        assert score(file, output)["already_finished"]


@pytest.mark.parametrize("checkpoint_seconds", [0, 1e9])
def test_a_kill_before_the_last_rename_is_harmless(tmp_path, monkeypatch, checkpoint_seconds) -> None:
    from bertnli_export.output_file import PartialFile

    for format in FORMATS:
        file = write(tmp_path / f"in.{format}", tiny.snli_rows(30))
        output = tmp_path / f"out.{format}"
        with monkeypatch.context() as context:
            context.setattr(PartialFile, "publish", lambda *_: (_ for _ in ()).throw(Stop))
            with pytest.raises(Stop):
                score(file, output, checkpoint_seconds=checkpoint_seconds)
        assert not output.exists()
        assert score(file, output)["resumed_at"] == 30
        score(file, tmp_path / f"whole.{format}")
        assert output.read_bytes() == (tmp_path / f"whole.{format}").read_bytes()


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("input", "input: sha256 was"),
        ("bundle", "bundle: sha256 was"),
        ("options", "options: prefix was , is x_"),
    ],
)
def test_what_changed_in_between_is_named(tmp_path, finished, change, message) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(2 * CHUNK))
    output = tmp_path / "out.tsv"
    if finished:
        score(file, output)
    else:
        with pytest.raises(Stop):
            score(file, output, progress=stop_after(2))
    bundle, prefix = tiny.bundle(), ""
    if change == "input":
        file.write_text(file.read_text().replace("dogs", "cats"))
    elif change == "bundle":
        bundle = shutil.copytree(bundle, tmp_path / "bundle")
        manifest = bundle / "manifest.json"
        manifest.write_text(manifest.read_text() + "\n")
    else:
        prefix = "x_"
    before = output.read_bytes() if finished else None
    with pytest.raises(InputError, match=message) as caught:
        score_file(bundle, file, output, device="cpu", prefix=prefix)
    assert "--restart" in str(caught.value)
    others = {"input:", "bundle:", "options:"} - {f"{change}:"}
    assert not any(other in str(caught.value) for other in others)
    assert (output.read_bytes() if output.exists() else None) == before
    summary = score_file(bundle, file, output, device="cpu", prefix=prefix, restart=True)
    assert (summary["rows"], summary["resumed_at"]) == (2 * CHUNK, 0)


def test_versions_and_device_matter_only_until_it_is_finished(tmp_path, monkeypatch) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(2 * CHUNK))
    with pytest.raises(Stop):
        score(file, tmp_path / "out.tsv", progress=stop_after(2))
    with monkeypatch.context() as context:
        context.setattr(score_module, "versions", lambda _: {"onnxruntime": "99"})
        with pytest.raises(InputError, match=r"versions: .*onnxruntime was .*, is 99"):
            score(file, tmp_path / "out.tsv")
    score(file, tmp_path / "out.tsv")
    monkeypatch.setattr(score_module, "versions", lambda _: {"onnxruntime": "99"})
    assert score(file, tmp_path / "out.tsv")["already_finished"]


def test_an_output_that_is_not_ours_is_not_touched(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    (tmp_path / "out.tsv").write_text("mine")
    with pytest.raises(InputError, match=r"exists, and no record.*--restart"):
        score(file, tmp_path / "out.tsv")
    assert (tmp_path / "out.tsv").read_text() == "mine"
    score(file, tmp_path / "out.tsv", restart=True)
    assert len(read(tmp_path / "out.tsv")) == 5
    (tmp_path / "out.tsv").write_text("edited")
    with pytest.raises(InputError, match="was changed after it was finished"):
        score(file, tmp_path / "out.tsv")


@pytest.mark.parametrize("through_a_pipe", [False, True])
def test_a_partial_file_that_is_not_ours_is_not_touched(tmp_path, monkeypatch, through_a_pipe) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    partial = tmp_path / "out.tsv.partial"
    partial.write_text("mine")
    options: dict[str, Any] = {}
    if through_a_pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read_bytes())))
        file, options = Path("-"), {"input_format": "tsv"}
    with pytest.raises(InputError, match=r"out\.tsv\.partial: exists, and no record says that bertnli made it"):
        score(file, tmp_path / "out.tsv", **options)
    assert partial.read_text() == "mine"
    assert not record_path(tmp_path / "out.tsv").exists()
    if through_a_pipe:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "in.tsv").read_bytes())))
    score(file, tmp_path / "out.tsv", restart=True, **options)
    assert len(read(tmp_path / "out.tsv")) == 5 and not partial.exists()


def test_a_run_killed_before_it_had_a_record_starts_again(tmp_path, monkeypatch) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    with monkeypatch.context() as context:
        context.setattr(RunRecord, "save", lambda _: (_ for _ in ()).throw(Stop))
        with pytest.raises(Stop):
            score(file, tmp_path / "out.tsv")
    assert score(file, tmp_path / "out.tsv")["rows"] == 5


@pytest.mark.parametrize("name", ["in.tsv", "in.tsv.partial"])
def test_the_input_is_never_written_over(tmp_path, name) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5)).rename(tmp_path / name)
    before = file.read_bytes()
    for restart in (False, True):
        with pytest.raises(InputError, match="is the input; give it another name") as caught:
            score(file, tmp_path / "in.tsv", input_format="tsv", restart=restart)
        assert "--restart" not in str(caught.value)
    assert file.read_bytes() == before
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(InputError, match=r"folder\.tsv: not a file"):
        score(file, tmp_path / "folder.tsv", input_format="tsv")


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"bertnli_score_record": 1}', '{"bertnli_score_record": 7}']
)
def test_a_damaged_record_is_named(tmp_path, content) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(5))
    record_path(tmp_path / "out.tsv").write_text(content)
    with pytest.raises(InputError, match=r"_out\.tsv\.run\.json: damaged, or not bertnli's.*--restart"):
        score(file, tmp_path / "out.tsv")
    score(file, tmp_path / "out.tsv", restart=True)


def test_a_stop_by_signal_says_how_to_go_on(tmp_path) -> None:
    file = write(tmp_path / "in.tsv", tiny.snli_rows(2 * CHUNK))

    def stop(rows: int, note: str) -> None:
        if rows == 2 * CHUNK:
            raise Interrupted(signal.SIGTERM, "interrupted")

    score(file, tmp_path / "out.tsv")
    said = f"{CHUNK} rows are kept; give the same command again, without --restart, to continue"
    with pytest.raises(Interrupted, match=said) as caught:
        score(file, tmp_path / "out.tsv", progress=stop, restart=True)
    assert caught.value.exit_code == 143
    assert score(file, tmp_path / "out.tsv")["resumed_at"] == CHUNK


# --- real processes

CHILD = """
import json, os, signal, sys, time
if {no_torch}:
    sys.modules.update(dict.fromkeys(("torch", "onnx", "onnxscript", "safetensors", "deepspeed")))  # importing fails
from bertnli.common.errors import Interrupted
from bertnli_export import output_file, score

score.CHUNK["cpu"] = {chunk}

def interrupt(number, frame):
    raise Interrupted(number, "interrupted")

def say(word):
    print(word, flush=True)
    sys.stdin.readline()  # where the test holds this process, it goes on when the test says so

class HalfWrites:  # stands for the module os where the output is written
    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, descriptor, data):
        written = os.write(descriptor, data[: max(1000, len(data) // 2)])
        if written < len(data):
            say("half")
        return written

if {half_writes}:
    output_file.os = HalfWrites()
signal.signal(signal.SIGTERM, interrupt)
try:
    bundle, file, output = sys.argv[1:]
    summary = score.score_file(
        bundle, file, output, device="cpu", workers={workers}, checkpoint_seconds=0,
        progress=lambda *_: None if {half_writes} else say("x"),
    )
except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
print(json.dumps(summary))
"""


def start(
    file: Path, output: Path, no_torch: bool = False, workers: int = 1, half_writes: bool = False, held: bool = False
) -> subprocess.Popen[str]:
    """`held`: after each line that it prints it waits for one."""
    code = CHILD.replace("{no_torch}", str(no_torch)).replace("{chunk}", str(CHUNK)).replace("{workers}", str(workers))
    code = code.replace("{half_writes}", str(half_writes))
    arguments = [sys.executable, "-c", code, tiny.bundle(), file, output]
    return subprocess.Popen(
        list(map(str, arguments)),
        stdin=subprocess.PIPE if held else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def test_scoring_needs_no_torch(tmp_path) -> None:
    file = write(tmp_path / "in.parquet", tiny.snli_rows(40))
    child = start(file, tmp_path / "out.parquet", no_torch=True)
    out, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    assert json.loads(out.splitlines()[-1])["rows"] == 40


def test_sigterm_keeps_what_is_done(tmp_path) -> None:
    file = write(tmp_path / "in.jsonl", tiny.snli_rows(300 * CHUNK))
    child = start(file, tmp_path / "out.jsonl")
    assert child.stdout is not None
    child.stdout.readline()
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=100)
    assert child.returncode == 143, errors
    assert "give the same command again, without --restart, to continue" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.jsonl").exists()
    assert json.loads(record_path(tmp_path / "out.jsonl").read_text())["counts"]["rows"] >= CHUNK


def killed_at_random(folder: Path, format: str, kills: int, seed: int, workers: int = 1) -> None:
    """Start scoring over and over, killed at random moments, and compare the bytes with those of a run left alone.

    Every second kill falls between two halves of a write. Each lets at most six chunks pass, so none finds it done.
    """
    rows = tiny.snli_rows((10 + 7 * kills) * CHUNK + 10, seed=seed)
    rows[10]["sentence1"] = ""
    file = write(folder / f"in.{format}", rows)
    output = folder / f"out.{format}"
    score(file, folder / f"whole.{format}")
    draw = random.Random(seed)
    for kill in range(kills):
        in_a_write = (kill + seed) % 2 == 0
        child = start(file, output, workers=workers, half_writes=in_a_write, held=True)
        assert child.stdout is not None and child.stdin is not None
        for more in reversed(range(draw.randint(1, 6))):  # chunks, or first halves of writes, to let pass
            if not child.stdout.readline():
                pytest.fail(f"it ended first: {child.communicate()[1]}")
            if more or not in_a_write:
                child.stdin.write("\n")
                child.stdin.flush()
        if not in_a_write:
            time.sleep(draw.uniform(0, 0.03))  # anywhere in the next chunk
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=100)
        assert not output.exists()
    child = start(file, output, workers=workers)
    out, errors = child.communicate(timeout=100)
    assert child.returncode == 0, errors
    assert json.loads(out.splitlines()[-1])["rows"] == len(rows)
    assert output.read_bytes() == (folder / f"whole.{format}").read_bytes()
    assert not [path for path in folder.iterdir() if ".partial" in path.name]


def test_killed_at_random_moments(tmp_path) -> None:
    """One kill in each of three formats, two of them in a write; `make test-system` has twenty more."""
    for seed, (format, workers) in enumerate([("tsv", 1), ("parquet", 1), ("jsonl", 2)]):
        killed_at_random(tmp_path, format, kills=1, seed=seed, workers=workers)


@pytest.mark.system
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_many_random_moments(tmp_path, format, workers) -> None:
    killed_at_random(tmp_path, format, kills=5, seed=FORMATS.index(format), workers=workers)


@pytest.mark.system
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_file(tmp_path, workers) -> None:
    """Ten times the rows, the same peak of resident memory, of all processes together; within a tenth."""
    peaks = []
    for rows in (20_000, 200_000):
        file = tmp_path / f"{rows}.tsv"
        with file.open("w") as lines:
            lines.write("premise\thypothesis\n")
            for _ in range(rows // 1000):
                lines.writelines(f"{row['sentence1']}\t{row['sentence2']}\n" for row in tiny.snli_rows(1000))
        command = [sys.executable, "-m", "bertnli.cli", "score", tiny.bundle(), file, tmp_path / f"{rows}.jsonl"]
        options = ["--device", "cpu", "--workers", str(workers)]
        child = psutil.Popen([*map(str, command), *options], env=environment(), stdout=subprocess.DEVNULL)
        peak = 0
        while child.poll() is None:
            with contextlib.suppress(psutil.Error):
                peak = max(peak, sum(each.memory_info().rss for each in [child, *child.children()]))
            time.sleep(0.05)
        assert child.returncode == 0
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0], peaks


def test_two_processes_do_not_write_one_output(tmp_path) -> None:
    file = write(tmp_path / "in.jsonl", tiny.snli_rows(300 * CHUNK))
    child = start(file, tmp_path / "out.jsonl")
    assert child.stdout is not None
    child.stdout.readline()
    try:
        with pytest.raises(InputError, match="another process is writing it"):
            score(file, tmp_path / "out.jsonl")
    finally:
        child.kill()
        child.communicate()


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


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("logits", [[np.nan] * 3, [np.inf, np.inf, 0.0], [0.0, -np.inf, 1.0]])
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


def test_a_record_that_cannot_be_written_is_one_message_and_resumable(tmp_path, monkeypatch) -> None:
    from bertnli_export import run_record

    file = write(tmp_path / "in.tsv", tiny.snli_rows(3 * CHUNK))
    real, saved = run_record.write_text, []

    def fill_up(path: Path, text: str) -> None:
        saved.append(path)
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        real(path, text)

    with monkeypatch.context() as context:
        context.setattr(run_record, "write_text", fill_up)
        with pytest.raises(
            RunError, match=r"run\.json: cannot be written .No space left.*the same command again, without --restart"
        ):
            score(file, tmp_path / "out.tsv")
    assert score(file, tmp_path / "out.tsv")["resumed_at"] == CHUNK
    score(file, tmp_path / "whole.tsv")
    assert (tmp_path / "out.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()


@pytest.mark.system
def test_the_first_row_is_scored_within_two_seconds(tmp_path) -> None:
    """Of the command on a warm disk, and `from bertnli import Scorer` within 0.3 s: the best of five."""
    file = write(tmp_path / "in.tsv", tiny.snli_rows(1))
    score_it = ["-m", "bertnli.cli", "score", str(tiny.bundle()), str(file), str(tmp_path / "out.tsv"), "--restart"]
    for limit, command in ((0.3, ["-c", "from bertnli import Scorer"]), (2.0, score_it)):
        took = []
        for _ in range(5):
            began = time.monotonic()
            subprocess.run([sys.executable, *command], env=environment(), check=True, stdout=subprocess.DEVNULL)
            took.append(time.monotonic() - began)
        assert min(took) < limit, (command, took)
