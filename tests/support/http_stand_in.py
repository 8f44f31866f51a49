"""A web server for tests, on a free port of this machine, that misbehaves as it is told.

    with StandIn() as server:
        server.files["/a.zip"] = Hosted(body, cut_after=[1000])   # the first answer breaks off after 1,000 bytes
        … server.url("/a.zip") … server.requests …

`add_package` makes it a package index, `add_model` a model hub, as far as `bertnli fetch` asks for one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import quote


@dataclass
class Hosted:
    """One address's answer."""

    body: bytes = b""
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    honours_if_range: bool = True  # False: a broken server that sends a range of whatever it has now
    piece: int | None = None  # bytes of a range sent in one answer at most
    length: bool = True  # False: no Content-Length, the end of the connection is the end of the file
    cut_after: list[int] = field(default_factory=list)  # bytes of body, for one answer after the other
    reset: bool = False  # cut as a line that breaks does, what is under way lost, and not as a server that closes
    bytes_per_second: int | None = None
    status: list[int] = field(default_factory=list)  # for one answer after the other, then 200
    always: int | None = None  # this status for ever
    location: str | None = None
    login: tuple[str, str] | None = None
    token: str | None = None  # as the hub's: only who sends it gets the file, others 401, or 403 with another token
    content_type: str = "application/octet-stream"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]  # names in lower case


