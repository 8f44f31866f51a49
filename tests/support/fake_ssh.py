"""An `ssh` that runs its command on this machine, for tests without a network; it can fail as the real one does.

Every host name (`a`, `b`, …) is this machine. `failing(folder, host, code, message)` makes a host fail as ssh would.
`before(folder, host, lines)` runs lines of shell there first, as a login script does.
"""

from __future__ import annotations

from pathlib import Path

_SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift 2; done
host=$1; shift
export SSH_CONNECTION="127.0.0.1 1 127.0.0.1 22"
if [ -e "$(dirname "$0")/$host.sh" ]; then . "$(dirname "$0")/$host.sh"; fi
exec sh -c "$*"
"""


def install(folder: Path) -> Path:
    """Write it; the folder to put first into PATH."""
    folder = folder / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(_SSH)
    (folder / "ssh").chmod(0o755)
    return folder


def before(folder: Path, host: str, lines: str) -> None:
    (folder / f"{host}.sh").write_text(lines + "\n")


def failing(folder: Path, host: str, code: int, message: str) -> None:
    before(folder, host, f"echo {message!r} >&2; exit {code}")
