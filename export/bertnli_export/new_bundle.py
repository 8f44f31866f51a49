"""Where a bundle is written: the folder is checked before the work starts, and gets its name when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bertnli.common.errors import InputError
from bertnli.common.files import new_folder
from bertnli_export.bundle import contents
from bertnli_export.manifest import FORMAT, MANIFEST, manifest_bytes


@contextmanager
def new_bundle(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder, which is renamed to `out` if the block ends without error, and otherwise removed.

    The block fills it and calls `write_manifest` last. Raises InputError if `out` exists and is not empty. With
    `force`, a bundle at `out` is replaced.
    """
    out = out.resolve()
    check_target(out, force=force)
    with new_folder(out, replace=force, unique=True) as folder:
        yield folder
        check_target(out, force=force)  # another process may have written there in the meantime


def check_target(out: Path, *, force: bool = False) -> None:
    """Raise InputError if a bundle cannot be written to `out`; called before the work starts."""
    check_outside(out)
    folder = out.resolve().parent  # of the temporary folder, too
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(
            f"{out}: cannot be written",
            found=f"{existing}, " + ("a folder without write permission" if existing.is_dir() else "a file"),
            do="give another OUT",
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    is_bundle = _is_bundle(out)
    if is_bundle and force:
        return
    raise InputError(
        f"{out}: exists already",
        found=contents(out),
        expected="a new or an empty folder",
        do="choose another, or replace the bundle with --force" if is_bundle else "choose another",
    )


def check_outside(path: Path) -> None:
    """Raise InputError if a file or folder at `path` would be inside a bundle, which would then be refused."""
    for folder in Path(os.path.realpath(path)).parents:
        if _is_bundle(folder):
            raise InputError(
                f"{path}: inside the bundle {folder}",
                expected="a place outside: a bundle may not have other files than its manifest names",
                do="give another path",
            )


def _is_bundle(folder: Path) -> bool:
    try:
        content = json.loads(manifest_bytes(folder / MANIFEST))
    except (OSError, ValueError, RecursionError):  # an InputError is a ValueError
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT
