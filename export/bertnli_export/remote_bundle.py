"""A bundle elsewhere, by the URL of its folder: its manifest is read first, and then the files that it names."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from bertnli.common.errors import InputError, first_line
from bertnli.common.files import cache_dir, digest, new_folder
from bertnli.common.locks import held
from bertnli.common.progress import say
from bertnli.common.urls import has_secret, redact
from bertnli.fetch.remote_files import local_copy
from bertnli_export.manifest import MANIFEST, manifest_bytes, parse_manifest


def local_bundle(url: str, *, fresh: bool = False) -> Path:
    """The folder of a copy in the cache, which is one for all URLs of the same bundle. `Bundle` checks its files.

    fresh: ask for every file whether it is still the one that the manifest names, even if there is a copy.

    Raises InputError if there is no bundle, if a file is not the one that the manifest names, or if the URL has a
    secret: it is that of several files, and is recorded; RunError as `local_copy` does.
    """
    base, where, raw = _manifest(url)
    folder = cache_dir() / "bundles" / hashlib.sha256(raw).hexdigest()[:32]
    if folder.exists() and not fresh:
        return folder
    copies = {}
    for name, entry in parse_manifest(raw, where).files.items():
        copies[name] = local_copy(f"{base}/{name}")
        found = digest(copies[name])
        if found != entry.sha256:
            raise InputError(
                f"{base}/{name}: not the file that was exported",
                found=f"SHA-256 {found}",
                expected=entry.sha256,
                do="copy the bundle there again",
            )
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


def manifest_sha256(url: str) -> str:
    """What `Bundle.sha256` is of the bundle at `url`, of which this reads the manifest alone. Raises as `local_bundle`
    does."""
    return hashlib.sha256(_manifest(url)[2]).hexdigest()


def _manifest(url: str) -> tuple[str, Path, bytes]:
    """The URL without a slash at its end, and the manifest's copy and content."""
    if has_secret(url):
        expected = "credentials in the environment"
        raise InputError(f"{redact(url)}: a user, a password or a query in the URL of a bundle", expected=expected)
    base = url.rstrip("/")
    where = local_copy(f"{base}/{MANIFEST}")
    return base, where, manifest_bytes(where)


def _take(copy: Path, target: Path) -> None:
    """The same bytes under another name: a copy is never written again, only replaced."""
    try:
        os.link(copy, target)
    except OSError:
        shutil.copyfile(copy, target)
