"""What the Trainer and bertnli say of their own speed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import readme, reported
from benchmarks.table import body
from benchmarks.targets import targets
from tests.support import tiny
from tests.support.benchmarked import snli_file


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a machine that is half as fast in the second round."""
    rates = iter([50.0, 100.0, 150.0, 25.0, 50.0, 75.0])
    monkeypatch.setattr(reported, "_trainer", lambda peer: next(rates))
    monkeypatch.setattr(reported, "_bertnli", lambda given: next(rates))
    model = tiny.hf_folder(tmp_path / "tiny", max_positions=128)
    return reported.reported(tmp_path, str(model), str(snli_file(tmp_path, 400)), 64, 2, lambda line: None)


def test_ratios_are_of_a_round_and_in_the_table(result: dict[str, Any]) -> None:
    defaults, best, ours = result["peers"]
    assert best["bertnli_over_it"] == {"median": 1.5, "min": 1.5, "max": 1.5}
    assert defaults["bertnli_over_it"]["median"] == 3.0 and "bertnli_over_it" not in ours
    assert ours["runs"] == [150.0, 75.0] and "output" not in ours["options"]
    assert "| bertnli, ZeRO-0 | 112 (75.0 to 150) |  |" in body(result)
    assert [target.met for target in targets(result)] == [True, True]
    best["bertnli_over_it"]["median"] = 1.49
    assert [target.met for target in targets(result)] == [True, False]


@pytest.mark.parametrize(("over", "shown"), [(1.6, "1.50"), (1.4, "1.40")])
def test_the_readme_has_the_lower_of_two_ways(result: dict[str, Any], tmp_path: Path, over: float, shown: str) -> None:
    other = json.loads(json.dumps({**result, "name": "training-32"}))
    other["peers"][1]["bertnli_over_it"] = {"median": over, "min": over, "max": over}
    for one in (result, other):
        (tmp_path / f"{one['name']}.json").write_text(json.dumps(one))
    (row,) = [line for line in readme.headlines(tmp_path).splitlines() if line.startswith("| training")]
    assert row.endswith(f"| {shown} ({shown} to {shown}) x |")


@pytest.mark.system
@pytest.mark.timeout(300)
def test_both_programs_report_a_rate(tmp_path: Path) -> None:
    model = tiny.hf_folder(tmp_path / "tiny", max_positions=128)
    result = reported.reported(tmp_path, str(model), str(snli_file(tmp_path, 400)), 64, 1, lambda line: None)
    assert {peer["name"]: peer["per_second"]["median"] > 0 for peer in result["peers"]} == dict.fromkeys(
        ("trainer-defaults", "trainer-best", "bertnli"), True
    )
