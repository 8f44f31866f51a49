"""Bundles whose models give scores or independent labels: what they write, and what they refuse."""

from __future__ import annotations

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from bertnli_export import triton
from bertnli_export.bundle import Bundle
from bertnli_export.parity import Differences, RealRows
from bertnli_export.run_record import record_path
from bertnli_export.score import score_file
from bertnli_export.scorer import Scorer
from bertnli_export.scoring_setup import prepare
from bertnli_export.verify import verify

from bertnli.common.errors import InputError, RunError
from bertnli.data.outputs import Outputs
from bertnli.evaluation.activations import activate
from tests.conftest import ROOT
from tests.support import tiny
from tests.support.bundles import edit_config, edit_graph, edit_manifest, rows_file, with_outputs
from tests.support.scored_files import CHUNK, FORMATS, Stop, read, stop_after, write

pytestmark = pytest.mark.usefixtures("small_chunks")

RERANKER = Outputs(("score",), "regression", "identity")
SIMILARITY = Outputs(("score",), "regression", "sigmoid")
INDEPENDENT = Outputs(('so, "so"', "b\\c", "[]"), "multi_label_classification", "sigmoid")
ROWS = tiny.snli_rows(2 * CHUNK + 10)
PAIRS = [(row["sentence1"], row["sentence2"]) for row in ROWS]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Outputs, Path]:
    folder = tmp_path_factory.mktemp("outputs")
    every = (RERANKER, SIMILARITY, INDEPENDENT)
    return {outputs: with_outputs(folder / str(number), outputs) for number, outputs in enumerate(every)}


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return Scorer(tiny.bundle(), "cpu").logits(*zip(*PAIRS, strict=True))


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("outputs", [RERANKER, SIMILARITY])
def test_a_score_is_one_column_and_no_prediction(tmp_path, bundles, logits, outputs, format) -> None:
    rows = [dict(row) for row in ROWS]
    rows[3]["sentence2"] = ""
    summary = score_file(bundles[outputs], write(tmp_path / f"in.{format}", rows), tmp_path / f"out.{format}")
    assert summary["rows"] == len(rows) and summary["errors"] == 1
    assert not {"labelled", "accuracy", "no_accuracy"} & summary.keys()  # its gold labels are no scores
    found = read(tmp_path / f"out.{format}")
    assert [name for name in found[0] if name not in rows[0]][:3] == ["score", "truncated", "error"]
    assert found[3]["score"] in (None, "") and found[3]["error"] == "empty hypothesis"
    expected = activate(logits[:, :1], outputs.activation)[:, 0]
    for index, row in enumerate(found):
        if index != 3:
            assert float(row["score"]) == pytest.approx(expected[index], rel=1e-6, abs=1e-9)
    if format == "parquet":
        assert str(pq.read_schema(tmp_path / "out.parquet").field("score").type) == "double"


@pytest.mark.parametrize("format", FORMATS)
def test_independent_labels_are_a_list_of_those_above_the_threshold(tmp_path, bundles, logits, format) -> None:
    source, sizes = write(tmp_path / f"in.{format}", ROWS), set()
    for threshold, options in ((0.5, {}), (0.7, {"threshold": 0.7})):
        score_file(bundles[INDEPENDENT], source, tmp_path / f"{threshold}.{format}", **options)
        found = read(tmp_path / f"{threshold}.{format}")
        probabilities = activate(logits, "sigmoid")
        wanted = [
            [name for name, p in zip(INDEPENDENT.names, row, strict=True) if p > threshold] for row in probabilities
        ]
        given = [row["prediction"] for row in found]
        assert (given if format in ("jsonl", "parquet") else list(map(json.loads, given))) == wanted
        sizes |= set(map(len, wanted))
        written = [[float(row[f"p_{name}"]) for name in INDEPENDENT.names] for row in found]
        np.testing.assert_allclose(written, probabilities, atol=1e-6)
    assert sizes >= {0, 1, 2}


