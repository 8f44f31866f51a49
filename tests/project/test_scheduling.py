"""How `make test-system` shares the tests among its workers."""

from __future__ import annotations

from tests.conftest import pytest_xdist_make_scheduler


class Options:
    def __init__(self, dist: str):
        self.values = {"dist": dist, "tx": ["2*popen"]}

    def getvalue(self, name: str) -> object:
        return self.values[name]


def test_hosts_are_for_one_worker_and_other_files_are_on_their_own():
    scheduler = pytest_xdist_make_scheduler(Options("loadfile"), None)
    tests = (
        "tests/launch/test_a_system.py::test_a",
        "tests/launch/test_b_system.py::test_b",
        "tests/run/test_c.py::test_c",
    )
    assert [scheduler._split_scope(test) for test in tests] == ["hosts", "hosts", "tests/run/test_c.py"]
    assert pytest_xdist_make_scheduler(Options("load"), None) is None
