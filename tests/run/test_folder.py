"""The folder of a run: what its checkpoints are called, and which are there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertnli.common.errors import InputError
from bertnli.run.config import RunConfig
from bertnli.run.folder import RunFolder, step_folder, step_of, steps_in


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


def test_a_folder_that_the_locale_cannot_name(tmp_path, monkeypatch):
    config = RunConfig(model="m", data={"train": "t"}, output=str(tmp_path / "ausgäbe"), epochs=1)
    RunFolder(config.output).check(config)
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(InputError, match=r"ausgäbe: not a name of ASCII characters, .* iso8859-1; set PYTHONUTF8=1"):
        RunFolder(config.output).check(config)
    RunFolder(tmp_path / "plain").check(config)
