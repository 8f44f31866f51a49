"""score --windows: a long premise in overlapping windows, one output row an input row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from bertnli_export.distributed import _PartitionWorker, find_partitions, score_partitions
from bertnli_export.run_record import record_path
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer
from bertnli_export.session import Session
from bertnli_export.window_scores import Windows, WindowScore
from transformers import AutoTokenizer

from bertnli.common.errors import InputError
from bertnli.data.outputs import Outputs
from bertnli.evaluation.activations import activate
from tests.conftest import Run
from tests.export.test_distributed import OPTIONS, job
from tests.support import tiny
from tests.support.bundles import with_outputs
from tests.support.command import command as command
from tests.support.scored_files import CHUNK, FORMATS, Stop, read, stop_after, write

pytestmark = pytest.mark.usefixtures("small_chunks")

LENGTH, STRIDE = 48, 8  # tokens of a pair of the tiny model
SNLI = Outputs(tiny.SNLI_LABELS)
RERANKER = Outputs(("score",), "regression", "identity")
INDEPENDENT = Outputs(("toxic", "in,sult"), "multi_label_classification", "sigmoid")
ADDED = ["window", "windows", "window_begin", "window_end", "truncated", "error"]


def rows() -> list[dict[str, str]]:
    """Long premises and short ones, and rows that cannot be scored."""
    made = tiny.snli_rows(2 * CHUNK)
    for number, row in enumerate(made[:40]):
        row["sentence1"] = " ".join(other["sentence1"] for other in made[number : number + 1 + number % 13])
    made[3]["sentence2"] = ""
    made[5]["sentence2"] = "a dog " * 18  # it leaves fewer tokens than a window must have
    made[11]["sentence2"] = "a dog " * 60
    return made


ROWS = rows()
BAD = {3: "empty hypothesis", 5: "leaves too few of the 48 tokens", 11: "leaves too few of the 48 tokens"}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Outputs, Path]:
    folder = tmp_path_factory.mktemp("outputs")
    others = {outputs: with_outputs(folder / str(at), outputs) for at, outputs in enumerate((RERANKER, INDEPENDENT))}
    return {SNLI: tiny.bundle(), **others}


class Window(NamedTuple):
    logits: np.ndarray
    begin: int  # characters
    end: int


@pytest.fixture(scope="module")
def expected() -> dict[int, list[Window]]:
    """The windows of each good row, by transformers' tokenizer, each run alone."""
    theirs = AutoTokenizer.from_pretrained(tiny.bundle())
    session: Session = Scorer(tiny.bundle(), "cpu").session
    found = {}
    for number, row in enumerate(ROWS):
        if number in BAD:
            continue
        encoded = theirs(
            row["sentence1"],
            row["sentence2"],
            max_length=LENGTH,
            truncation="only_first",
            stride=STRIDE,
            return_overflowing_tokens=True,
        )
        found[number] = []
        for at, encoding in enumerate(encoded.encodings):
            inputs = (np.array([encoded[name][at]]) for name in ("input_ids", "attention_mask", "token_type_ids"))
            spans = [span for span, of in zip(encoding.offsets, encoding.sequence_ids, strict=True) if of == 0]
            found[number].append(Window(session.logits(*inputs)[0], spans[0][0], spans[-1][1]))
    assert {len(windows) for windows in found.values()} >= {1, 2, 3, 4}
    return found


def numbers(row: dict[str, Any], names: list[str]) -> list[float]:
    return [float(row[name]) for name in names]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("over", ["max", "mean"])
