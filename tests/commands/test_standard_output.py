"""Every command does its work, also where standard output cannot be written or lacks a character of what it shows."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from bertnli_export import build
from bertnli_export.output_file import StandardOutput

from bertnli import cli
from bertnli.commands.eval import evaluation
from bertnli.common import standard_streams
from bertnli.common.errors import InputError
from bertnli.common.temperature import Calibration
from bertnli.train import loop
from tests.commands.test_eval import reader
from tests.evaluation.test_calibrate import too_sure
from tests.evaluation.test_evaluate import LABELS, random_rows, write
from tests.support import tiny

COMMANDS = {
    "fetch": ["--list"],
    "doctor": [],
    "eval": ["bündel…", "pairs.jsonl", "--report", "ü…"],
    "verify": ["bündel…"],
    "score": ["bündel…", "pairs.jsonl", "ü….tsv"],
    "export": ["model", "ü…"],
    "train": ["run.yaml", "--json"],
}
MADE = {"eval": ["ü…/report.html", "ü…/evaluation.json"], "score": ["ü….tsv"]}
SHOWN = {"eval": "accuracy: ", "score": "output: \\xfc\\u2026.tsv", "export": "\\xfc\\u2026", "train": "\\xfc\\u2026"}
TROUBLES = {"a full disk": 1, "a closed pipe": 0, "ASCII": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    tiny.hf_folder(folder / "model")
    (folder / "bündel…").symlink_to(tiny.bundle())
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tiny.snli_rows(32)))
    (folder / "run.yaml").write_text("{model: model, data: {train: pairs.jsonl}, output: ü…, epochs: 1}", "utf-8")
    return folder


@pytest.fixture(autouse=True)
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports and trainings take long, and other tests do them."""
    done = {"model": "ü…", "bundle": "ü…", "steps": 1, "pairs_per_second": 1.0, "next": "it"}
    monkeypatch.setattr(build, "export_bundle", lambda *_, **__: done)
    monkeypatch.setattr(loop, "train", lambda *_, **__: done)
    monkeypatch.setattr(loop, "ProcessGroup", lambda: SimpleNamespace(rank=0, close=lambda: None))


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_command_does_its_work(
    made: Path,
    tmp_path: Path,
    name: str,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bertnli", name, *COMMANDS[name]])
    monkeypatch.setattr(cli, "not_ignored", lambda _: [])  # pytest's own signal handlers stay
    shown = Path("/dev/full") if trouble == "a full disk" else tmp_path / "shown"
    with shown.open("wb", buffering=0) as file:
        if trouble == "a closed pipe":
            reading, writing = os.pipe()
            os.close(reading)
            os.dup2(writing, file.fileno())
            os.close(writing)
        output = standard_streams._Descriptor(file.fileno())
        monkeypatch.setattr(standard_streams, "_output", output)
        like = io.TextIOWrapper(io.BytesIO(), encoding="ascii" if trouble == "ASCII" else "utf-8")
        monkeypatch.setattr(sys, "stdout", standard_streams._text(output, like))
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == TROUBLES[trouble], said
    assert ("standard output: cannot be written (No space left on device)" in said) == (trouble == "a full disk")
    for path in MADE.get(name, []):
        assert (tmp_path / path).is_file()
    if trouble == "ASCII":
        assert SHOWN.get(name, "") in shown.read_text("ascii")


def test_the_report_is_written_and_the_temperature_kept_before_anything_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unwritable(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no room")

    logits, gold = too_sure(3, 200)
    labels = [LABELS[index] for index in gold]
    held_out = write(tmp_path / "dev.tsv", list(zip(labels, logits.tolist(), strict=True))).name
    rows = write(tmp_path / "rows.tsv", random_rows(30)).name
    kept: list[Calibration] = []
    monkeypatch.setattr(sys, "stdout", Unwritable())
    with pytest.raises(OSError, match="no room"):
        evaluation("m", reader(), [rows], calibrate=held_out, keep=kept.append, report=tmp_path / "report")
    assert kept and (tmp_path / "report" / "report.html").is_file()


def test_scores_for_a_standard_output_that_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(InputError, match="standard output: it is closed; name a file"):
        StandardOutput()
