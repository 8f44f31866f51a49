"""The folder of a run: what its checkpoints are called, and which are there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from bertnli.common.errors import InputError
from bertnli.run.config import RunConfig
from bertnli.run.folder import RunFolder, read_metrics, step_folder, step_of, steps_in


def test_a_checkpoints_folder_is_named_by_its_step():
    assert step_folder(Path("checkpoints"), 200) == Path("checkpoints/step-00000200")
    assert step_of(Path("checkpoints/step-00000200")) == 200
    for other in ("step-200", "step-by-step", ".step-00000200.partial", "step-00000200.old", "model"):
        assert step_of(Path(other)) is None


def test_steps_are_in_order_and_only_those_that_have_a_folder(tmp_path):
    assert steps_in(tmp_path / "none") == []
    for step in (30, 5, 200, 7, 1000):
        step_folder(tmp_path, step).mkdir()
    step_folder(tmp_path, 6).touch()
    for other in ("step-200", "step-by-step", ".step-00000009.partial"):
        (tmp_path / other).mkdir()
    assert steps_in(tmp_path) == [5, 7, 30, 200, 1000]


ROWS = [{"step": step, "loss": 1.0 / step} for step in range(1, 6)]
LINES = [json.dumps(row).encode() for row in ROWS]


@pytest.mark.parametrize(
    ("content", "kept", "damaged"),
    [
        (b"\n".join(LINES) + b"\n", [1, 2, 3, 4, 5], 0),
        (b"", [], 0),
        (b"\n".join(LINES)[:-9], [1, 2, 3, 4], 0),  # a kill cut the last one short
        (b"\n".join([*LINES[:2], b"\xff\xfe\x00", *LINES[2:], b""]), [1, 2, 3, 4, 5], 1),
        (b"\n".join([b'"a"', b"[1]", b"3", b"null", *LINES, b""]), [1, 2, 3, 4, 5], 4),
        (b"\n".join([b'{"loss": 1.0}', b'{"step": "1"}', b'{"step": 1.5}', *LINES, b""]), [1, 2, 3, 4, 5], 3),
        (b"\n".join([b'{"step": 1, "loss": "high"}', b'{"step": 1, "loss": 1e999}', *LINES[1:], b""]), [2, 3, 4, 5], 2),
        (b"\n".join([b"[" * 100_000, b"1" * 10_000, *LINES, b""]), [1, 2, 3, 4, 5], 2),
        (b"\n".join([b'{"step": 1, "loss": 1%s}' % (b"0" * 400), b'{"step": NaN}', *LINES, b""]), [1, 2, 3, 4, 5], 2),
        (bytes(1000) + b"\n" + b"\n".join(LINES), [1, 2, 3, 4, 5], 1),
    ],
)
def test_damaged_lines_of_metrics_are_left_out(tmp_path, content, kept, damaged):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(content)
    assert read_metrics(path, said.append) == [row for row in ROWS if row["step"] in kept]
    assert said == ([f"{path}: {damaged} damaged lines are left out"] if damaged else [])


def test_without_a_file_there_are_no_metrics(tmp_path):
    assert read_metrics(tmp_path / "none") == read_metrics(tmp_path) == []


def test_a_folder_that_the_locale_cannot_name(tmp_path, monkeypatch):
    config = RunConfig(model="m", data={"train": "t"}, output=str(tmp_path / "ausgäbe"), epochs=1)
    RunFolder(config.output).check(config)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(InputError, match=r"ausgäbe: not a name of ASCII characters, .* iso8859-1; set PYTHONUTF8=1"):
        RunFolder(config.output).check(config)
    RunFolder(tmp_path / "plain").check(config)


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (
            {"loss": {"class_weights": {"a": 1.0, "b": 2.0}}},
            "loss.class_weights: 'balanced' there, {'a': 1.0, 'b': 2.0} now",
        ),
        ({"teacher": {"model": "t", "mix": 0.2}}, "teacher.mix: 0.5 there, 0.2 now"),
        ({"teacher": None}, "teacher: {'model': 't', 'temperature': 2.0, 'mix': 0.5} there, None now"),
        ({"data": {"train": ["a", "b"]}}, "data.train: 'a' there, ('a', 'b') now"),
        ({"seed": 3, "data": {"train": "b"}}, "data.train: 'a' there, 'b' now; seed: 0 there, 3 now"),
    ],
)
def test_a_run_with_other_settings_is_told_their_keys(tmp_path, changed, found):
    keys = {"model": "m", "output": str(tmp_path / "run"), "epochs": 1, "data": {"train": "a"}, "teacher": "t"}
    keys["loss"] = {"class_weights": "balanced"}
    folder = RunFolder(keys["output"])
    folder.claim(RunConfig.model_validate(keys))
    with pytest.raises(InputError) as raised:
        folder.check(RunConfig.model_validate(keys | changed))
    folder.release()
    assert f"unfinished run with other settings; found {found}; give the same" in str(raised.value)
