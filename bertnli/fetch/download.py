"""One file from one address: resumed, retried, bounded, checked, and visible under its name only when whole.

The bytes so far lie in `NAME.part`; `NAME.part.json` notes which address and which version of the file they are from.
A later call, in this process or the next, asks for the rest only (RFC 9110, sections 13.1.5 and 14: If-Range, Range).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from bertnli.common.files import digest, sync
from bertnli.common.progress import Update, megabytes, progress
from bertnli.fetch.entry import SourceError

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 30.0  # a connection that brings no byte for so long counts as dropped
FRUITLESS_TRIES = 5  # in a row, before an address is given up; one that never answered at all is given two
FIRST_PAUSE = 0.5  # seconds before another try; doubled each time
WORTHWHILE = 65_536  # bytes more than ever before that make a broken try count as progress, not as fruitless


def redact(url: str) -> str:
    """The address without user, password, query and fragment, any of which may hold a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check(path: Path, checksum: str) -> None:
    """Raise SourceError unless the file has this checksum (`algorithm:hexdigest`)."""
    algorithm, _, expected = checksum.partition(":")
    found = digest(path, algorithm)
    if found != expected:
        raise SourceError(
            f"wrong checksum of {path.name.removesuffix('.part')}: "
            f"found {algorithm} {found} ({path.stat().st_size:,} bytes), expected {expected}"
        )


def new_client() -> httpx2.Client:
    """An HTTP client with bounded waits; proxies and certificates come from the usual environment variables."""
    import httpx2

    return httpx2.Client(timeout=time_outs(), follow_redirects=True)


def time_outs() -> httpx2.Timeout:
    import httpx2

    return httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)


def download(
    url: str,
    target: Path,
    *,
    limit: int,
    size: int | None = None,
    checksum: str | None = None,
    client: httpx2.Client | None = None,
) -> None:
    """Put the file at `url` under `target`, on from a `.part` that an earlier call left.

    limit: never take more bytes than this. size, checksum: what the file must have, where known.
    Raises SourceError if the address does not give that file, OSError if the disk does not take it. The `.part` stays
    where another try can go on from it, and goes where its bytes are wrong.
    """
    part = _Part.of(target, url, checked=checksum is not None)
    last = False
    with nullcontext(client) if client else new_client() as session:
        while True:
            in_pieces = _transfer(session, url, part, limit, size)
            try:
                if checksum is not None:
                    check(part.file, checksum)
                break
            except SourceError:
                part.drop()
                if last or not in_pieces:
                    raise
                last = True  # the pieces may be of two files: once more, from the start
    part.file.replace(target)
    sync(target.parent)
    part.note_file.unlink(missing_ok=True)


@dataclass
class _Note:
    """Which version of which address the bytes of a `.part` are from."""

    url_sha256: str  # not the address itself: it may hold a password
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date (a weak ETag promises no equal bytes)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def differs(self, other: _Note) -> bool:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs)


