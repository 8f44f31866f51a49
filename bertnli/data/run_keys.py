"""The keys of a run file that a message about a data set names: `data.columns`, or `data.train.1.columns` of one of
several. Files are read far below what knows the run file, also by commands that have none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_DATA = "data"
_section: ContextVar[str] = ContextVar("section", default=_DATA)


@contextmanager
def keys_in(section: str) -> Iterator[None]:
    """Meanwhile messages name the keys in this section, such as `data.train.1`, the one of the set that is read."""
    before = _section.set(section)
    try:
        yield
    finally:
        _section.reset(before)


def run_key(name: str) -> str:
    """The key for a message. name: the key in the section `data`, such as `data.columns.label`."""
    return _section.get() + name.removeprefix(_DATA)


def in_run_file(name: str) -> str:
    """What follows an option in a message."""
    return f"(in a run file: {run_key(name)})"


def both_files(name: str) -> str:
    """As `run_key`, where the key may also have one value for each of the two files."""
    apart = ", with train: and eval: in it if these differ" if _section.get() == _DATA else ""
    return run_key(name) + apart
