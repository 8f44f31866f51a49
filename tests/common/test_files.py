"""new_folder: complete and flushed when it has its name, or nothing at all; and where the cache is."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from bertnli.common import files
from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir, new_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    final, flushed = tmp_path / "made" / "final", []
    monkeypatch.setattr(files, "sync", lambda path: flushed.append((path.name, final.exists())))
    with new_folder(final) as partial:
        (partial / "below").mkdir()
        (partial / "below" / "a").write_text("1")
        assert partial.parent == final.parent and partial.name.startswith(".") and not final.exists()
    assert (final / "below" / "a").read_text() == "1"
    assert set(flushed) == {("below", False), ("a", False), (".final.partial", False), ("made", True)}


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), new_folder(tmp_path / "final", replace=True) as partial:
        (partial / "a").write_text("1")
        raise ValueError
    assert names(tmp_path) == []


@pytest.mark.parametrize("unique", [False, True])
def test_another_folder_is_replaced_only_where_that_is_asked_for(tmp_path, unique):
    (tmp_path / "final").mkdir()
    with new_folder(tmp_path / "final", unique=unique) as partial:  # an empty one is in nobody's way
        (partial / "old").write_text("1")
    with pytest.raises(OSError), new_folder(tmp_path / "final", unique=unique) as partial:
        (partial / "new").write_text("1")
    assert names(tmp_path) == ["final"] and names(tmp_path / "final") == ["old"]
    with new_folder(tmp_path / "final", replace=True, unique=unique) as partial:
        (partial / "new").write_text("1")
    assert names(tmp_path) == ["final"] and names(tmp_path / "final") == ["new"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    for left in (".final.partial", ".final.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").write_text("1")
    with new_folder(tmp_path / "final"):
        pass
    assert names(tmp_path) == ["final"] and names(tmp_path / "final") == []


def test_of_two_at_once_the_last_one_wins(tmp_path):
    with (
        new_folder(tmp_path / "final", unique=True, replace=True) as last,
        new_folder(tmp_path / "final", unique=True) as first,
    ):
        (first / "first").write_text("1")
        (last / "last").write_text("1")
    assert names(tmp_path) == ["final"] and names(tmp_path / "final") == ["last"]


def test_without_a_home_folder_the_cache_has_to_be_named(monkeypatch):
    def unknown(number: int) -> None:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "BERTNLI_CACHE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match=r"BERTNLI_CACHE; found neither it nor HOME, and .*; set it to one that you"):
        cache_dir()
    monkeypatch.setenv("BERTNLI_CACHE", "~/cache")
    with pytest.raises(InputError, match="BERTNLI_CACHE; found '~/cache'"):
        cache_dir()
    monkeypatch.setenv("BERTNLI_CACHE", "/shared/cache")
    assert cache_dir() == Path("/shared/cache")