class StandIn:
    def __init__(self) -> None:
        self.files: dict[str, Hosted] = {}
        self.requests: list[Request] = []
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> StandIn:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def url(self, path: str) -> str:
        return f"http://{self.host}{path}"

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]

    def add_package(self, project: str, filename: str, body: bytes, *, index: str = "/simple") -> Hosted:
        """A file of a package on a simple index (PEP 503) at `index`. Returns the file's answer, to be changed."""
        page = self.files.setdefault(f"{index}/{project}/", Hosted(etag=None, content_type="text/html"))
        page.body += f'<a href="/files/{filename}">{filename}</a>\n'.encode()
        self.files[f"/files/{filename}"] = Hosted(body)
        return self.files[f"/files/{filename}"]

    def add_model(
        self,
        repo: str,
        files: dict[str, bytes],
        *,
        revisions: tuple[str, ...] = ("main",),
        redirect: bool = False,
        sizes: dict[str, int] | None = None,
        card: dict[str, object] | None = None,
    ) -> str:
        """A model repository at one commit, as huggingface_hub reads it. Returns the commit. repo: `datasets/org/name`
        is one of a data set, whose card has the front matter `card`.

        Files over 1,000 bytes count as large (LFS) ones. revisions: names of the commit. redirect: large files are at
        another address, as the hub's are; the first answer has their checksum and size. sizes: of files, for the list,
        if not their own.
        """
        commit = hashlib.sha1("".join([repo, *revisions[1:]]).encode()).hexdigest()
        siblings, tree = [], []
        for name, body in files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            sha256 = hashlib.sha256(body).hexdigest()
            large = len(body) > 1000
            sibling: dict[str, object] = {"rfilename": name, "size": (sizes or {}).get(name, len(body)), "blobId": blob}
            leaf: dict[str, object] = {"type": "file", "path": name, "size": len(body), "oid": blob}
            if large:
                sibling["lfs"] = {"size": len(body), "sha256": sha256, "pointerSize": 130}
                leaf["lfs"] = {"size": len(body), "oid": sha256, "pointerSize": 130}
            siblings.append(sibling)
            tree.append(leaf)
            headers = {"X-Repo-Commit": commit}
            hosted = Hosted(body, etag=f'"{sha256 if large else blob}"', headers=headers)
            address = f"/{repo}/resolve/{commit}/{name}"
            if redirect and large:
                self.files[f"/cdn/{sha256}"] = Hosted(body, etag='"of the storage"')
                linked = {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(body))}
                elsewhere = self.url(f"/cdn/{sha256}").replace("127.0.0.1", "localhost")  # of another host
                hosted = Hosted(location=elsewhere, headers=headers | linked)
            self.files[address] = hosted
        info = {"_id": "1", "id": repo.removeprefix("datasets/"), "sha": commit, "tags": [], "siblings": siblings}
        info |= {"modelId": repo} if card is None else {"cardData": card}
        api = f"/api/{repo}" if repo.startswith("datasets/") else f"/api/models/{repo}"
        answers: dict[str, object] = {api: info} if "main" in revisions else {}
        answers |= {f"{api}/revision/{quote(name, safe='')}": info for name in (*revisions, commit)}
        for path, answer in (answers | {f"{api}/tree/{commit}": tree}).items():
            self.files[path] = Hosted(json.dumps(answer).encode(), etag=None, content_type="application/json")
        return commit

    def resolved(self, repo: str) -> list[str]:
        """The names of the files of a model that were asked for, each once, in the order of the first requests."""
        paths = [re.fullmatch(rf"/{repo}/resolve/[^/]+/(.+)", request.path) for request in self.requests]
        names = [path[1] for path in paths if path]
        return list(dict.fromkeys(names))


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Silent: a client that is killed, and a connection that is cut, are what the tests are about."""


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = re.sub(r"^http://[^/]+", "", self.path).partition("?")[0]  # a proxy is asked for whole addresses
            headers = {name.lower(): value for name, value in self.headers.items()}
            stand_in.requests.append(Request(self.command, path, headers))
            hosted = stand_in.files.get(path)
            if hosted is None:
                repo, _, revision = path.partition("/revision/")
                code = "RevisionNotFound" if revision and repo in stand_in.files else "RepoNotFound"
                self.plain(404, {"X-Error-Code": code} if path.startswith("/api/") else {})
                return
            if hosted.token and headers.get("authorization") != f"Bearer {hosted.token}":
                self.plain(403 if "authorization" in headers else 401, hosted.headers)
                return
            if hosted.login and headers.get("authorization") != _basic(hosted.login):
                self.plain(401, {"WWW-Authenticate": 'Basic realm="test"'})
                return
            status = hosted.always or (hosted.status.pop(0) if hosted.status else 200)
            if status != 200:
                self.plain(status, hosted.headers)
            elif hosted.location:
                self.plain(302, {"Location": hosted.location} | hosted.headers)
            else:
                self.send(hosted, headers, body)

        def plain(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, hosted: Hosted, headers: dict[str, str], body: bool) -> None:
            start, end, whole = 0, len(hosted.body), len(hosted.body)
            asked = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
            condition = headers.get("if-range")
            fits = condition is None or condition in (hosted.etag, hosted.last_modified)
            if asked and hosted.ranges and (fits or not hosted.honours_if_range):
                start = int(asked[1])
                if start >= whole:
                    self.plain(416, {"Content-Range": f"bytes */{whole}"})
                    return
                end = min(whole, start + hosted.piece) if hosted.piece else whole
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{whole}")
            else:
                self.send_response(200)
            self.send_header("Content-Type", hosted.content_type)
            if hosted.length:
                self.send_header("Content-Length", str(end - start))
            else:
                self.send_header("Connection", "close")
                self.close_connection = True
            for name, value in (
                ("ETag", hosted.etag),
                ("Last-Modified", hosted.last_modified),
                *hosted.headers.items(),
            ):
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if body:
                cut = hosted.cut_after.pop(0) if hosted.cut_after else None
                self.pour(hosted.body[start:end], cut, hosted)

        def pour(self, body: bytes, cut: int | None, hosted: Hosted) -> None:
            step = max(1, hosted.bytes_per_second // 50) if hosted.bytes_per_second else 1 << 16
            try:
                for at in range(0, len(body) if cut is None else cut, step):
                    self.wfile.write(body[at : at + step if cut is None else min(at + step, cut)])
                    if hosted.bytes_per_second:
                        time.sleep(0.02)
                if cut is not None:
                    self.close_connection = True
                    if hosted.reset:
                        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        self.connection.close()
            except OSError:  # the other side has gone
                self.close_connection = True

    return Handler


def _basic(login: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(login).encode()).decode()
