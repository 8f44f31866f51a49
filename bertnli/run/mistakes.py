"""The mistakes in a run file: found one by one, reported together, so that one start shows them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bertnli.common.errors import InputError


class Contradiction(NamedTuple):
    """Values that are right alone and wrong together. keys: the run file's keys (dotted) that it depends on."""

    keys: tuple[str, ...]
    error: InputError


def refuse(mistakes: Sequence[InputError], where: str) -> None:
    """Raise a single mistake as it is, several as one InputError with a line for each. Without any it returns."""
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        lines = [f"  {str(mistake).removeprefix(f'{where}: ')}" for mistake in mistakes]
        raise InputError(f"{where}: {len(mistakes)} mistakes", lines=lines)
