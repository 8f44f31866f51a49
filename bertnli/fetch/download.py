"""Downloads one file from one URL: resumes, retries, limits the size, checks, and renames only the complete file.

The bytes so far are in `NAME.part`; `NAME.part.json` notes their URL and the version of the file. A later call, also of
another process, requests only the rest (RFC 9110, sections 13.1.5 and 14: If-Range, Range).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bertnli.common.errors import InputError, first_line
from bertnli.common.files import digest, sync
from bertnli.common.progress import Update, megabytes, progress
from bertnli.common.urls import redact
from bertnli.fetch.entry import SourceError

if TYPE_CHECKING:
    import httpx2

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 30.0  # a connection that sends no byte for so long counts as broken
FRUITLESS_TRIES = 5  # give a URL up after so many tries in a row without progress; after two if it never answered
FIRST_PAUSE = 0.5  # seconds before the next try; doubled each time
LONGEST_WAIT = 60.0  # seconds; a server that asks for a longer pause (Retry-After) is given up
WORTHWHILE = 65_536  # a broken try counts as progress if it adds so many bytes

_TLS_FILES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


def check(path: Path, checksum: str) -> None:
    """Raise SourceError if the file does not have this checksum (`algorithm:hexdigest`)."""
    algorithm, _, expected = checksum.partition(":")
    found = digest(path, algorithm)
    if found != expected:
        raise SourceError(
            f"wrong checksum of {path.name.removesuffix('.part')}: "
            f"found {algorithm} {found} ({path.stat().st_size:,} bytes), expected {expected}"
        )


def new_client(transport: httpx2.BaseTransport | None = None) -> httpx2.Client:
    """An HTTP client with timeouts. Proxies and certificates come from the usual environment variables.

    Raises InputError if they cannot be used.
    """
    import httpx2

    with usable_settings():
        client = httpx2.Client(timeout=timeouts(), follow_redirects=True, transport=transport)
    client.event_hooks = {"response": [refuse_downgrade]}
    return client


@contextmanager
def usable_settings(pip_proxy: str | None = None) -> Iterator[None]:
    """While an HTTP client is made: InputError for a proxy of a kind that it does not support, or certificates that are
    not there, with the variable that names them. pip_proxy: the proxy of pip's settings."""
    import httpx2

    try:
        yield
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        named = {name: value for name in _PROXIES if (value := os.environ.get(name) or os.environ.get(name.lower()))}
        named |= {"pip's setting proxy": pip_proxy} if pip_proxy else {}
        raise InputError(
            " and ".join(named) or "the proxy",
            found=", ".join(map(redact, named.values())) or first_line(error),
            expected="a proxy that this program supports: http://HOST:PORT or https://HOST:PORT",
            do="correct or unset it; for socks5:// first: pip install socksio",
        ) from None
    except OSError as error:
        set_ones = [name for name in _TLS_FILES if os.environ.get(name)]
        of_error = [name for name in set_ones if os.environ[name] == error.filename]
        name = (of_error or set_ones or ["SSL_CERT_FILE"])[0]
        raise InputError(
            name,
            found=f"{os.environ.get(name, 'nothing')} ({first_line(error)})",
            expected="a file that can be written" if name == "SSLKEYLOGFILE" else "certificates in PEM format",
            do="correct or unset it",
        ) from None


def refuse_downgrade(response: httpx2.Response) -> None:
    """A client's hook: raises SourceError if an https:// URL is redirected to http://, where anybody can change it."""
    if response.has_redirect_location and response.request.url.scheme == "https":
        following = response.request.url.join(response.headers["location"])
        if following.scheme != "https":
            raise SourceError(f"redirected from https to an unprotected address, {redact(str(following))}")


def timeouts() -> httpx2.Timeout:
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
    shown: bool = True,
) -> None:
    """Download `url` to `target`, continuing a `.part` file of an earlier call.

    limit: the maximum number of bytes to accept. size, checksum: of the file, if known. shown: show the progress.
    Raises SourceError if the URL does not give that file, OSError if it cannot be written. The `.part` file stays if
    another try can continue it; it is deleted if its bytes are wrong.
    """
    part = _Part.of(target, url, checked=checksum is not None)
    last = False
    with nullcontext(client) if client else new_client() as session:
        while True:
            in_pieces = _transfer(session, url, part, limit, size, shown)
            try:
                if checksum is not None:
                    check(part.file, checksum)
                break
            except SourceError:
                part.drop()
                if last or not in_pieces:
                    raise
                last = True  # the pieces may be from two versions of the file: try once more from the start
    part.file.replace(target)
    sync(target.parent)
    part.note_file.unlink(missing_ok=True)