@pytest.mark.parametrize("outputs", [SNLI, RERANKER, INDEPENDENT], ids=lambda outputs: outputs.problem_type)
def test_a_row_gets_the_maximum_or_mean_of_its_windows(tmp_path, bundles, expected, outputs, over, format) -> None:
    source, out = write(tmp_path / f"in.{format}", ROWS), tmp_path / f"out.{format}"
    summary = score_file(bundles[outputs], source, out, device="cpu", expansion=Windows(STRIDE, over))
    assert (summary["rows"], summary["errors"], summary["truncated"]) == (len(ROWS), len(BAD), 0)
    found, several = read(out), 0
    names = ["score"] if outputs == RERANKER else [f"p_{name}" for name in outputs.names]
    predictions = [] if outputs == RERANKER else ["prediction"]
    assert [name for name in found[0] if name not in ROWS[0] and name != "raw"] == [*predictions, *names, *ADDED]
    for number, row in enumerate(found):
        assert row["sentence1"] == ROWS[number]["sentence1"]
        if number in BAD:
            assert BAD[number] in row["error"]
            assert all(row[name] in (None, "") for name in [*names, *ADDED[:4]])
            continue
        windows = expected[number]
        logits = np.stack([window.logits for window in windows])[:, : len(names)]
        values = activate(logits, outputs.activation)
        reduced = values.max(axis=0) if over == "max" else values.mean(axis=0)
        np.testing.assert_allclose(numbers(row, names), reduced, atol=2e-6, rtol=1e-6)
        best = int(reduced.argmax())
        decided = int(values[:, best].argmax())
        assert numbers(row, ADDED[:2]) == [decided + 1, len(windows)]
        assert numbers(row, ADDED[2:4]) == list(windows[decided][1:])
        several += len(windows) > 1 and decided > 0
        if outputs == SNLI:
            assert row["prediction"] == outputs.names[best]
        elif outputs == INDEPENDENT:
            above = [name for name, value in zip(outputs.names, reduced, strict=True) if value > 0.5]
            assert (json.loads(row["prediction"]) if format in ("tsv", "csv") else row["prediction"]) == above
    assert several > 5
    if format == "parquet":
        schema = pq.read_schema(out)
        assert [str(schema.field(name).type) for name in ADDED[:4]] == ["int64"] * 4


def test_a_premise_that_fits_is_scored_as_without_windows(tmp_path) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    score_file(tiny.bundle(), source, tmp_path / "with.jsonl", device="cpu", expansion=Windows(STRIDE))
    score_file(tiny.bundle(), source, tmp_path / "without.jsonl", device="cpu")
    seen = 0
    for one, other in zip(read(tmp_path / "with.jsonl"), read(tmp_path / "without.jsonl"), strict=True):
        if one["windows"] == 1:
            assert {**one, **other} == one and not other["truncated"]
            assert (one["window"], one["window_begin"], one["window_end"]) == (1, 0, len(one["sentence1"]))
            seen += 1
        elif not one["error"]:
            assert other["truncated"]
    assert seen > 60


def test_labels_are_counted_as_without_windows(tmp_path) -> None:
    summary = score_file(
        tiny.bundle(), write(tmp_path / "in.csv", ROWS), tmp_path / "out.csv", device="cpu", expansion=Windows(STRIDE)
    )
    known = [row for row in read(tmp_path / "out.csv") if row["gold_label"] != "-" and not row["error"]]
    assert summary["labelled"] == len(known)
    assert summary["accuracy"] == sum(row["gold_label"] == row["prediction"] for row in known) / len(known)


def test_workers_write_the_same_and_a_stopped_run_goes_on(tmp_path) -> None:
    source, out = write(tmp_path / "in.tsv", ROWS), tmp_path / "out.tsv"
    options: dict[str, Any] = {"device": "cpu", "expansion": Windows(STRIDE), "checkpoint_seconds": 0}
    score_file(tiny.bundle(), source, tmp_path / "whole.tsv", **options)
    score_file(tiny.bundle(), source, tmp_path / "two.tsv", workers=2, **options)
    with pytest.raises(Stop):
        score_file(tiny.bundle(), source, out, progress=stop_after(3), **options)
    for other, message in (
        (Windows(STRIDE + 1), f"stride was {STRIDE}, is {STRIDE + 1}"),
        (Windows(STRIDE, "mean"), "over was max, is mean"),
        (None, f"windows was premise, is null; options: stride was {STRIDE}, is null"),
    ):
        with pytest.raises(InputError, match=f"unfinished run cannot continue .options: {message}"):
            score_file(tiny.bundle(), source, out, **{**options, "expansion": other})
    assert score_file(tiny.bundle(), source, out, **options)["resumed_at"] == 2 * CHUNK // 8
    assert out.read_bytes() == (tmp_path / "two.tsv").read_bytes() == (tmp_path / "whole.tsv").read_bytes()
    score_file(tiny.bundle(), source, tmp_path / "plain.tsv", device="cpu")
    assert "window" not in record_path(tmp_path / "plain.tsv").read_text()


