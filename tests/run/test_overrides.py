"""`--set`: which place of a run file it changes, and which keys it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertnli.common.errors import InputError
from bertnli.run.config import RunConfig
from bertnli.run.run_file import load_run

RUN = """
model: minilm
output: runs/x
epochs: 2
betas: [0.9, 0.99]
keep_layers: []
labels: [one, other]
data:
  train:
    - snli
    - {path: b.csv, columns: {label: y}}
"""


def load(tmp_path: Path, *sets: str, text: str = RUN) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_run(path, sets)


def test_a_number_is_a_place_in_a_list(tmp_path: Path) -> None:
    run = load(
        tmp_path,
        *("data.train.1.weight=0.5", "data.train.1.columns.label=yes", "data.train.0=mnli", "betas.1=0.98"),
        *("data.train.1.label_names.0=neutral", "labels.1=no"),
    )
    first, second = run.data.sources("train")
    assert (first.name, second.name, second.weight, run.betas) == ("mnli", "b.csv", 0.5, (0.9, 0.98))
    assert second.columns.label == "yes" and second.label_names == {"0": "neutral"} and run.labels == ("one", "no")


def test_a_list_in_a_deepspeed_file_has_places_too(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text('{"optimizer": {"type": "AdamW", "params": {"betas": [0.8, 0.9]}}}')
    text = RUN.replace("betas: [0.9, 0.99]", f"deepspeed: {tmp_path / 'ds.json'}")
    assert load(tmp_path, "deepspeed.optimizer.params.betas.0=0.7", text=text).betas == (0.7, 0.9)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("data.train.2.weight=1", "--set data.train.2.weight; found data.train, a list of 2; expected a place"),
        ("data.train.-1=mnli", "expected a place from 0 to 1 in it, such as data.train.0"),
        ("data.train.weight=2", "found data.train, a list of 2; expected a place from 0 to 1"),
        ("keep_layers.0=1", "found keep_layers, an empty list; to change its length, set all of keep_layers"),
        ("data.train.0.weight=2", "found data.train.0: snli, a text without keys; give all of it: --set 'data.tr"),
        ("data.train.1.0=2", "found data.train.1, a map with path, columns; expected a list"),
        ("data.eval.0=snli-dev", "found no list data.eval in the run file; expected a list; give all of it"),
        ("epochs.0=2", "found epochs: 2; expected a list"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(tmp_path: Path, assignment: str, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, assignment)
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_numbers_are_names_where_users_give_the_names(tmp_path: Path) -> None:
    run = load(tmp_path, "data.label_names.train.0=one", "loss.class_weights.0=2", "data.label_names.train.1=other")
    assert run.data.sources("train")[0].label_names == {"0": "one", "1": "other"}
    assert run.loss.class_weights == {"0": 2.0}


def test_a_text_that_is_short_for_a_map_is_kept(tmp_path: Path) -> None:
    run = load(tmp_path, "teacher.mix=0.2", "loss.label_smoothing=0.1", text=f"{RUN}teacher: large\nloss: bce\n")
    assert run.teacher is not None and (run.teacher.model, run.teacher.mix) == ("large", 0.2)
    assert (run.loss.kind, run.loss.label_smoothing) == ("bce", 0.1)
    assert load(tmp_path, "loss=mse", text=f"{RUN}loss: bce\n").loss.kind == "mse"


def test_an_alias_is_a_place_of_its_own(tmp_path: Path) -> None:
    text = RUN.replace("data:\n", "data:\n  columns: {train: &columns {label: y}, eval: *columns}\n  eval: dev.csv\n")
    data = load(tmp_path, "data.columns.train.premise=text", text=text).data
    assert data.columns_of("train").premise == "text" and data.columns_of("eval").premise is None