@dataclass
class _Note:
    """The URL and the version of the file that the bytes of a `.part` file are from."""

    url_sha256: str  # not the URL itself, which may contain a password
    etag: str | None = None
    last_modified: str | None = None
    size: int | None = None

    @property
    def validator(self) -> str | None:
        """The value for If-Range: a strong ETag, else the date. A weak ETag does not guarantee equal bytes."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    def differs(self, other: _Note) -> bool:
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs)


@dataclass
class _Part:
    """An incomplete download on disk."""

    file: Path
    note_file: Path
    url_sha256: str
    checked: bool  # whether the checksum of the complete file is known

    @classmethod
    def of(cls, target: Path, url: str, *, checked: bool) -> _Part:
        file = target.with_name(target.name + ".part")
        note_file = file.with_name(file.name + ".json")
        for path in (file, note_file):
            if path.is_symlink():  # not ours: what it names would be written
                path.unlink()
        return cls(file, note_file, hashlib.sha256(url.encode()).hexdigest(), checked)

    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def note(self) -> _Note | None:
        """The note if the download can be continued: it is of this URL, and wrong bytes will be detected. Else None."""
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
    """This try failed; another one may succeed, after `wait` seconds if the server asks for them."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


class _UnreachableError(_BrokenOffError):
    """There was no answer."""


def _transfer(client: httpx2.Client, url: str, part: _Part, limit: int, size: int | None, shown: bool) -> bool:
    """Complete the `.part` file. Returns True if its bytes are from more than one response."""
    note = part.note()
    if note is None or part.size() > min(limit, note.size or limit):
        part.drop()
    furthest, fruitless = part.size(), 0
    name = redact(url).rpartition("/")[2] or redact(url)
    showing = progress(f"fetching {name}:", start=furthest, in_bytes=True) if shown else nullcontext(_unseen)
    with showing as report:
        while True:
            try:
                return _receive(client, url, part, limit, size, report)
            except _BrokenOffError as error:
                reached = part.size()
                fruitless = 0 if reached >= furthest + WORTHWHILE else fruitless + 1
                furthest = max(furthest, reached)
                if fruitless >= (2 if isinstance(error, _UnreachableError) and not reached else FRUITLESS_TRIES):
                    kept = f"; {megabytes(reached)} are kept for the next try" if reached else ""
                    raise SourceError(f"{error}{kept}") from error
                time.sleep(max(error.wait, FIRST_PAUSE * 2 ** max(fruitless - 1, 0)))


def _unseen(done: int, note: str = "", total: int | None = None) -> None:
    """The progress of a file that is too small to show it."""


def _receive(client: httpx2.Client, url: str, part: _Part, limit: int, size: int | None, report: Update) -> bool:
    """Make one request and append its bytes to the `.part` file. Returns True if that had bytes before.

    Raises _BrokenOffError if the response is incomplete, SourceError if another try cannot succeed either.
    """
    import httpx2

    have, note = part.size(), part.note()
    headers = {"Accept-Encoding": "identity"}
    if have and note:
        if have == note.size:  # an earlier process was killed after the last byte and before the check
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
                case 200:  # the complete file: first try, no ranges on this server, or the file has changed
                    have = 0
                    part.drop()
                case status if status in (408, 429) or status >= 500:
                    raise _BrokenOffError(f"HTTP {status} {response.reason_phrase}", _asked_pause(response))
                case status:
                    raise SourceError(f"HTTP {status} {response.reason_phrase}")
            if size is not None and offered.size is not None and offered.size != size:
                part.drop()
                raise SourceError(f"a different file: found {offered.size:,} bytes, expected {size:,}")
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


def _asked_pause(response: httpx2.Response) -> float:
    """Seconds that the server asks to wait (RFC 9110, section 10.2.3; of the two forms the number), 0 if it does not.

    Raises SourceError for more than LONGEST_WAIT.
    """
    asked = response.headers.get("retry-after", "")
    seconds = float(asked) if asked.isdecimal() else 0.0
    if seconds > LONGEST_WAIT:
        raise SourceError(f"HTTP {response.status_code} {response.reason_phrase}: try again in {seconds:,.0f} s")
    return seconds


def _whole_size(response: httpx2.Response) -> int | None:
    """Bytes of the complete file, not of this part of it."""
    if response.status_code == 206:
        matched = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("content-range", ""))
        return int(matched[1]) if matched else None
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _range_start(response: httpx2.Response) -> int | None:
    matched = re.match(r"bytes (\d+)-", response.headers.get("content-range", ""))
    return int(matched[1]) if matched else None
