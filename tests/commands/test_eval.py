"""`bertnli eval` as a whole: what is wrong is said before the work, and what was found is not lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bertnli import cli
from bertnli.commands.eval import evaluation
from bertnli.common.errors import InputError, RunError
from bertnli.common.temperature import Calibration
from tests.conftest import Run
from tests.evaluation.test_calibrate import too_sure
from tests.evaluation.test_evaluate import LABELS, Reader, random_rows, write
from tests.support import tiny


def reader() -> Any:
    model = Reader()
    model.tokenizer = SimpleNamespace(settings=SimpleNamespace(reads_parse=False, hypothesis_only=False))  # type: ignore[attr-defined]
    return model


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return write(tmp_path / "rows.tsv", random_rows(30)).name


def test_every_set_is_looked_through_before_one_is_scored(rows: str, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.tsv", [*random_rows(2), ("neutrall", [0, 0, 0])]).name
    model = reader()
    with pytest.raises(InputError, match=r"bad\.tsv: labels .* row 3: label 'neutrall'.*--label-names"):
        evaluation("m", model, [rows, bad])
    assert model.calls == []
    with pytest.raises(InputError, match="neither an existing path nor a known name"):
        evaluation("m", model, ["nosuch.tsv"], report=tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("what", ["file", "run", "read-only"])
def test_a_report_that_cannot_be_is_told_before_the_work(
    rows: str, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, model = tmp_path / "report", reader()
    if what == "file":
        report.write_text("mine")
        message = r"--report .*report; found a file; expected a folder"
    else:
        report.mkdir()
        if what == "run":
            (report / "run.yaml").write_text("model: minilm\n")
            (report / "report.html").write_text("of the training")
            message = r"found a run's folder, which has its own report\.html; .*report/test"
        else:
            monkeypatch.setattr(os, "access", lambda path, mode: path != report)  # root may write anywhere
            message = "a folder without write permission"
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=message):
        evaluation("m", model, [rows], report=report)
    assert model.calls == []
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_figures_are_there_where_the_temperature_cannot_be_kept(
    rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logits, gold = too_sure(3, 200)
    held_out = write(
        tmp_path / "dev.tsv", [(LABELS[index], row.tolist()) for row, index in zip(logits, gold, strict=True)]
    ).name

    def full(fitted: Calibration) -> None:
        raise RunError("no room")

    with pytest.raises(RunError, match="no room"):
        evaluation("m", reader(), [rows], calibrate=held_out, keep=full, report=tmp_path / "report")
    said = capsys.readouterr().out
    kept = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert f"a temperature of {kept['calibration']['temperature']:.4g} was fitted on 200 rows of {held_out}" in said
    assert "accuracy: " in said and "is stored" not in said
    fitted: list[Calibration] = []
    evaluation("m", reader(), [rows], calibrate=held_out, keep=fitted.append)
    assert [one.temperature for one in fitted] == [kept["calibration"]["temperature"]]
    assert f"the temperature, {fitted[0].temperature:.4g}, is stored in m" in capsys.readouterr().out


def test_how_many_pairs_there_are_is_shown(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation("m", reader(), [rows])
    assert "pairs 30/30 evaluated" in capsys.readouterr().err


def test_labels_that_are_numbers_are_given_names(command: Run, tmp_path: Path) -> None:
    """As in HF's copies of SNLI and MNLI: 0, 1, 2, and -1 where the annotators did not agree."""
    tiny.hf_folder(tmp_path / "model")
    named = tiny.snli_rows(60)
    numbers = {"entailment": "0", "neutral": "1", "contradiction": "2", "-": "-1"}
    for name, mapping in (("named", {}), ("numbered", numbers)):
        lines = (json.dumps(row | {"gold_label": mapping.get(row["gold_label"], row["gold_label"])}) for row in named)
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")

    def eval_(*arguments: object) -> Any:
        return command("eval", "model", *arguments, "--device", "cpu", "--json")

    refused = eval_("numbered.jsonl")
    assert refused.returncode == 2
    assert all(part in refused.stderr for part in ("--label-names", "0=LABEL", "1=LABEL", "2=LABEL"))
    advised = "--label-names 0=entailment,1=neutral,2=contradiction"
    expected, found = (
        json.loads(done.stdout.splitlines()[-1])
        for done in (eval_("named.jsonl"), eval_("numbered.jsonl", *advised.split()))
    )
    assert found["confusion"] == expected["confusion"] and found["rows"] == expected["rows"] < 60
    with pytest.raises(InputError, match="--label-names; found 0entailment; expected CELL=LABEL"):
        cli._mapping("--label-names", "1=neutral,0entailment")
    twice = eval_("numbered.jsonl", "--label-names", "0=entailment,1=neutral,0=contradiction")
    assert twice.returncode == 2 and "--label-names: a label twice; found '0'" in twice.stderr
