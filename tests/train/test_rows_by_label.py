"""No class is left out of training in silence: unknown labels are refused, and the rows are shown by label."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from bertnli.common.errors import InputError
from bertnli.run.run_file import load_run
from bertnli.train import loop as training
from bertnli.train.inputs import load_data, load_starting_model
from bertnli.train.process import _print_summary
from tests.support import tiny
from tests.support.runs import train

WORDS = ("maybe", "no", "yes")


def rows(path: Path, labels: list[str], hypothesis: str = "hypothesis") -> str:
    lines = [f"premise {number}\ta man {number}\t{label}\n" for number, label in enumerate(labels)]
    path.write_text("".join([f"premise\t{hypothesis}\tlabel\n", *lines]))
    return str(path)


def loaded(path: Path, *sets: str) -> tuple[Any, str]:
    config, lines = load_run(path, sets), []
    return load_data(config, load_starting_model(config), lines.append), "\n".join(lines)


@pytest.mark.parametrize("skip", [False, True])
def test_an_unknown_label_is_refused_with_its_rows_and_the_keys_that_help(tmp_path: Path, run: Any, skip: bool) -> None:
    file = rows(tmp_path / "a.tsv", ["entailment", "not_entailment", "not_entailment"] * 16)
    path = run(data={"train": file, "skip_bad_rows": skip})
    with pytest.raises(InputError, match=r"'not_entailment' \(32 rows\).*label_names.*labels: \[") as error:
        loaded(path)
    assert "skip" not in str(error.value)


def test_how_a_file_is_read_is_said_before_what_is_wrong_with_it(tmp_path: Path, run: Any) -> None:
    (tmp_path / "a.tsv").write_text('premise\thypothesis\tlabel\na b\tc d\t"neutral"\n')
    config, lines = load_run(run(data={"train": str(tmp_path / "a.tsv")})), list[str]()
    with pytest.raises(InputError, match="labels that the model does not know"):
        load_data(config, load_starting_model(config), lines.append)
    assert "--quoting csv" in "\n".join(lines)


def test_a_class_without_rows_is_told(tmp_path: Path, run: Any) -> None:
    path = run(data={"train": rows(tmp_path / "a.tsv", ["neutral", "entailment"])})
    assert "warning: " in loaded(path)[1] and "no row to train on has the label contradiction" in loaded(path)[1]


@pytest.mark.parametrize("names", ["{yes: entailment, maybe: neutral, no: contradiction}", "{yes: contradiction}"])
def test_yes_and_no_are_labels(tmp_path: Path, run: Any, names: str) -> None:
    path = run(data={"train": rows(tmp_path / "a.tsv", ["yes", "no", "maybe"] * 16)})
    if "maybe" not in names:
        with pytest.raises(InputError, match=r"found 'maybe' \(16 rows\), 'no' \(16 rows\)"):
            loaded(path, f"data.label_names={names}")
        return
    data, said = loaded(path, f"data.label_names={names}")
    assert len(data.train) == 48 and "16 entailment, 16 neutral, 16 contradiction" in said


def test_the_two_files_have_columns_and_labels_of_their_own(tmp_path: Path, run: Any) -> None:
    file = rows(tmp_path / "a.tsv", ["0.0", "1", "2"] * 4, "hypo")
    other = rows(tmp_path / "b.tsv", ["0", "1", "2", "-1"], "claim")
    path = run(data={"train": file, "eval": other, "columns": {"hypothesis": "hypo"}})
    first = "data.label_names={0: entailment, 1: neutral, 2: contradiction}"
    with pytest.raises(InputError, match=r"b\.tsv: no column 'hypo'.*data\.columns, with train: and eval: in it"):
        loaded(path, first)
    data, _ = loaded(
        path,
        "data.columns={train: {hypothesis: hypo}, eval: {hypothesis: claim}}",
        "data.label_names={train: {0: entailment, 1: neutral, 2: contradiction},"
        " eval: {0: contradiction, 1: neutral, 2: entailment}}",
    )
    assert data.corpus.labels.tolist() == [0, 1, 2] * 4
    assert data.evaluations["b.tsv"].corpus.labels.tolist() == [2, 1, 0]
    assert data.rows_by_label[f"data.eval: {other}"]["without a gold label"] == {"used": 0, "left out": 1}


def test_report_and_card_show_the_rows_by_label(
    tmp_path: Path, run: Any, ranks: training.ProcessGroup, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [*WORDS * 30, "-", ""]
    random.Random(0).shuffle(labels)
    file = Path(rows(tmp_path / "a.tsv", labels))
    file.write_text(file.read_text() + "\tno premise\tyes\n")
    tiny.hf_folder(tmp_path / "encoder", labels=None)
    path = run(data={"train": str(file), "eval": {"holdout": 12}, "skip_bad_rows": True}, labels=[*WORDS], max_steps=1)
    summary = train(path, ranks, model=tmp_path / "encoder", **{"data.max_train_pairs": 40})
    [found] = summary["rows_by_label"].values()
    assert sum(rows["trained on"] for rows in found.values()) == 40
    assert sum(rows["held out"] for rows in found.values()) == 12
    assert {label: sum(rows.values()) for label, rows in found.items()} == {
        "maybe": 30,
        "no": 30,
        "yes": 31,
        "without a gold label": 2,
    }
    shown = [f"| {label} | {' | '.join(map(str, rows.values()))} |" for label, rows in found.items()]
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert all(line in card for line in shown) and "| label | trained on | held out | left out |" in card
    assert "Rows by label" in (tmp_path / "run" / "report.html").read_text()
    _print_summary(summary, as_json=False)
    assert f"next: bertnli export {tmp_path}/run/model " in capsys.readouterr().out


def test_how_many_pairs_were_cut_is_said(tmp_path: Path, run: Any) -> None:
    lines = [f"{'a man is eating ' * 9 if number < 3 else 'a man'}\ta man\tneutral\n" for number in range(8)]
    (tmp_path / "a.tsv").write_text("".join(["premise\thypothesis\tlabel\n", *lines]))
    path = run(data={"train": str(tmp_path / "a.tsv")}, max_length=16, truncation="only_first")
    said = loaded(path)[1]
    assert f"{tmp_path / 'a.tsv'}: 3 of 8 pairs are longer than 16 tokens, and were cut (max_length)" in said
