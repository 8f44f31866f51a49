"""The line in which a watcher tells `bertnli launch` how the job ended. It stands among the ranks' output.

Output can contain anything, also such a line. So the line is signed with the job's key, which the output does not have.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import re
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from bertnli.watch.ending import CHECKED, Ending
from bertnli.watch.key import signature

MARK = "bertnli-ending: "
"""Begins the report, on its line."""
_BEGINNING = re.compile(MARK + "([0-9a-f]{64}) ")


@dataclass(frozen=True)
class Report:
    """rank: the watcher's. shown: rank 0 has printed the error already."""

    __pydantic_config__ = CHECKED

    ending: Ending
    rank: int
    shown: bool


def to_line(report: Report, secret: bytes) -> str:
    text = json.dumps(asdict(report))
    return f"{MARK}{signature(secret, 'report', text)} {text}"


def from_line(line: str, secret: bytes) -> Report | None:
    """The report that a line of output ends in; None if it has none that was made with this secret."""
    for found in _BEGINNING.finditer(line):  # what a rank printed last may have no line break
        text = line[found.end() :].rstrip("\r\n")
        if hmac.compare_digest(found[1], signature(secret, "report", text)):
            with contextlib.suppress(ValueError):
                return TypeAdapter(Report).validate_json(text, strict=True)
    return None
