"""Reads a DeepSpeed configuration from its own file: JSON, or what DeepSpeed reads besides, such as comments."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertnli.common.encodings import read_text
from bertnli.common.errors import InputError


def read(path: str) -> dict[str, Any]:
    """The configuration in the file `path`, which is relative to the working folder, as other paths in a run file.

    Raises InputError if there is no such file, or if it is no JSON object, or has a key twice.
    """
    what = f"deepspeed: {path}"
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "no such file"
        raise InputError(what, found=found, expected="a DeepSpeed configuration in JSON, or a map of its keys")
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{what}: {error}", expected="a readable file in UTF-8") from None
    content = _parsed(text, what)
    if not isinstance(content, dict):
        raise InputError(what, found=type(content).__name__, expected="a JSON object: {…}")
    return content


def _parsed(text: str, what: str) -> Any:
    def without_doubled(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{what}: the key {doubled!r} a second time", do="remove one of the two")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=without_doubled)
    except RecursionError:
        raise InputError(f"{what}: nested too deeply") from None
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        problem = str(error)
    try:
        import hjson  # DeepSpeed's own reader, which comes with it
    except ImportError:
        raise InputError(f"{what}: not JSON: {problem}", do="fix it there") from None
    try:
        return hjson.loads(text, object_pairs_hook=without_doubled)
    except (hjson.HjsonDecodeError, RecursionError):
        raise InputError(f"{what}: not JSON: {problem}", do="fix it there") from None
