"""The record of a teacher and its student: its table and its targets."""

from __future__ import annotations

from benchmarks import distill
from benchmarks.table import body
from benchmarks.targets import targets

RATES = {"teacher": [100.0, 50.0, 110.0], "taught": [190.0, 95.0, 198.0]}
RESULT = {
    "kind": "distill",
    "name": "distill",
    "work": {"test": "snli-test"},
    "options": {"student": distill.STUDENT},
    "runs": [
        {"how": "teacher", "seed": 0, "accuracy": 0.8},
        {"how": "taught", "seed": 0, "accuracy": 0.75},
        {"how": "alone", "seed": 0, "accuracy": 0.735},
    ],
    "mean": {"teacher": 0.8, "taught": 0.75, "alone": 0.735},
    "points_over_alone": 1.5,
    "scoring": {"fp32": RATES},
    "speed_up": {"fp32": distill._speed_up(RATES)},
}


def test_the_table_and_the_targets_are_of_the_record() -> None:
    lines = body(RESULT)
    assert "| 3 of its blocks, taught by it | 0.7500 | 0.7500 |" in lines
    assert "| fp32 | 100 | 190 | 1.90 x |" in lines
    assert [target.met for target in targets(RESULT)] == [True, True]
    assert not any(target.met for target in targets({**RESULT, "points_over_alone": 0.9, "speed_up": {"fp32": 1.7}}))
