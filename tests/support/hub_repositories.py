"""What a model hub does when it is written to, as far as huggingface_hub asks: repositories, branches, commits, LFS.

    with hub_repositories.serving(folder, monkeypatch) as hub:
        … hub.repositories["org/name"].branches["main"][-1].files …

The protocol is that of huggingface_hub's own client: create_repo, model_info, preupload (which files are large), the
LFS batch, the upload of each large file, and the commit, a JSON object a line. Files over 1,000 bytes are large ones.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

TOKEN = "hf_secretOfTheTest"
LARGE = 1000


@dataclass
class Commit:
    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    branches: dict[str, list[Commit]]


@dataclass
class Hub:
    """repositories: by their names. stored: large files by their sha256. uploads: their bytes, in order. fails: status
    by a part of the address, for one request each; `None` cuts the connection."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    fails: dict[str, int | None] = field(default_factory=dict)
    url: str = ""

    def commits(self, repo: str, branch: str = "main") -> list[Commit]:
        return self.repositories[repo].branches[branch]


def oid(*parts: object) -> str:
    return hashlib.sha1(repr(parts).encode()).hexdigest()


def blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch, token: str | None = TOKEN) -> Iterator[Hub]:
    """The hub on a free port, with `token` in the environment. Large files go by LFS: Xet is a library of its own."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NO_PROXY", "*")
    if token is None:
        monkeypatch.delenv("HF_TOKEN", raising=False)
    else:
        monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "no token"))
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its own tries
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = unquote(self.path.partition("?")[0])
            hub.requests.append((self.command, path))
            failing = next((part for part in hub.fails if part in path), None)
            if failing is not None:
                status = hub.fails.pop(failing)
                if status is None:
                    self.close_connection = True
                    return
                self.reply({"error": "as told"}, status)  # huggingface_hub shows it as the server's message
                return
            if path.startswith("/storage/"):  # an address with a signature, which needs no token
                hub.stored[path.removeprefix("/storage/")] = body
                hub.uploads.append(path.removeprefix("/storage/"))
                self.reply({})
                return
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.reply({"error": "Invalid credentials"}, 401)
                return
            self.act(path, body)

        def act(self, path: str, body: bytes) -> None:
            content: Any = json.loads(body) if body and not path.count("/commit/") else {}
            if path == "/api/validate-yaml":
                self.reply({"errors": [], "warnings": []})
            elif path == "/api/repos/create":
                repo = "/".join(filter(None, (content.get("organization"), content["name"])))
                first = Commit(oid(repo), "initial commit", {".gitattributes": b"*.onnx filter=lfs\n"})
                private = content.get("private") or content.get("visibility") == "private"
                hub.repositories.setdefault(repo, Repository(bool(private), {"main": [first]}))
                self.reply({"url": f"{hub.url}/{repo}", "name": repo, "id": "1"})
            elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|branch|preupload|commit)/(.+))?", path):
                self.of_repository(found[1], found[2], found[3] or "main", content, body)
            elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
                self.reply({"transfer": "basic", "objects": [self.lfs(one) for one in content["objects"]]})
            else:
                self.reply({}, 404)

        def lfs(self, asked: dict[str, Any]) -> dict[str, Any]:
            if asked["oid"] in hub.stored:
                return asked
            return asked | {"actions": {"upload": {"href": f"{hub.url}/storage/{asked['oid']}"}}}

        def of_repository(self, repo: str, what: str | None, revision: str, content: Any, body: bytes) -> None:
            known = hub.repositories.get(repo)
            if known is None:
                self.reply({}, 404, {"X-Error-Code": "RepoNotFound"})
                return
            if what == "branch":
                known.branches[revision] = list(known.branches["main"])
                self.reply({})
                return
            commit = next(
                (
                    one
                    for name, commits in known.branches.items()
                    for one in (commits if name != revision else [])
                    if one.oid == revision
                ),
                known.branches[revision][-1] if revision in known.branches else None,
            )
            if commit is None:
                self.reply({}, 404, {"X-Error-Code": "RevisionNotFound"})
            elif what == "preupload":
                self.reply({"files": [self.mode(one, commit) for one in content["files"]]})
            elif what == "commit":
                self.commit(repo, revision, [json.loads(line) for line in body.splitlines()])
            else:
                self.reply(info(repo, known, commit))

        def mode(self, asked: dict[str, Any], commit: Commit) -> dict[str, Any]:
            there, large = commit.files.get(asked["path"]), asked["size"] > LARGE
            known = None if there is None else hashlib.sha256(there).hexdigest() if large else blob(there)
            mode = "lfs" if large else "regular"
            return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": known}

        def commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> None:
            header, *changes = lines
            commits = hub.commits(repo, branch)
            if header["value"].get("parentCommit") not in (None, commits[-1].oid):
                self.reply({"error": "A commit has happened since"}, 412)
                return
            files = dict(commits[-1].files)
            for change in changes:
                value = change["value"]
                if change["key"] == "deletedFile":
                    del files[value["path"]]
                elif change["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
                else:
                    files[value["path"]] = base64.b64decode(value["content"])
            commits.append(Commit(oid(len(commits), sorted(files)), header["value"]["summary"], files))
            self.reply({"commitUrl": f"{hub.url}/{repo}/commit/{commits[-1].oid}", "commitOid": commits[-1].oid})

        def reply(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


def info(repo: str, known: Repository, commit: Commit) -> dict[str, Any]:
    """As `model_info` reads it."""
    siblings = []
    for name, content in commit.files.items():
        one: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": blob(content)}
        if len(content) > LARGE:
            one["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 130}
        siblings.append(one)
    about = {"_id": "1", "id": repo, "modelId": repo, "private": known.private, "tags": []}
    return about | {"sha": commit.oid, "siblings": siblings}
