"""The cache folder of fetched data sets and models: where each one is, whether it is complete, locks and receipts.

`datasets/NAME/`, `models/NAME/` and `hub/ORG/NAME/` each contain the files of an entry and a `receipt.json`; a model at
a revision that the user gave is in `hub/ORG/NAME@REVISION/`. Rows of a data set on the hub are in `hub-data/`.
`downloads/` contains archives and incomplete `.part` files; `locks/` contains one lock file for each name.
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from bertnli.common.errors import InputError
from bertnli.common.files import cache_dir, digest, new_folder, sync
from bertnli.common.locks import held
from bertnli.common.progress import say
from bertnli.fetch.catalog import CATALOG
from bertnli.fetch.entry import Entry

RECEIPT = "receipt.json"
LARGE = 1_000_000  # bytes, of a file of a model that is linked, not copied


def downloads_dir() -> Path:
    return cache_dir() / "downloads"


def folder_of(entry: Entry) -> Path:
    if entry.name in CATALOG:
        return cache_dir() / f"{entry.kind}s" / entry.name
    if entry.kind == "dataset":
        return cache_dir() / "hub-data" / quote(entry.name.removeprefix("hf:"), safe="@")
    repo, at, revision = entry.name.partition("@")
    return cache_dir() / "hub" / f"{repo}{at}{quote(revision, safe='')}"  # a branch's name may have slashes


def is_complete(entry: Entry) -> bool:
    """Whether the cache has all its files, as the receipt and the catalogue's current checksums describe them."""
    folder = folder_of(entry)
    try:
        recorded = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))["files"]
        return all(_is_as_recorded(folder / name, file) for name, file in recorded.items()) and all(
            name in recorded
            and checksum in (None, f"sha256:{recorded[name]['sha256']}", recorded[name].get("verified"))
            for name, checksum in entry.files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def _is_as_recorded(path: Path, file: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == file["size"] and digest(path) == file["sha256"]


@contextmanager
def lock(name: str) -> Iterator[None]:
    """The lock of the entry with that name; only one process holds it at a time."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"{name}: another process is fetching it; waiting for it"
    with held(folder / (name.replace("/", "--") + ".lock"), waiting, say):
        yield


class Origin(NamedTuple):
    """Where the files of an entry came from, in words, and their commit if it was the model hub."""

    source: str
    revision: str | None = None


def write_receipt(entry: Entry, folder: Path, origin: Origin) -> None:
    """Write receipt.json about the files in `folder`, which have just been verified."""
    files: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = {"size": path.stat().st_size, "sha256": digest(path)}
        known = entry.files.get(path.name)
        if known is not None and not known.startswith("sha256:"):
            files[path.name]["verified"] = known
    receipt = {
        "name": entry.name,
        "kind": entry.kind,
        "source": origin.source,
        "revision": origin.revision,
        "licence": entry.licence,
        "verified_by": entry.verified_by,
        "disclosure": entry.disclosure,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
    }
    (folder / RECEIPT).write_text(json.dumps(receipt, indent=2) + "\n", encoding="utf-8")


def commit_of(folder: Path, sha256: str) -> str | None:
    """The commit on the model hub that a fetched folder, or a copy of one, is from; None if it is not known.

    sha256: of the weights that are there now; other weights than those that were fetched have no commit.
    """
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        revision, files = receipt["revision"], receipt["files"]
        weights = [name for name in files if name.endswith((".safetensors", ".bin"))]
        same = files[weights[0]]["sha256"] == sha256 if len(weights) == 1 else False
        same = same or all(_is_as_recorded(folder / name, files[name]) for name in weights)  # several, or another note
        return revision if same and weights and isinstance(revision, str) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # as in is_complete
        return None


def kept_files(sha256: str) -> Iterator[Path]:
    """Files of models in the cache that had this checksum when they were fetched."""
    for receipt in (*cache_dir().glob(f"models/*/{RECEIPT}"), *cache_dir().glob(f"hub/*/*/{RECEIPT}")):
        try:
            files = json.loads(receipt.read_text(encoding="utf-8"))["files"]
            names = [name for name, file in files.items() if file["sha256"] == sha256]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # as in is_complete
            continue
        yield from (path for name in names if (path := receipt.parent / name).is_file())


def copy_to(path: Path, to: Path) -> Path:
    """Copy the file or folder into `to`, by hard links if the file system allows. Returns the path of the copy.

    Of a folder only large files are linked.

    Raises InputError if `to` already has a different file or folder with that name.
    """
    target = to.absolute() / path.name
    if target.exists():
        if not _same(path, target):
            raise InputError(
                f"--to {to}", found=f"a different {path.name} in it", do="remove that one, or give another folder"
            )
        return target
    if path.is_dir():
        with new_folder(target, unique=True) as partial:
            for file in path.iterdir():
                link_or_copy(file, partial / file.name, at_least=LARGE)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        link_or_copy(path, partial)
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _same(path: Path, other: Path) -> bool:
    if path.is_dir():
        return other.is_dir() and all(_same(file, other / file.name) for file in path.iterdir())
    return other.is_file() and filecmp.cmp(path, other, shallow=False)


def link_or_copy(source: Path, target: Path, at_least: int = 0) -> None:
    """Make a hard link to the file that `source` leads to, or a copy where that is not possible: another disk, another
    user's file, a file system without hard links. Smaller files than `at_least` bytes are copied: users edit them."""
    file = source.resolve(strict=True)
    try:
        if file.stat().st_size >= at_least:
            target.hardlink_to(file)
            return
    except OSError:
        pass
    shutil.copyfile(file, target)
