"""Folders and files that are written: complete and flushed when they have their name, or nothing at all; the cache."""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bertnli.common import exchange, files
from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir, kind_of, new_folder, open_own, read_map, read_own, write_text
from tests.conftest import environment


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


def _left_by_a_killed_process(final: Path) -> Path:
    left = final.with_name(f".{final.name}.0123abcd.partial")
    left.mkdir()
    (left / "half").write_text("1")
    return left


def test_the_next_one_clears_what_killed_ones_left_but_not_those_at_work(tmp_path):
    final = tmp_path / "final"
    _left_by_a_killed_process(final)
    others = [tmp_path / name for name in (".other.0123abcd.partial", ".final.mine.partial", "final.partial")]
    for other in others:
        other.mkdir()
    with new_folder(final, unique=True) as at_work:
        with new_folder(final, unique=True):
            pass
        assert at_work.is_dir()
        final.rmdir()
    assert names(tmp_path) == sorted(["final", *(other.name for other in others)])


def test_a_process_that_is_really_killed(tmp_path):
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from bertnli.common.files import new_folder
        with new_folder(Path(sys.argv[1], "final"), unique=True) as partial:
            (partial / "half").write_text("1")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], env=environment())
    assert killed.returncode == -signal.SIGKILL and len(names(tmp_path)) == 1
    with new_folder(tmp_path / "final", unique=True):
        pass
    assert names(tmp_path) == ["final"]


def test_on_a_file_system_without_locks_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    left = _left_by_a_killed_process(tmp_path / "final")
    with new_folder(tmp_path / "final", unique=True) as partial:
        (partial / "a").write_text("1")
    assert left.is_dir() and names(tmp_path / "final") == ["a"]
    write_text(tmp_path / "text", "1")
    assert (tmp_path / "text").read_text() == "1"


def test_a_new_folder_that_another_process_clears_at_this_moment_is_not_used(tmp_path, monkeypatch):
    locked: list[int] = []

    def held_by_another_at_first(descriptor):
        locked.append(descriptor)
        if len(locked) == 1:
            raise BlockingIOError

    monkeypatch.setattr(files, "try_lock", held_by_another_at_first)
    with new_folder(tmp_path / "final", unique=True) as partial:
        (other,) = set(tmp_path.iterdir()) - {partial}
        other.rmdir()
        (partial / "a").write_text("1")
    assert names(tmp_path / "final") == ["a"]


@pytest.mark.parametrize("unique", [False, True])
def test_there_is_a_folder_of_this_name_at_every_moment(tmp_path, monkeypatch, unique):
    final, seen = tmp_path / "final", []
    final.mkdir()
    (final / "old").write_text("1")

    def watched(call):
        def observe(*arguments):
            seen.append(names(final))
            result = call(*arguments)
            seen.append(names(final))
            return result

        return observe

    monkeypatch.setattr(files, "exchange", watched(files.exchange))
    for name in ("rename", "replace"):
        monkeypatch.setattr(Path, name, watched(getattr(Path, name)))
    with new_folder(final, replace=True, unique=unique) as partial:
        (partial / "new").write_text("1")
    assert seen == [["old"], ["new"]] and names(tmp_path) == ["final"]


def test_where_folders_cannot_be_exchanged_it_is_said(tmp_path, monkeypatch, capsys):
    final = tmp_path / "final"
    (final / "old").mkdir(parents=True)
    monkeypatch.setattr(files, "exchange", lambda *_: False)
    with new_folder(final, replace=True) as partial:
        (partial / "new").write_text("1")
    assert names(tmp_path) == ["final"] and names(final) == ["new"]
    assert "final: this file system cannot exchange folders, so for a moment" in capsys.readouterr().err


def test_one_that_was_killed_between_the_two_steps_is_there_again(tmp_path):
    (tmp_path / ".final.old" / "old").mkdir(parents=True)
    with pytest.raises(ValueError), new_folder(tmp_path / "final", replace=True):
        raise ValueError
    assert names(tmp_path) == ["final"] and names(tmp_path / "final") == ["old"]


def test_an_exchange_that_fails_says_so(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    with pytest.raises(FileNotFoundError, match="No such file"):
        exchange.exchange(tmp_path / "a", tmp_path / "b")
    for number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        monkeypatch.setattr(exchange.ctypes, "get_errno", lambda number=number: number)
        assert not exchange.exchange(tmp_path / "a", tmp_path / "b")


# --- files


def test_a_text_is_replaced_in_one_step_and_takes_over_what_a_killed_process_left(tmp_path):
    path = tmp_path / "record"
    write_text(path, "old")
    (tmp_path / ".record.partial").write_text("half of a text that is much longer")
    write_text(path, "new \udcff")
    assert path.read_text() == "new \\udcff" and names(tmp_path) == ["record"]


def test_two_that_write_one_text_take_turns(tmp_path, monkeypatch):
    path, whole = tmp_path / "record", {"1" * 100_000, "2" * 100_000}
    monkeypatch.setattr(files, "_WAIT", 0.001)
    threads = [threading.Thread(target=lambda text=text: [write_text(path, text) for _ in range(20)]) for text in whole]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in whole and names(tmp_path) == ["record"]


def test_a_temporary_file_that_another_process_has_published_meanwhile_is_not_written(tmp_path, monkeypatch):
    real, lost = files.open_own, tmp_path / "lost"

    def open_and_lose(path, flags):
        descriptor = real(path, flags)
        if not lost.exists():
            path.rename(lost)
        return descriptor

    monkeypatch.setattr(files, "open_own", open_and_lose)
    write_text(tmp_path / "record", "mine")
    assert lost.read_text() == "" and (tmp_path / "record").read_text() == "mine"


def test_one_that_stands_still_ends_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_WAIT", 0)
    held = open_own(tmp_path / ".record.partial", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(OSError, match="another process is writing it"):
        write_text(tmp_path / "record", "1")
    os.close(held)
    write_text(tmp_path / "record", "1")


def test_a_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".record.partial", "record"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(OSError, match="a symbolic link, which is not followed"):
        write_text(tmp_path / "record", "1")
    with pytest.raises(OSError, match="a symbolic link, which is not followed"):
        read_own(tmp_path / "record")
    (tmp_path / ".record.partial").unlink()
    write_text(tmp_path / "record", "1")
    assert victim.read_text() == "precious" and not (tmp_path / "record").is_symlink()
    (tmp_path / ".final.partial").symlink_to(tmp_path)
    with new_folder(tmp_path / "final") as partial:
        (partial / "victim").write_text("1")
    assert victim.read_text() == "precious"


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a file"):
        read_own(tmp_path / "pipe")
    assert kind_of(tmp_path / "pipe") == "a named pipe"
    with pytest.raises(files.InputError, match="pipe; found a named pipe; expected a JSON file"):
        read_map(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(files.InputError, match="loop: cannot be read; found Too many levels of symbolic links"):
        read_map(tmp_path / "loop")
    assert kind_of(tmp_path / "none") is None and read_map(tmp_path / "none") == {}
