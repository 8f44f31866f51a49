"""Random damage to one of a command's files, as disks, people and other programs do it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path


def files_below(folder: Path, *, without: Iterable[str] = ()) -> list[Path]:
    """Its files in a fixed order; lock files and those with a part of their path in `without` are left out."""
    left_out = {*without}
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(".lock") and not left_out.intersection(path.parts)
    )


def damage(draw: random.Random, files: list[Path]) -> str:
    """Damage one of `files`; returns what was done. Without any it does nothing."""
    if not files:
        return "no file to damage"
    path = draw.choice(files)
    content = path.read_bytes()
    kind = draw.choice(["truncated", "flipped", "emptied", "removed", "replaced", "zeroed"])
    if kind == "removed" or not content:
        path.unlink()
        return f"{path.name} removed"
    if kind == "truncated":
        os.truncate(path, draw.randrange(len(content)))
    elif kind == "emptied":
        os.truncate(path, 0)
    else:
        changed = bytearray(content)
        if kind == "flipped":
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        elif kind == "zeroed":
            begin = draw.randrange(len(changed))
            changed[begin : begin + 4096] = bytes(len(changed[begin : begin + 4096]))
        else:
            changed = bytearray(draw.randbytes(len(changed)))
        path.write_bytes(changed)
    return f"{path.name} {kind}"
