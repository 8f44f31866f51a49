"""fsspec's store in memory, in place of an object store: `memory://bucket/name`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from bertnli.fetch import object_store, remote_files


@contextmanager
def memory_store(patch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty store, of small parts, whose failures are not waited for."""
    patch.setitem(object_store.STORES, "memory", object_store._Kind("fsspec", "MEMORY_KEY"))
    patch.setattr(remote_files, "_LARGEST_PART", 100_000)
    patch.setattr(object_store, "FIRST_PAUSE", 0.0)
    MemoryFileSystem.store.clear()
    try:
        yield fsspec.filesystem("memory")
    finally:
        MemoryFileSystem.store.clear()


def failing(patch: pytest.MonkeyPatch, method: str, failures: list[Any], sizes: list[int] | None = None) -> None:
    """Each call of the store takes one of `failures`: an exception, a value in place of its own, or None. sizes: those
    of the parts that are read."""
    original = getattr(MemoryFileSystem, method)

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if sizes is not None:
            sizes.append(options["end"] - options["start"])
        failure = failures.pop(0) if failures else None
        if isinstance(failure, BaseException):
            raise failure
        return original(self, *arguments, **options) if failure is None else failure

    patch.setattr(MemoryFileSystem, method, call)
