"""A rule that cuts one sentence only: kept in the bundle; a pair that it cannot cut is a bad row of every command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from bertnli_export.build import export_bundle
from bertnli_export.score import score_file as score
from bertnli_export.scorer import Scorer
from bertnli_export.verify import verify

from bertnli.common.errors import InputError
from bertnli.data.corpus import prepare
from bertnli.evaluation.data_sets import open_set

if TYPE_CHECKING:
    from bertnli.model.pretrained import Pretrained

LONG = "a man is eating " * 8
REFUSED = "the hypothesis alone fills the 16 tokens of a pair, and truncation only_first cuts only the premise"


@pytest.fixture(scope="module")
def source(tiny_source: Pretrained) -> Pretrained:
    return replace(tiny_source, tokenizer=tiny_source.tokenizer.changed(16, "only_first", 64))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [("a man", "a man"), (LONG, "a man"), ("a man", LONG), ("a dog", "a man"), (LONG, "a dog")]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"premise": one, "hypothesis": two, "label": "neutral"} for one, two in pairs]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def made(source: Pretrained, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("only-first") / "bundle"
    return folder, export_bundle(source, folder, verify_data=open_set(str(rows)))


def test_the_bundle_keeps_the_rule(made: tuple[Path, dict[str, object]], rows: Path) -> None:
    bundle, summary = made
    assert summary["truncated"] == 2 and summary["labelled_rows"] == 4  # the pair that cannot be cut is left out
    scorer = Scorer(bundle, "cpu")
    assert (scorer.tokenizer.max_length, scorer.tokenizer.settings.truncation) == (16, "only_first")
    assert [one.truncated for one in scorer.score([(LONG, "a man"), ("a", "a")])] == [True, False]
    with pytest.raises(InputError, match=f"a pair to score: {REFUSED}"):
        scorer.score([("a", "a"), ("a man", LONG)])
    assert verify(bundle, data=str(rows), device="cpu", skip_bad_rows=True)["truncated"] == 2


def test_a_row_that_cannot_be_cut_gets_an_error(
    made: tuple[Path, dict[str, object]], rows: Path, tmp_path: Path
) -> None:
    summary = score(made[0], rows, tmp_path / "out.jsonl", device="cpu")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["error"] for row in found] == [None, None, REFUSED, None, None]
    assert [row["truncated"] for row in found] == [False, True, False, False, True]
    assert found[2]["prediction"] is None and found[2]["p_neutral"] is None
    assert (summary["errors"], summary["truncated"]) == (1, 2)


def test_in_evaluation_it_is_a_bad_row(made: tuple[Path, dict[str, object]], rows: Path) -> None:
    scorer = Scorer(made[0], "cpu")
    with pytest.raises(InputError, match=f"1 bad row of 5; found row 3: {REFUSED}; .*--skip-bad-rows"):
        open_set(str(rows)).measure(scorer)
    found = open_set(str(rows)).measure(scorer, skip_bad_rows=True)
    assert (found["rows"], found["bad_rows"], found["truncated"], found["max_length"]) == (4, 1, 2, 16)


def test_in_training_it_is_a_bad_row(source: Pretrained, rows: Path) -> None:
    file, labels = open_set(str(rows)).file, source.config.labels
    with pytest.raises(InputError, match=f"1 bad row of 5; found row 3: {REFUSED}"):
        prepare(file, source.tokenizer, labels)
    corpus = prepare(file, source.tokenizer, labels, skip_bad_rows=True)
    assert (len(corpus), corpus.about["bad"], corpus.about["truncated"]) == (4, 1, 2)
    assert corpus.rows.tolist() == [1, 2, 4, 5]
