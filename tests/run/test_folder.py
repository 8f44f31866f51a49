"""The folder of a run: what its checkpoints are called, and which are there."""

from __future__ import annotations

from pathlib import Path

from bertnli.run.folder import step_folder, step_of, steps_in


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