def test_scores_that_are_no_numbers_are_an_error_of_their_row(tmp_path, monkeypatch) -> None:
    real = Session.logits

    def logits(self: Session, *inputs: Any) -> np.ndarray:
        found = real(self, *inputs)
        return found if inputs[0].shape[1] < LENGTH else np.full_like(found, np.inf)  # all full windows

    monkeypatch.setattr(Session, "logits", logits)
    source, out = write(tmp_path / "in.jsonl", ROWS[:20]), tmp_path / "out.jsonl"
    score_file(tiny.bundle(), source, out, device="cpu", expansion=Windows(STRIDE))
    found = read(tmp_path / "out.jsonl")
    assert found[12]["error"] == "the model's scores are not finite numbers" and found[12]["window"] is None
    assert found[13]["error"] is None and found[13]["windows"] == 1


def test_a_partition_on_ray(tmp_path) -> None:
    source = write(tmp_path / "in.csv", ROWS)
    work = job(options={**OPTIONS, "expansion": Windows(STRIDE)})
    _PartitionWorker(work, None)._score(str(source), str(tmp_path / "ray.csv"))
    score_file(tiny.bundle(), source, tmp_path / "out.csv", device="cpu", expansion=Windows(STRIDE))
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    partitions = find_partitions(source, tmp_path / "out")
    with pytest.raises(InputError, match="--stride; found 44"):  # before any node is asked
        score_partitions(tiny.bundle(), partitions, tmp_path / "out", "local", expansion=Windows(44))


@pytest.mark.parametrize("stride", ["3", 3.5, True, None, -1])
def test_a_stride_is_a_number_of_tokens(stride: Any) -> None:
    with pytest.raises(InputError, match=f"--stride; found {stride!r}; expected a number of tokens"):
        Windows(stride)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--windows", "hypothesis"], "--windows; found 'hypothesis'; expected premise"),
        (["--stride", "3"], "--stride, --over; found no --windows; give --windows premise too"),
        (["--over", "mean"], "no --windows"),
        (["--windows", "premise", "--over", "sum"], "--over; found 'sum'; expected max or mean"),
        (["--windows", "premise", "--stride", "-1"], "--stride; found -1"),
        (["--windows", "premise", "--stride", "44"], "--stride; found 44; expected less than 44"),
    ],
)
def test_options_that_mean_nothing_are_refused(command: Run, tmp_path, options, message) -> None:
    write(tmp_path / "in.jsonl", ROWS[:2])
    done = command("score", tiny.bundle(), "in.jsonl", "out.jsonl", *options)
    assert done.returncode == 2 and message in done.stderr.replace("\n", " "), done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command(command: Run, tmp_path) -> None:
    write(tmp_path / "in.jsonl", ROWS)
    options = ["--windows", "premise", "--stride", STRIDE, "--over", "mean", "--json", "--device", "cpu"]
    done = command("score", tiny.bundle(), "in.jsonl", "out.jsonl", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["errors"] == len(BAD)
    score_file(
        tiny.bundle(), tmp_path / "in.jsonl", tmp_path / "b.jsonl", device="cpu", expansion=Windows(STRIDE, "mean")
    )
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


@pytest.mark.parametrize("outputs", [SNLI, RERANKER, INDEPENDENT], ids=lambda outputs: outputs.problem_type)
def test_in_python_the_scores_are_those_of_a_file(bundles, outputs, tmp_path) -> None:
    score_file(bundles[outputs], write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl", expansion=Windows(STRIDE))
    rows = [row for row in read(tmp_path / "out.jsonl") if not row["error"]]
    scorer = Scorer(bundles[outputs], "cpu")
    scores = scorer.score([(row["sentence1"], row["sentence2"]) for row in rows], Windows(STRIDE))
    for row, one in zip(rows, scores, strict=True):
        assert isinstance(one, WindowScore)
        assert [one.window, one.windows, one.begin, one.end, one.truncated] == [row[name] for name in ADDED[:5]]
        if outputs == RERANKER:
            assert one.score == pytest.approx(row["score"], rel=1e-6)
        else:
            assert row["prediction"] == (one.label or list(one.labels))
            assert one.probabilities == pytest.approx({name: row[f"p_{name}"] for name in outputs.names}, abs=1e-6)
    with pytest.raises(InputError, match="a pair to score: the hypothesis leaves too few of the 48 tokens"):
        scorer.score([("a man", "a dog"), ("a man", "a dog " * 60)], Windows(STRIDE))
    with pytest.raises(InputError, match="a pair to score; found 'ab'"):
        scorer.score(["ab"], Windows())
