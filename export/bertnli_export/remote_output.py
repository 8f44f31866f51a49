"""An output elsewhere, by URL: made in the cache as any other output is, and put in its place when it is finished.

So a run that was killed goes on from its last checkpoint on the same machine, and the output appears whole or not at
all, with its record, `_OUTPUT.run.json`, beside it. The record names the version (ETag, size) of what was put there:
with it a finished output is recognised on any machine, and one that was changed is told. A record without a version is
put there first. It says that what lies beside it, if anything does, is to be replaced: by an upload that was killed, or
by a run with `--restart`, on whichever machine it is continued. Only one command at a time may make one output.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ParamSpec

from bertnli.common.errors import BertnliError, InputError, first_line
from bertnli.common.files import cache_dir
from bertnli.common.progress import say
from bertnli.common.urls import is_url
from bertnli.fetch.remote_files import StoredFile, Version, remote_file
from bertnli_export.output_file import partial_path
from bertnli_export.run_record import RESTART, Fingerprint, RunRecord, load, parse, record_path, resume

_Arguments = ParamSpec("_Arguments")
_LARGEST_RECORD = 1 << 20  # bytes
_VERSION = "version"  # in the summary that the record beside the output holds


class RemoteOutput(os.PathLike[str]):
    """The output at `url`; as a path, `local`: the place of its work, and of the finished output until it is put there.
    `shown`: the URL for messages and the summary.

    Raises InputError if nothing can be written to such a URL.
    """

    def __init__(self, url: str):
        file = remote_file(url)
        if not isinstance(file, StoredFile):
            raise InputError(
                f"{file.shown}: a web server, to which nothing is written", expected="s3://, gs:// or az://"
            )
        folder = cache_dir() / "outputs" / hashlib.sha256(url.encode()).hexdigest()[:32]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            do = "set BERTNLI_CACHE to a folder that you can write"
            raise InputError(f"{folder}: cannot be written ({first_line(error)})", do=do) from None
        self.shown, self.local = file.shown, folder / file.name
        self._file = file
        self._record = StoredFile(f"{url.rpartition('/')[0]}/{record_path(self.local).name}")

    def __fspath__(self) -> str:
        return str(self.local)

    def __str__(self) -> str:
        return self.shown

    def check_free(self) -> None:
        """Raise InputError if the output exists; called for a run without a record."""
        if self._file.version() is not None:
            raise InputError(f"{self.shown}: exists already", do=RESTART)

    def resume(self, fingerprint: Fingerprint) -> RunRecord:
        """As `run_record.resume` for the work that is here; without any, the finished run whose output is there, or a
        new one. Raises InputError as that does."""
        begun = load(self.local)
        if begun is not None and (begun.state != "running" or begun.counts.rows):
            record = resume(self.local, fingerprint)
            record.summary.pop(_VERSION, None)
            return record
        there = self._file.version()
        if there is None:
            return resume(self.local, fingerprint)
        content = self._record.read(_LARGEST_RECORD)
        if content is None:
            raise InputError(f"{self.shown}: exists, and no record says that bertnli made it", do=RESTART)
        record = parse(content.decode(errors="replace"), self.local, self._record.shown)
        version = record.summary.pop(_VERSION, None)
        if changed := record.changes(fingerprint, content_only=True):
            what = "the finished output of another run" if version else "to be replaced by another run"
            raise InputError(f"{self.shown}: is {what} ({changed})", do=RESTART)
        if version is None:
            return RunRecord(self.local, fingerprint)
        if version != asdict(there):
            raise InputError(f"{self.shown}: was changed after it was finished", do=RESTART)
        return record

    def restart(self, fingerprint: Fingerprint) -> RunRecord:
        """A new run, which replaces what is there. If it is killed, another machine knows that, too."""
        record = RunRecord(self.local, fingerprint)
        if self._file.version() is not None:
            self._put_record(record, None)
        return record

    def publish(self) -> None:
        """Put the finished output in its place, if it is not there yet, with its record; then forget the work.

        If this is killed, the same command does it again. Raises RunError if the store fails.
        """
        if not self.local.exists():
            return
        say(f"putting {self.local.stat().st_size:,} bytes to {self.shown}")
        record = load(self.local)
        if record is None:  # that of a pipe has none
            self._file.put(self.local)
        else:
            self._put_record(record, None)
            self._put_record(record, self._file.put(self.local))
            record_path(self.local).unlink()
        self.local.unlink()

    def _put_record(self, record: RunRecord, version: Version | None) -> None:
        record.summary.pop(_VERSION, None)
        if version is not None:
            record.summary[_VERSION] = asdict(version)
        record.save()
        self._record.put(record_path(self.local))

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors name the URL, and not the place of its work."""
        try:
            yield
        except BertnliError as error:
            for path in (partial_path(self.local), self.local):
                error.args = tuple(str(text).replace(str(path), self.shown) for text in error.args)
            raise


def to_urls(score: Callable[_Arguments, dict[str, Any]]) -> Callable[_Arguments, dict[str, Any]]:
    """Lets a function of a file `output` have a URL as its output: it is called with a `RemoteOutput`."""
    signature = inspect.signature(score)

    @functools.wraps(score)
    def scored(*args: _Arguments.args, **options: _Arguments.kwargs) -> dict[str, Any]:
        call = signature.bind(*args, **options)
        url = os.fspath(call.arguments["output"])
        if not is_url(url):
            return score(*args, **options)
        call.arguments["output"] = output = RemoteOutput(url)
        with output.named():
            summary = score(*call.args, **call.kwargs)
            output.publish()
        return summary

    return scored
