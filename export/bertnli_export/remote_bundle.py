"""A bundle elsewhere, by the URL of its folder: its manifest is read first, and then the files that it names."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from bertnli.common.errors import InputError, first_line
from bertnli.common.files import cache_dir, new_folder
from bertnli.common.locks import held
from bertnli.common.progress import say
from bertnli.common.urls import has_secret, redact
from bertnli.fetch.remote_files import local_copy
from bertnli_export.manifest import MANIFEST, manifest_bytes, parse_manifest


def local_bundle(url: str) -> Path:
    """The folder of a copy in the cache, which is one for all URLs of the same bundle. `Bundle` checks its files.

    Raises InputError if there is no bundle, or if the URL has a secret: it is that of several files, and is recorded;
    RunError as `local_copy` does.
    """
    if has_secret(url):
        expected = "credentials in the environment"
        raise InputError(f"{redact(url)}: a user, a password or a query in the URL of a bundle", expected=expected)
    base = url.rstrip("/")
    where = local_copy(f"{base}/{MANIFEST}")
    raw = manifest_bytes(where)
    folder = cache_dir() / "bundles" / hashlib.sha256(raw).hexdigest()[:32]
    if folder.exists():
        return folder
    copies = {name: local_copy(f"{base}/{name}") for name in parse_manifest(raw, where).files}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with held(folder.with_suffix(".lock"), f"waiting for another copy of {base}", say):
            if not folder.exists():
                with new_folder(folder) as partial:
                    for name, copy in copies.items():
                        (partial / name).parent.mkdir(parents=True, exist_ok=True)
                        _take(copy, partial / name)
                    (partial / MANIFEST).write_bytes(raw)
    except OSError as error:
        do = "make room, or set BERTNLI_CACHE to a folder on another disk"
        raise InputError(f"{folder}: cannot be written ({first_line(error)})", do=do) from None
    return folder


def _take(copy: Path, target: Path) -> None:
    """The same bytes under another name: a copy is never written again, only replaced."""
    try:
        os.link(copy, target)
    except OSError:
        shutil.copyfile(copy, target)