def test_of_one_scorer_in_python(bundles, logits) -> None:
    scores = Scorer(bundles[RERANKER], "cpu").score(PAIRS)
    np.testing.assert_allclose([one.score for one in scores], logits[:, 0], atol=1e-6)
    assert {(one.label, one.labels, len(one.probabilities)) for one in scores} == {(None, (), 0)}
    low, high = (Scorer(bundles[INDEPENDENT], "cpu", threshold=at).score(PAIRS) for at in (0.1, 0.9))
    assert all(set(one.labels) <= set(other.labels) for one, other in zip(high, low, strict=True))
    assert sum(len(one.labels) for one in high) < sum(len(one.labels) for one in low)
    assert {(one.label, one.score) for one in low} == {(None, None)}
    single = Scorer(tiny.bundle(), "cpu").score(PAIRS[:3])
    assert all(one.labels == (one.label,) and one.score is None for one in single)


def test_a_killed_run_continues_with_the_same_threshold_only(tmp_path, bundles) -> None:
    source, bundle = write(tmp_path / "in.csv", ROWS), bundles[INDEPENDENT]
    score_file(bundle, source, tmp_path / "whole.csv", threshold=0.3)
    out = tmp_path / "out.csv"
    with pytest.raises(Stop):
        score_file(bundle, source, out, threshold=0.3, progress=stop_after(2), checkpoint_seconds=0)
    with pytest.raises(InputError, match=r"threshold was 0\.3, is 0\.5"):
        score_file(bundle, source, out)
    assert score_file(bundle, source, out, threshold=0.3)["resumed_at"] == CHUNK
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert json.loads(record_path(out).read_text())["fingerprint"]["options"]["threshold"] == 0.3
    score_file(tiny.bundle(), source, tmp_path / "single.csv")
    assert "threshold" not in record_path(tmp_path / "single.csv").read_text()


def test_several_workers_write_the_same(tmp_path, bundles) -> None:
    source = write(tmp_path / "in.jsonl", ROWS)
    for outputs in (RERANKER, INDEPENDENT):
        score_file(bundles[outputs], source, tmp_path / "one.jsonl", restart=True)
        score_file(bundles[outputs], source, tmp_path / "two.jsonl", restart=True, workers=2)
        assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_a_column_score_is_refused_until_there_is_a_prefix(tmp_path, bundles) -> None:
    (tmp_path / "in.tsv").write_text("premise\thypothesis\tscore\tprediction\na\tb\t1\tc\n")
    with pytest.raises(InputError, match=r"column 'score' has the name of one that the output adds; .*--prefix"):
        score_file(bundles[RERANKER], tmp_path / "in.tsv", tmp_path / "out.tsv")
    score_file(bundles[RERANKER], tmp_path / "in.tsv", tmp_path / "out.tsv", prefix="x_")
    [row] = read(tmp_path / "out.tsv")
    assert row["score"] == "1" and row["prediction"] == "c" and float(row["x_score"])


def test_small_scores_keep_their_digits(tmp_path, bundles) -> None:
    """A sigmoid far below a millionth still puts its pairs in order."""
    bundle = tmp_path / "bundle"
    with_outputs(bundle, SIMILARITY)
    edit_manifest(bundle, lambda content: content.update(temperature=0.05))
    score_file(bundle, write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl")
    found = [row["score"] for row in read(tmp_path / "out.jsonl")]
    assert min(found) < 1e-8 and len(set(found)) > 0.9 * len(set(PAIRS))


@pytest.mark.parametrize("outputs", [RERANKER, SIMILARITY, INDEPENDENT])
def test_onnxruntime_alone_gives_the_same(tmp_path, bundles, outputs, monkeypatch, capsys) -> None:
    (tmp_path / "bundle").symlink_to(bundles[outputs])
    monkeypatch.chdir(tmp_path)
    made = runpy.run_path(str(ROOT / "examples" / "onnxruntime_only.py"))
    scores = Scorer(bundles[outputs], "cpu").score(made["pairs"])
    expected = [{"score": one.score} if one.score is not None else one.probabilities for one in scores]
    for line, one in zip(capsys.readouterr().out.splitlines(), expected, strict=True):
        assert ast.literal_eval(line) == pytest.approx(one, abs=1e-5)


# --- options and contradictions


@pytest.mark.parametrize(
    ("outputs", "options", "named"),
    [
        (RERANKER, {"temperature": 2.0}, ["--temperature", "no probabilities", "omit --temperature"]),
        (RERANKER, {"threshold": 0.5}, ["--threshold", "gives a pair a score", "independent labels"]),
        (None, {"threshold": 0.5}, ["--threshold", "gives a pair one of its labels"]),
        (INDEPENDENT, {"threshold": 1.0}, ["--threshold", "1.0", "between 0 and 1"]),
        (INDEPENDENT, {"threshold": float("nan")}, ["--threshold", "nan"]),
    ],
)
def test_options_without_a_meaning_are_refused(bundles, outputs, options, named) -> None:
    with pytest.raises(InputError) as error:
        prepare(bundles[outputs] if outputs else tiny.bundle(), "cpu", **options)
    assert all(part in str(error.value) for part in named), str(error.value)


def test_a_temperature_divides_what_a_sigmoid_is_taken_of(bundles, logits) -> None:
    scores = Scorer(bundles[SIMILARITY], "cpu", temperature=3.0).score(PAIRS)
    np.testing.assert_allclose([one.score for one in scores], activate(logits[:, :1] / 3, "sigmoid")[:, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"activation": "softmax"}, "activation softmax does not belong to regression"),
        ({"activation": "tanh"}, "key activation"),
        ({"labels": ["points"]}, "one output, score, not points"),
        ({"labels": ["a", "b"]}, "one output, score, not a, b"),
        ({"problem_type": "ranking"}, "key problem_type"),
        ({"temperature": 2.0}, "key temperature; found 2.0; expected 1"),
        ({"activation": "sigmoid"}, "another meaning of the outputs than in manifest.json"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(tmp_path, change, named) -> None:
    bundle = with_outputs(tmp_path / "bundle", RERANKER)
    edit_manifest(bundle, lambda content: content.update(change))
    with pytest.raises(InputError, match=named):
        Scorer(bundle, "cpu")


def test_other_programs_and_the_graph_say_the_same(tmp_path) -> None:
    bundle = with_outputs(tmp_path / "bundle", SIMILARITY)
    edit_config(bundle, lambda content: content.pop("sentence_transformers"))
    Scorer(bundle, "cpu")  # the sigmoid is CrossEncoder's default
    edit_config(bundle, lambda content: content.update(problem_type="regression"))
    with pytest.raises(InputError, match="regression with identity; expected regression with sigmoid"):
        Scorer(bundle, "cpu")
    other = with_outputs(tmp_path / "other", SIMILARITY)

    def change(model: Any) -> None:
        for entry in model.metadata_props:
            if entry.key == "bertnli.activation":
                entry.value = "identity"

    edit_graph(other, change)
    with pytest.raises(InputError, match="another activation than in its graph's own metadata"):
        Scorer(other, "cpu")


def test_a_bundle_of_before_gives_one_of_several_labels(tmp_path) -> None:
    bundle = with_outputs(tmp_path / "bundle", Outputs(("yes", "no")))

    def change(model: Any) -> None:
        kept = [
            entry for entry in model.metadata_props if entry.key not in ("bertnli.problem_type", "bertnli.activation")
        ]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    edit_graph(bundle, change)
    edit_manifest(bundle, lambda content: [content.pop(key) for key in ("problem_type", "activation")])
    edit_manifest(bundle, lambda content: content["parity"].pop("score_error"))
    assert Bundle.open(bundle).outputs == Outputs(("yes", "no"))
    assert {one.label for one in Scorer(bundle, "cpu").score(PAIRS)} == {"yes", "no"}


# --- the gate


def test_the_gate_compares_scores_by_their_spread(bundles) -> None:
    draw = np.random.default_rng(0)
    expected = draw.normal(scale=100, size=(500, 1)).astype(np.float32)
    for outputs in (RERANKER, SIMILARITY, Outputs(("a", "b"), "multi_label_classification", "sigmoid")):
        scale = 0.01 if outputs.activation == "sigmoid" else 1.0
        logits = np.repeat(scale * expected, len(outputs.names), axis=1)
        noise = draw.normal(size=logits.shape).astype(np.float32)
        for share, passes in ((0.01, True), (0.3, False)):
            figures = Differences(outputs)
            figures.add(logits + share * logits.std() * noise, logits)
            assert figures.score_error == pytest.approx(share, rel=0.3)
            assert (figures.label_flips > 0) == (outputs.problem_type != "regression")
            if passes:
                figures.check("int8", "it")
            else:
                with pytest.raises(
                    RunError, match=r"scores differ by .*% of their standard deviation, 10\.00% is allowed"
                ):
                    figures.check("int8", "it")


def test_the_limits_of_a_score_go_with_its_unit() -> None:
    """Rounding in fp32 is a share of a value, and a score may be in percent."""
    expected = np.random.default_rng(0).normal(size=(500, 1)).astype(np.float32)
    for unit, passes in ((100, True), (1, False)):
        figures = Differences(RERANKER)
        figures.add(unit * expected + 2e-3, unit * expected)
        if passes:
            figures.check("fp32", "it")
        else:
            with pytest.raises(RunError, match=r"a logit is 0\.002, 0\.0001 is allowed"):
                figures.check("fp32", "it")


def test_the_gate_counts_the_flips_of_every_independent_label() -> None:
    figures = Differences(Outputs(("a", "b"), "multi_label_classification", "sigmoid"))
    figures.add(np.array([[1.0, -1.0]] * 4, np.float32), np.array([[1.0, 1.0]] * 4, np.float32))
    assert figures.label_flips == 4
    with pytest.raises(RunError, match="4 of 8 built-in pairs' labels differ"):
        figures.check("int8", "it")


def test_scores_that_are_no_numbers_or_constant() -> None:
    figures = Differences(RERANKER)
    figures.add(np.array([[np.nan]], np.float32), np.array([[1.0]], np.float32))
    with pytest.raises(RunError, match="does not compute"):
        figures.check("int8", "it")
    figures = Differences(RERANKER)
    figures.add(np.full((9, 1), 3.0000002, np.float32), np.full((9, 1), 3.0, np.float32))
    figures.check("fp32", "it")


def test_verify_on_this_machine(bundles, tmp_path) -> None:
    for outputs in (RERANKER, INDEPENDENT):
        assert verify(bundles[outputs], device="cpu")["score_error"] < 1e-4
    bundle = with_outputs(tmp_path / "bundle", RERANKER)

    def change(model: Any) -> None:
        """Another logit than its checkpoint's."""
        [kept] = [each for each in model.graph.initializer if each.name == "kept"]
        kept.raw_data = np.array([1]).tobytes()

    edit_graph(bundle, change)
    with pytest.raises(RunError, match=r"does not compute what its checkpoint computes: .*scores differ by"):
        verify(bundle, device="cpu")


def test_a_column_of_scores_is_the_gold_of_a_model_that_gives_a_score(bundles, tmp_path) -> None:
    lines = [{"query": one, "passage": other, "score": number} for number, (one, other) in enumerate(PAIRS)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said: list[str] = []
    assert verify(bundles[RERANKER], tmp_path / "in.jsonl", device="cpu", say=said.append)["rows"] == len(PAIRS)
    assert "column 'passage' is the hypothesis, column 'score' is the label" in said[0]
    score_file(bundles[RERANKER], tmp_path / "in.jsonl", tmp_path / "out.jsonl", prefix="our_")
    logits = Scorer(bundles[RERANKER], "cpu").logits(*zip(*PAIRS, strict=True))
    scores = [json.loads(line)["our_score"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert np.allclose(scores, logits[:, 0], rtol=1e-5)


def test_real_rows_of_a_gate_need_no_labels_that_the_model_knows(tmp_path) -> None:
    rows = [{"premise": one, "hypothesis": other, "label": "3.8"} for one, other in PAIRS[:4]]
    for outputs in (RERANKER, INDEPENDENT):
        assert RealRows.read(rows_file(tmp_path, rows), outputs).gold.tolist() == [-1] * 4


def test_triton_has_label_names_for_labels_only(tmp_path) -> None:
    for outputs, expected in ((RERANKER, False), (INDEPENDENT, True)):
        folder = tmp_path / str(expected)
        folder.mkdir()
        (folder / "model.onnx").touch()
        triton.arrange_files(folder, outputs, "fp32")
        assert (folder / "labels.txt").exists() == expected
        assert ("label_filename" in (folder / "config.pbtxt").read_text()) == expected
        assert f"dims: [ {len(outputs.names)} ]" in (folder / "config.pbtxt").read_text()
