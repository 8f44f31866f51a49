"""The key of a job: a secret that its watchers share, and that nobody else can read.

It is in a file of mode 600 beside the ranks' logs, on the storage that all ranks share, and never on a command line.
With it the watchers know each other (channel.py), and `bertnli launch` knows their reports (report.py). Whoever can
write to the run's folder is trusted: the checkpoints are there, too.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from bertnli.watch.rank_env import Rank


@dataclass(frozen=True)
class Key:
    """The secret, and the port on which rank 0's watcher listens (0: it does not listen yet)."""

    secret: bytes
    port: int = 0


def new_key() -> Key:
    return Key(secrets.token_bytes(32))


def key_file(folder: Path, rank: Rank) -> Path:
    """A job of `bertnli launch` has a file of its own; others that use one folder have one for each master's port."""
    return key_file_of(folder, rank.job or rank.master_port)


def key_file_of(folder: Path, job: str) -> Path:
    return folder / f".key-{re.sub('[^A-Za-z0-9_-]', '_', job)[:100]}"


def write_key(path: Path, key: Key) -> None:
    """Write it for this user alone, in one step; what is there is replaced. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"secret": key.secret.hex(), "port": key.port}, file)
    temporary.replace(path)


def read_key(path: Path) -> Key | None:
    """None if there is no such file yet. Raises OSError if there is one that this user cannot read."""
    # Looked up only after it is listed: an NFS client remembers for a minute that a name was not there.
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        if path in path.parent.iterdir():
            content = json.loads(path.read_bytes())
            return Key(bytes.fromhex(content["secret"]), int(content["port"]) % 2**16)
    return None


def signature(secret: bytes, *parts: str | bytes) -> str:
    """HMAC-SHA256 of `parts`, as hexadecimal digits. The first part says what is signed."""
    signed = hmac.new(secret, digestmod="sha256")
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        signed.update(len(content).to_bytes(8, "big") + content)
    return signed.hexdigest()
