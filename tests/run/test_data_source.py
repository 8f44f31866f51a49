"""Several data sets in a run file: which forms they have, what each set takes from `data`, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.data.columns import Columns
from bertnli.data.dialect import Dialect
from bertnli.run.config import RunConfig
from bertnli.run.data_config import Data
from bertnli.run.run_file import load_run

RUN = "model: minilm\noutput: runs/x\nepochs: 2\ndata:\n  train: snli-100k\n"


def load(tmp_path: Path, text: str, *sets: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return load_run(path, sets)


def sources(tmp_path: Path, *sets: str, file: Any = "train") -> Any:
    run = load(tmp_path, RUN, *sets)
    assert load(tmp_path, run.to_yaml()) == run
    return run.data.sources(file)


def test_one_data_set_in_each_of_its_forms(tmp_path: Path) -> None:
    [plain] = sources(tmp_path)
    assert (plain.key, plain.name, plain.title, plain.of, plain.weight) == (
        "data.train",
        "snli-100k",
        "snli-100k",
        None,
        1,
    )
    [alone] = sources(tmp_path, "data.train={name: snli-100k}")
    assert (alone.key, alone.name, alone.of) == ("data.train", "snli-100k", "name")
    [listed] = sources(tmp_path, "data.train=[snli-100k]")
    assert listed.key == "data.train.0" and listed.name == "snli-100k"
    assert sources(tmp_path, "data.eval={holdout: 9}", file="eval") == () == sources(tmp_path, file="eval")
    assert Data(train=({"path": "x.tsv"},)).sources("train")[0].name == "x.tsv"  # type: ignore[arg-type]  # from Python


def test_a_set_takes_from_data_what_it_does_not_say_itself(tmp_path: Path) -> None:
    first, second, third = sources(
        tmp_path,
        "data.train=[a/x.csv,"
        " {path: b/x.csv, columns: {label: yes}, label_names: {no: neutral, 1: entailment}, weight: 2},"
        " {path: c.tsv, delimiter: pipe, header: false, max_pairs: 5}]",
        "data.columns={hypothesis: claim}",
        "data.label_names={0: entailment}",
        "data.format={train: csv, eval: tsv}",
    )
    assert [one.title for one in (first, second, third)] == ["a/x.csv", "b/x.csv", "c.tsv"]
    assert first.columns == third.columns == Columns(hypothesis="claim")
    assert second.columns == Columns(label="yes")  # YAML would read yes as true
    assert first.label_names == {"0": "entailment"} and second.label_names == {"no": "neutral", "1": "entailment"}
    assert first.dialect == Dialect("csv") and third.dialect == Dialect("csv", "|", header=False)
    assert [(one.weight, one.max_pairs) for one in (first, second, third)] == [(1, None), (2, None), (1, 5)]


def test_evaluation_sets_have_keys_of_their_own(tmp_path: Path) -> None:
    dev, test = sources(tmp_path, "data.eval=[snli-dev, {path: x.tsv, columns: {label: gold}}]", file="eval")
    assert (dev.key, dev.name, test.key, test.columns.label) == ("data.eval.0", "snli-dev", "data.eval.1", "gold")


@pytest.mark.parametrize(
    ("sets", "titles"),
    [
        ("x.tsv, {path: x.tsv, columns: {hypothesis: other}}", ["x.tsv", "x.tsv (hypothesis other)"]),
        (
            "{path: a/x.tsv, columns: {premise: p, label: one}}, {path: a/x.tsv, columns: {premise: p, label: two}}",
            ["a/x.tsv (label one)", "a/x.tsv (label two)"],
        ),
        (
            "x.tsv, {path: x.tsv, max_pairs: 5, columns: {label: gold}}, y.tsv",
            ["x.tsv", "x.tsv (label gold, max_pairs 5)", "y.tsv"],
        ),
        ("x.tsv, {path: x.tsv, label_names: {a: neutral}}", ["x.tsv (1)", "x.tsv (2)"]),
    ],
)
def test_the_same_file_read_in_two_ways_has_two_names(tmp_path: Path, sets: str, titles: list[str]) -> None:
    assert [one.title for one in sources(tmp_path, f"data.train=[{sets}]")] == titles


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ("data.train=[]", "key data.train: found []; expected at least one name or path"),
        ("data.train=[snli, 3]", "key data.train.1: found 3; input should be text: put it in quotes"),
        ("data.train=[snli, [mnli]]", "key data.train.1: found ['mnli']; input should be one text, not a list"),
        ("data.train=[snli, {pth: x}]", "unknown key data.train.1.pth; did you mean data.train.1.path?"),
        ("data.train={wieght: 2, path: x}", "unknown key data.train.wieght; did you mean data.train.weight?"),
        ("data.train=[{path: x, weight: 0}]", "key data.train.0.weight: found 0; input should be greater than 0"),
        ("data.train=[{path: x, weight: yes}]", "key data.train.0.weight: found True; YAML reads yes"),
        ("data.train=[{weight: 2}]", "key data.train.0: found {'weight': 2}; expected path: or name:, one of the two"),
        ("data.train={path: x, name: y}", "expected path: or name:, one of the two"),
        ("data.train=[{path: x, delimiter: abc}]", "key data.train.0.delimiter: found 'abc'"),
        ("data.train=[{path: x, label_names: {1: a, 1.0: b}}]", "a label twice; found '1' and '1.0'"),
        ("data.train={holdout: 5}", "unknown key data.train.holdout"),
        ("data.eval=[snli-dev, {holdout: 5}]", "data.eval.1.holdout: rows are held out of all of data.train, so"),
        ("data.train=[a.csv, {path: ./a.csv, weight: 2}]", "data.train.1: ./a.csv a second time; give it once, with"),
        ("data.train=[{path: a.csv, columns: {}}, a.csv]", "data.train.1: a.csv a second time"),
        ("data.eval=[snli-dev, {name: snli-dev}]", "data.eval.1: snli-dev a second time; give it once"),
        ("data.train=[{name: snli, delimiter: tab}]", "delimiter is for files, and a set with name: is read as"),
        ("loss={class_weights: [1, 2]}", "expected balanced, or a map such as {one: 1.0, another: 2.5}"),
        ("loss={class_weights: {a: 1e-300, b: 1}}", "the weight of a is '1e-300'; expected a number from 1e-6 to 1e6"),
        ("teacher={model: m, temperature: 1e30}", "key teacher.temperature: found '1e30'; input should be less than"),
        ("report_to=[none, wandb]", "key report_to: found ['none', 'wandb']; none goes with no other name"),
        ("betas=[0.9, 0.99, 1]", "key betas: found [0.9, 0.99, 1]; input should be a list of 2"),
        ("data.eval=[{path: x, weight: 2}]", "unknown key data.eval.0.weight"),
        ("data.train=[snli, mnli, snli]", "data.train.2: snli a second time; give it once, with weight: 2"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, sets: str, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, RUN, sets)
    assert expected in str(raised.value) and "\n" not in str(raised.value)


def test_a_key_in_the_wrong_place_is_no_second_mistake(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        load(tmp_path, "model: m\noutput: o\nepochs: 1\ntrain: a.csv\nbetas: [9e-1, 0.99]\n")
    assert str(raised.value).endswith("run.yaml: unknown key train; did you mean data.train?")


def test_a_set_of_a_run_file_has_its_own_keys_or_those_of_data(tmp_path: Path) -> None:
    def sections(given: str) -> list[str]:
        return [one.section for one in sources(tmp_path, f"data.train={given}")]

    assert sections("a.csv") == ["data"] and sections("{path: a.csv}") == ["data.train"]
    assert sections("[a.csv, {path: b.csv}]") == ["data.train.0", "data.train.1"]
