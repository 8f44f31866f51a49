"""The files of a folder elsewhere, by its URL, or those that a glob matches: `s3://bucket/in`, `s3://bucket/in/*.tsv`.

A store has no folders, only names with slashes in them. Some programs put an empty object where a folder would be.
"""

from __future__ import annotations

import glob
import posixpath
from typing import NamedTuple
from urllib.parse import urlsplit

from bertnli.common.errors import InputError, RunError
from bertnli.common.urls import redact
from bertnli.fetch.object_store import WEB, ObjectStore


class ListedFile(NamedTuple):
    """name: below the folder, with slashes. size: in bytes. is_dataset: it is a folder that `save_to_disk` made."""

    name: str
    size: int
    is_dataset: bool = False


class RemoteFolder:
    """The folder at `url`; of the URL of a file, or of a glob (`*`, `**`, `[…]`), the folder around what it matches.

    pattern: whether the URL may be a glob. base: the folder's URL, without a slash at the end. place: the given URL as
    the kind of its store and its path there. is_file: whether a file is there.

    Raises InputError for a web server, which cannot be listed, for a URL with a `#`, and as `ObjectStore` does;
    RunError if the store fails.
    """

    def __init__(self, url: str, *, pattern: bool):
        self.shown, self.base = redact(url), url.rstrip("/")
        if urlsplit(url).scheme.lower() in WEB:
            raise InputError(
                f"{self.shown}: a web server, whose files cannot be listed",
                expected="with --ray a folder, or the URL of one in a store: s3://, gs:// or az://",
                do="copy the files there, or score them one by one, without --ray",
            )
        if "#" in url:
            raise InputError(f"{self.shown}: a # in the URL of a folder", do="give it a name without #")
        self._store = ObjectStore(self.base)
        about = self._store.info()
        self.is_file = about is not None and about.get("type") != "directory"
        self._is_glob = pattern and about is None and glob.has_magic(self._store.path)
        self._size = int((about or {}).get("size") or 0)
        if self.is_file or self._is_glob:
            self.base = posixpath.dirname(self.base)
        while self._is_glob and glob.has_magic(self.base):
            self.base = posixpath.dirname(self.base)
        if not urlsplit(self.base).netloc:
            raise InputError(f"{self.shown}: names no bucket", expected="a URL as in s3://bucket/in/*.parquet")
        self._path = ObjectStore(self.base).path.rstrip("/")
        self.place = self._store.kind.module, self._store.path

    def files(self) -> list[ListedFile]:
        """By name; none if there is no such folder. Raises InputError and RunError."""
        if self.is_file:
            return [ListedFile(posixpath.basename(self._store.path), self._size)]
        try:
            found = self._store.ask("glob" if self._is_glob else "find", self._store.path, detail=True)
        except FileNotFoundError:
            return []
        files = []
        for path, about in sorted(found.items()):
            if about.get("type") == "file" and path.rstrip("/") != self._path:
                if not path.startswith(f"{self._path}/"):
                    raise RunError(f"{self.shown}: the store lists {path}, which is not in it")
                files.append(ListedFile(path.removeprefix(f"{self._path}/"), int(about.get("size") or 0)))
        folders = {parent for file in files for parent in _parents(file.name)}
        return [file for file in files if file.size or file.name.rstrip("/") not in folders]

    def url_of(self, name: str) -> str:
        """Of a file in it. Raises InputError for a name that no URL has."""
        for character in "#?":
            if character in name:
                raise InputError(f"{self.base}/{name}: a {character} in its name", do="give it another name")
        return f"{self.base}/{name}"

    def place_of(self, name: str) -> tuple[str, str]:
        """Of a file in it."""
        return self._store.kind.module, f"{self._path}/{name}"


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
