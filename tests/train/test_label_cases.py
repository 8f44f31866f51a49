"""People's own files and run files with labels of many forms, where the folder of such cases is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.labelled import read_labelled
from bertnli.evaluation.data_sets import open_set
from bertnli.run.run_file import load_run
from bertnli.train.inputs import load_data, load_starting_model
from tests.support import tiny

ORDER = ("contradiction", "entailment", "neutral")  # of a model that has another order than any of the files
NUMBERS = {"0": "entailment", "1": "neutral", "2": "contradiction"}


@pytest.mark.parametrize(
    ("name", "sets", "expected"),
    [
        ("zh", [], r"'contradictory' \(16 rows\).*data\.label_names.*labels: \["),
        ("zh", ["data.label_names={contradictory: contradiction}"], 48),
        ("rte", [], r"'not_entailment' \(32 rows\).*labels: \["),
        ("rte", ["data.skip_bad_rows=true"], r"'not_entailment' \(32 rows\).*labels: \["),
        ("rte", ["labels=[entailment, not_entailment]"], 48),
        ("y", [], 48),
        ("fl", ["data.train=fl2.csv"], 48),
        ("x", ["data.train=hf.parquet"], 3),
        ("x", ["data.train=hf.csv"], r"0=LABEL,1=LABEL,2=LABEL"),
        ("xnli", [], r"no column 'hypo'.*data\.columns, with train: and eval:"),
        ("xnli", ["data.columns={train: {hypothesis: hypo}}"], 48),
        ("rte", ["data={train: stsb.tsv, columns: {label: score}}"], "real numbers"),
    ],
)
def test_a_run_trains_on_all_rows_or_on_none(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sets: list[str], expected: Any
) -> None:
    start = tiny.hf_folder(tmp_path / "start", labels=None)
    monkeypatch.chdir(cases)
    config = load_run(f"{name}.yaml", [f"model={start}", *sets])
    if isinstance(expected, int):
        assert len(load_data(config, load_starting_model(config), lambda line: None).train) == expected
        return
    with pytest.raises(InputError, match=expected) as error:
        load_data(config, load_starting_model(config), lambda line: None)
    assert "0=entailment" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "names"), [("float.csv", NUMBERS), ("hf.csv", NUMBERS), ("hf.parquet", {}), ("hf.parquet", NUMBERS)]
)
def test_numbers_mean_what_the_file_or_the_user_says(cases: Path, name: str, names: dict[str, str]) -> None:
    given = open_set(str(cases / name), label_names=names)
    pairs = read_labelled(given.file, ORDER, label_names=given.schema.label_names)
    assert [ORDER[pair.label] for pair in pairs] == ["entailment", "contradiction", "neutral"] and pairs.no_gold == 1
