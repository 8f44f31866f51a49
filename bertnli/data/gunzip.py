"""Gzip data as gunzip reads it: one member after another. Other bytes after the last member are left out."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from typing import Any

_MAGIC = b"\x1f\x8b"


class Gunzip:
    """Decompresses `raw`, a binary file. `on_rest` is called if other bytes follow the last member."""

    def __init__(self, raw: Any, on_rest: Callable[[], None]):
        self._raw, self._on_rest = raw, on_rest
        self._start = b""
        source: Any = self
        self._file: gzip.GzipFile | None = gzip.GzipFile(fileobj=source)

    def read1(self, size: int) -> bytes:
        """At most `size` bytes, and what is decoded so far before it reaches damaged bytes; b"" at the end.

        Raises OSError, EOFError or zlib.error for bytes that are damaged or incomplete.
        """
        try:
            return b"" if self._file is None else self._file.read1(size)
        except gzip.BadGzipFile as error:
            # A file without any gzip data gives the same error, so its first bytes decide.
            if self._start != _MAGIC or not str(error).startswith("Not a gzipped file"):
                raise
            self._file = None
            self._on_rest()
            return b""

    def read(self, size: int) -> bytes:
        """Compressed bytes, for GzipFile."""
        data: bytes = self._raw.read(size)
        if len(self._start) < len(_MAGIC):
            self._start = (self._start + data)[: len(_MAGIC)]
        return data