@dataclass
class _Part:
    """An unfinished download on disk."""

    file: Path
    note_file: Path
    url_sha256: str
    checked: bool  # whether the whole file has a known checksum

    @classmethod
    def of(cls, target: Path, url: str, *, checked: bool) -> _Part:
        file = target.with_name(target.name + ".part")
        return cls(file, file.with_name(file.name + ".json"), hashlib.sha256(url.encode()).hexdigest(), checked)

    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def note(self) -> _Note | None:
        """The note, if it is about this address and the right bytes can be told from wrong ones: then one can go on."""
        try:
            note = _Note(**json.loads(self.note_file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return note if note.url_sha256 == self.url_sha256 and (note.validator or self.checked) else None

    def write_note(self, note: _Note) -> None:
        self.note_file.write_text(json.dumps(asdict(note)), encoding="utf-8")

    def drop(self) -> None:
        self.file.unlink(missing_ok=True)
        self.note_file.unlink(missing_ok=True)


class _BrokenOffError(Exception):
    """This try broke off; another may succeed."""


class _UnreachableError(_BrokenOffError):
    """Nobody answered."""


def _transfer(client: httpx2.Client, url: str, part: _Part, limit: int, size: int | None) -> bool:
    """Fill `part` to the end. True if it was put together from more than one answer."""
    note = part.note()
    if note is None or part.size() > min(limit, note.size or limit):
        part.drop()
    furthest, fruitless = part.size(), 0
    name = redact(url).rpartition("/")[2] or redact(url)
    with progress(f"fetching {name}:", start=furthest, in_bytes=True) as report:
        while True:
            try:
                return _receive(client, url, part, limit, size, report)
            except _BrokenOffError as error:
                reached = part.size()
                fruitless = 0 if reached >= furthest + WORTHWHILE else fruitless + 1
                furthest = max(furthest, reached)
                if fruitless >= (2 if isinstance(error, _UnreachableError) and not reached else FRUITLESS_TRIES):
                    kept = f"; {megabytes(reached)} are kept, to go on from" if reached else ""
                    raise SourceError(f"{error}{kept}") from error
                time.sleep(FIRST_PAUSE * 2 ** max(fruitless - 1, 0))


def _receive(client: httpx2.Client, url: str, part: _Part, limit: int, size: int | None, report: Update) -> bool:
    """One request; what comes is appended to the `.part`. True if there was something to append to.

    Raises _BrokenOffError if it did not come to the end, SourceError if another try would not either.
    """
    import httpx2

    have, note = part.size(), part.note()
    headers = {"Accept-Encoding": "identity"}
    if have and note:
        if have == note.size:  # an earlier process ended between the last byte and the check
            return True
        headers["Range"] = f"bytes={have}-"
        if note.validator:
            headers["If-Range"] = note.validator
    try:
        with client.stream("GET", url, headers=headers) as response:
            offered = _Note(
                part.url_sha256,
                response.headers.get("etag"),
                response.headers.get("last-modified"),
                _whole_size(response),
            )
            match response.status_code:
                case 206 if note and _range_start(response) == have and not offered.differs(note):
                    pass
                case 206 | 416:
                    part.drop()
                    raise _BrokenOffError("the file changed between two requests")
                case 200:  # all of it: the first try, or the server does no ranges, or the file is a new one
                    have = 0
                    part.drop()
                case status if status in (408, 429) or status >= 500:
                    raise _BrokenOffError(f"HTTP {status} {response.reason_phrase}")
                case status:
                    raise SourceError(f"HTTP {status} {response.reason_phrase}")
            if size is not None and offered.size is not None and offered.size != size:
                part.drop()
                raise SourceError(f"another file: found {offered.size:,} bytes, expected {size:,}")
            part.write_note(offered)
            with part.file.open("ab") as file:
                report(have, "", offered.size)
                for chunk in response.iter_raw():
                    have += len(chunk)
                    if have > limit:
                        part.drop()
                        raise SourceError(f"too large: expected at most {limit:,} bytes")
                    file.write(chunk)
                    report(have, "", offered.size)
                file.flush()
                os.fsync(file.fileno())
            if offered.size is not None and have != offered.size:
                raise _BrokenOffError(f"truncated: found {have:,} bytes, expected {offered.size:,}")
            return response.status_code == 206
    except httpx2.ConnectTimeout as error:
        raise SourceError(f"cannot be reached (no answer in {CONNECT_SECONDS:g} s)") from error
    except httpx2.ConnectError as error:
        raise _UnreachableError(f"cannot be reached ({error})") from error
    except (httpx2.ProxyError, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.InvalidURL) as error:
        raise SourceError(f"{type(error).__name__}: {error}") from error
    except httpx2.HTTPError as error:
        raise _BrokenOffError(f"the connection broke ({str(error) or type(error).__name__})") from error


def _whole_size(response: httpx2.Response) -> int | None:
    """Bytes of the whole file, not of this piece of it."""
    if response.status_code == 206:
        matched = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("content-range", ""))
        return int(matched[1]) if matched else None
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _range_start(response: httpx2.Response) -> int | None:
    matched = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    return int(matched[1]) if matched else None
