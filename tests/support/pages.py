"""What a page of Markdown shows: its code blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def blocks(page: Path, kind: str = r"\w+") -> list[str]:
    """The code blocks of a kind ("sh", "yaml", …), in order; a command over several lines is one line of its block."""
    return [re.sub(r" *\\\n *", " ", block) for block in re.findall(rf"```{kind}\n(.*?)```", page.read_text(), re.S)]


def commands(page: Path, program: str) -> list[list[str]]:
    """The words of every command in the page's shell blocks that begins with `program`."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]


def changed(block: str, changes: dict[str, str]) -> str:
    """The block as its reader changes it, who is told to where it says CHANGE."""
    assert "CHANGE" in block
    for old, new in changes.items():
        assert old in block, old
        block = block.replace(old, new)
    return block
