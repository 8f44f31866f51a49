"""A lock is one process's; and on a file system without locks there is one rule for fetching, training and scoring."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from bertnli_export.output_file import PartialFile

from bertnli.common import locks
from bertnli.common.locks import Lock, held
from bertnli.fetch import cache
from bertnli.run.folder import RunFolder
from bertnli.run.run_file import validate_run


def test_a_second_one_waits_and_is_told(tmp_path):
    first, second, said = Lock(tmp_path / "lock"), Lock(tmp_path / "lock"), []
    first.acquire("waiting")
    with pytest.raises(TimeoutError):
        second.acquire("waiting", said.append, timeout=0.1)
    assert said == ["waiting"] and not second.held
    releasing = threading.Timer(0.2, first.release)
    releasing.start()
    second.acquire("waiting")
    releasing.join()
    assert second.held and not first.held
    second.release()
    with held(tmp_path / "lock", "waiting"):
        pass


def test_a_lock_file_that_its_holder_removes_is_made_again(tmp_path):
    path = tmp_path / "lock"
    first, second = Lock(path), Lock(path)
    first.acquire("waiting")
    descriptor = os.open(path, os.O_RDWR)  # as a process has it that waits
    path.unlink()
    first.release()
    second.acquire("waiting")
    assert os.path.samestat(path.stat(), os.fstat(second._descriptor))
    os.close(descriptor)


def lock_itself(folder: Path) -> None:
    with held(folder / "lock", "waiting"):
        pass


def fetching(folder: Path) -> None:
    with cache.lock("snli-test"):
        pass


def training(folder: Path) -> None:
    run = RunFolder(folder / "run")
    run.claim(validate_run({"model": "m", "data": {"train": "t"}, "output": str(run.path), "epochs": 1}, "run.yaml"))
    run.release()


def scoring(folder: Path) -> None:
    (folder / "in.tsv").touch()
    PartialFile(str(folder / "out.tsv"), str(folder / "in.tsv"), None).close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
@pytest.mark.parametrize("work", [lock_itself, fetching, training, scoring])
def test_without_locks_the_work_goes_on_and_it_is_said_once(
    work: Callable[[Path], None], number, tmp_path, own_cache, monkeypatch, capsys
):
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(locks, "_told", set())
    work(tmp_path)
    work(tmp_path)
    said = capsys.readouterr().err
    assert said.count(f"its file system has no locks ({os.strerror(number)}); bertnli continues") == 1
    assert len(said.splitlines()) == 1


def test_other_errors_are_errors(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"):
        lock_itself(tmp_path)
