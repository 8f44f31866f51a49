"""Files elsewhere, by URL: copied into the cache before they are read, and put there when they are complete.

Those of a store through object_store.py, `http://` and `https://` through download.py. A copy is kept, and used again
while the file has the same version (ETag, size). A server that fails or stalls ends in an error or in the whole file. A
file that changes while it is copied is an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from bertnli.common.errors import InputError, RunError, first_line
from bertnli.common.files import cache_dir, sync, write_text
from bertnli.common.locks import Lock, held
from bertnli.common.progress import progress, say
from bertnli.common.urls import redact, redacted
from bertnli.fetch.download import download, new_client
from bertnli.fetch.entry import SourceError
from bertnli.fetch.object_store import AGAIN, WEB, GivenUpError, ObjectStore, tried

_LARGEST_PART, _SMALLEST_PART = 8 << 20, 64 << 10  # bytes of one request
_TAGS = ("ETag", "etag", "generation", "blob_id", "LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True)
class Version:
    """What tells whether a file has changed. tag: its ETag, or what its store has instead; "" if it says nothing."""

    size: int | None
    tag: str


class RemoteFile(ABC):
    """The file at `url`. `shown`: the URL for messages and records, without secrets."""

    def __init__(self, url: str):
        self.url, self.shown = url, redact(url)
        self.name = posixpath.basename(unquote(urlsplit(url).path))
        if not self.name:
            raise InputError(f"{self.shown}: has no file name", expected="the URL of a file")

    @abstractmethod
    def version(self) -> Version | None:
        """Its version now; None if there is no such file. Raises InputError and RunError."""

    @abstractmethod
    def copy_to(self, target: Path, version: Version) -> None:
        """Copy the whole file to `target`, which continues an earlier try. Raises InputError and RunError."""


def remote_file(url: str) -> RemoteFile:
    """Raises InputError for a URL of another kind, or if the package for its kind is not installed."""
    scheme = urlsplit(url).scheme.lower()
    if scheme in WEB:
        return _WebFile(url)
    return StoredFile(url)


def local_copy(url: str) -> Path:
    """The path of a copy of the file at `url`, in the cache. It has the name of the file.

    Raises InputError if there is no such file, if it may not be read, or if the cache cannot be written; RunError if
    the server fails, or if the file changes meanwhile.
    """
    file, folder = remote_file(url), _folder(url)
    target, note = folder / file.name, folder / ".version.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / ".lock", f"waiting for another copy of {file.shown}", say):
            version = file.version()
            if version is None:
                raise InputError(f"{file.shown}: no such file", do="give the URL of an existing file")
            if version.tag and _noted(note) == version and _size(target) == version.size:
                return target
            target.unlink(missing_ok=True)
            _check_room(folder, version, file.shown)
            file.copy_to(target, version)
            if version.size is not None and _size(target) != version.size:
                raise RunError(f"{file.shown}: {_size(target)} bytes came, expected {version.size}")
            if file.version() != version:
                target.unlink()
                raise RunError(
                    f"{file.shown}: was changed while it was read", do="start again when no program writes it"
                )
            write_text(note, json.dumps(asdict(version)))
            return target
    except OSError as error:
        raise _not_written(folder, error) from None


@contextmanager
def passing_copy(url: str, timeout: float) -> Iterator[None]:
    """Within the block, no other process on this machine that calls this uses the copy of the file at `url`. If the
    block succeeds, the copy is removed: where many files are read once each, they would fill the disk.

    timeout: seconds to wait for another process. Raises InputError after that, and if the cache cannot be written.
    """
    folder = _folder(url)
    lock = Lock(folder / ".use.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(f"waiting for another process that reads {redact(url)}", timeout=timeout)
    except TimeoutError:
        raise InputError(f"{redact(url)}: another process on this machine reads it", do="wait until it ends") from None
    except OSError as error:
        raise _not_written(folder, error) from None
    try:
        yield
        for path in folder.iterdir():
            if path.name not in (".lock", ".use.lock"):  # another process may wait for one
                path.unlink(missing_ok=True)
    finally:
        lock.release()


def _not_written(folder: Path, error: OSError) -> InputError:
    do = "make room, or set BERTNLI_CACHE to a folder that you can write on another disk"
    return InputError(f"{folder}: cannot be written ({first_line(error)})", do=do)


def _folder(url: str) -> Path:
    """Of the copy."""
    return cache_dir() / "remote" / hashlib.sha256(url.encode()).hexdigest()[:32]


def _noted(note: Path) -> Version | None:
    try:
        return Version(**json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _check_room(folder: Path, version: Version, shown: str) -> None:
    free = shutil.disk_usage(folder).free
    if version.size is not None and version.size > free:
        raise InputError(
            f"{shown}: does not fit into the cache, {folder}",
            found=f"{free:,} bytes free",
            expected=f"{version.size:,}",
            do="make room, or set BERTNLI_CACHE to a folder on another disk",
        )


class _WebFile(RemoteFile):
    """At a web server. It cannot be written."""

    def version(self) -> Version | None:
        with new_client() as client:
            try:
                answer = tried(lambda: _not_failed(client.head(self.url, headers={"Accept-Encoding": "identity"})))
            except GivenUpError as error:
                raise RunError(f"{self.shown}: cannot be read: {error}", do=AGAIN) from None
        if answer.status_code in (404, 410):
            return None
        length = answer.headers.get("content-length", "")
        tag = answer.headers.get("etag") or answer.headers.get("last-modified") or ""
        # A server that does not answer HEAD, or not for a signed URL, may still give the file.
        return Version(int(length), tag) if answer.is_success and length.isdecimal() else Version(None, "")

    def copy_to(self, target: Path, version: Version) -> None:
        try:
            download(self.url, target, limit=shutil.disk_usage(target.parent).free, size=version.size)
        except SourceError as error:
            kind = InputError if str(error).startswith("HTTP 4") else RunError
            raise kind(f"{self.shown}: cannot be read: {redacted(str(error))}", do=AGAIN) from None


def _not_failed(answer: Any) -> Any:
    if answer.status_code >= 500 or answer.status_code == 429:
        raise OSError(f"HTTP {answer.status_code} {answer.reason_phrase}")
    return answer


class StoredFile(RemoteFile):
    """In an object store, which shows a file that is written only when it is complete."""

    def __init__(self, url: str):
        super().__init__(url)
        self.name = posixpath.basename(urlsplit(url).path)  # in a store a % is a character like any other
        self._store = ObjectStore(url)

    def version(self) -> Version | None:
        about = self._store.info()
        if about is None or about.get("type") == "directory":
            return None
        tag = next((str(about[key]) for key in _TAGS if about.get(key)), "")
        return Version(int(about["size"]), tag)

    def copy_to(self, target: Path, version: Version) -> None:
        part, note = target.with_name(f"{target.name}.part"), target.with_name(".part.json")
        if _noted(note) != version or not version.tag:
            part.unlink(missing_ok=True)
        write_text(note, json.dumps(asdict(version)))
        size, done = version.size or 0, _size(part) or 0
        with part.open("ab") as file, progress(f"fetching {self.name}:", size, start=done, in_bytes=True) as show:
            length = _LARGEST_PART

            def next_part() -> bytes:
                nonlocal length
                wanted = min(length, size - done)
                length = max(length // 4, _SMALLEST_PART)  # for the next try, if this one takes too long
                found: bytes = self._store.call("cat_file", self._store.path, start=done, end=done + wanted)
                if len(found) != wanted:
                    raise OSError(f"{len(found)} bytes came, expected {wanted}")
                length = min(length * 8, _LARGEST_PART)
                return found

            while done < size:
                try:
                    data = self._store.tried(next_part)
                except FileNotFoundError:
                    raise RunError(f"{self.shown}: was removed while it was read") from None
                file.write(data)
                done += len(data)
                show(done, "")
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
        note.unlink()
        sync(target.parent)

    def read(self, limit: int) -> bytes | None:
        """The content of a small file; None if there is none. Raises InputError if it has more than `limit` bytes."""
        version = self.version()
        if version is None:
            return None
        if (version.size or 0) > limit:
            raise InputError(f"{self.shown}: too large", found=f"{version.size:,} bytes", expected=f"at most {limit:,}")
        found: bytes = self._store.ask("cat_file", self._store.path)
        return found

    def put(self, local: Path) -> Version:
        """Put a file there, in place of what is there: whole, or not at all. Raises InputError and RunError."""
        return self._put(local.stat().st_size, "put_file", str(local), self._store.path)

    def put_bytes(self, content: bytes) -> Version:
        """The same for a small file with this content."""
        return self._put(len(content), "pipe_file", self._store.path, content)

    def _put(self, size: int, method: str, *arguments: Any) -> Version:
        def put_and_look() -> Version:
            self._store.call(method, *arguments, size=size)
            found = self.version()
            if found is None or found.size != size:
                raise OSError(f"{None if found is None else found.size} bytes are there, expected {size}")
            return found

        return self._store.tried(put_and_look)

    def remove(self) -> None:
        """Remove it, if it is there. Raises InputError and RunError."""
        with contextlib.suppress(FileNotFoundError):
            self._store.ask("rm_file", self._store.path)
