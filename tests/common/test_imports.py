"""Imports without the garbage collector: it runs again afterwards, and what was imported is left alone."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertnli.common.imports import quick_imports


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module to import, `large_module`, which says whether the collector was on; none of the others is frozen."""
    (tmp_path / "large_module.py").write_text("import gc\nenabled = gc.isenabled()\nmade = [[]]\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    gc.unfreeze()
    sys.modules.pop("large_module", None)


def test_the_collector_rests_while_modules_are_imported_and_leaves_them_alone(module: None) -> None:
    gc.unfreeze()
    with quick_imports():
        import large_module  # type: ignore[import-not-found]
    assert not large_module.enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0
    assert not any(one is large_module.made for one in gc.get_objects())


def test_without_an_import_nothing_is_left_alone(module: None) -> None:
    """In a process that runs one command after the other, garbage must not pile up."""
    gc.unfreeze()
    with quick_imports():
        pass
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_the_collector_runs_again_after_an_error_and_stays_off_where_it_was(module: None) -> None:
    with pytest.raises(ImportError), quick_imports():
        import no_such_module  # type: ignore[import-not-found]  # noqa: F401
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            import large_module  # noqa: F401
        assert not gc.isenabled()
    finally:
        gc.enable()
