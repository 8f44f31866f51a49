"""`bertnli score` from and to an S3 server, behind a proxy that fails, cuts off and stalls; also over Ray."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SOURCES
from tests.support import tiny
from tests.support.ray_nodes import RAY_ENVIRONMENT, cluster
from tests.support.scored_files import score, write

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]  # it installs packages, and waits for stalls
ROOT = Path(__file__).resolve().parents[2]
SECRET = "very-secret-key"
# The command with short time-outs and small parts, so that there are several of each.
COMMAND = """
import sys
from bertnli.fetch import object_store, remote_files
object_store.SILENCE_SECONDS, object_store.FIRST_PAUSE, remote_files._LARGEST_PART = 3, 0.1, 1 << 14
from bertnli.cli import main
sys.exit(main())
"""


class Proxy:
    """Forwards requests to an S3 server. Each request that matches the first of `faults` has it: (pattern of method and
    path, `503`, `cut`, `reset` or `stall`). always: a fault for all requests."""

    def __init__(self, port: int):
        self.port, self.faults, self.always = port, list[tuple[str, str]](), ""
        self.seen: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def forward(self) -> None:
                request = f"{self.command} {self.path}"
                proxy.seen.append(request)
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.always
                if proxy.faults and re.match(proxy.faults[0][0], request):
                    fault = proxy.faults.pop(0)[1]
                if fault == "stall":
                    time.sleep(60)
                if fault in ("stall", "reset"):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if fault == "503":
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                server = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
                server.request(self.command, self.path, body, dict(self.headers.items()))
                answer = server.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                if not answer.getheader("Content-Length"):
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
                if fault == "cut":
                    self.close_connection = True

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = forward  # noqa: N815 the names of http.server

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with s3fs and moto, a server of S3 for tests."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", str(folder)]
    subprocess.run([*install, "-c", str(ROOT / "constraints.txt"), "s3fs", "moto[server,s3]"], check=True)
    return folder


@pytest.fixture(scope="module")
def proxy(site: Path) -> Iterator[Proxy]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(site)}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Proxy(port)
    finally:
        server.terminate()
        server.wait()


def ask(proxy: Proxy, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """A request past the proxy's faults."""
    server = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    server.request(
        method, path, body, {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request"}
    )
    answer = server.getresponse()
    return answer.status, answer.read()


@pytest.fixture
def bucket(proxy: Proxy, tmp_path: Path) -> bytes:
    """A new bucket with an input; the scores of the same file here."""
    proxy.faults, proxy.always, proxy.seen = [], "", []
    source = write(tmp_path / "pairs.tsv", tiny.snli_rows(600))
    score(source, tmp_path / "scores.tsv")
    assert ask(proxy, "PUT", "/bucket")[0] in (200, 409)
    ask(proxy, "DELETE", "/bucket/out/scores.tsv")
    ask(proxy, "DELETE", "/bucket/out/_scores.tsv.run.json")
    assert ask(proxy, "PUT", "/bucket/in/pairs.tsv", source.read_bytes())[0] == 200
    return (tmp_path / "scores.tsv").read_bytes()


def run(proxy: Proxy, site: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`bertnli score`; without arguments, of the bucket's input."""
    given = arguments or (str(tiny.bundle()), "s3://bucket/in/pairs.tsv", "s3://bucket/out/scores.tsv")
    return subprocess.run(
        [sys.executable, "-c", COMMAND, "score", *given, "--device", "cpu", "--json"],
        env={**os.environ, **RAY_ENVIRONMENT, **with_bucket(proxy, site, tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def with_bucket(proxy: Proxy, site: Path, tmp_path: Path) -> dict[str, str]:
    """What is to be in a process's environment."""
    return {
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(site)]),
        "BERTNLI_CACHE": str(tmp_path / "cache"),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": proxy.url,
    }


def test_a_server_that_fails_cuts_off_and_stalls(proxy: Proxy, site: Path, tmp_path: Path, bucket: bytes) -> None:
    read, written = r"GET /bucket/in/pairs", r"(PUT|POST) /bucket/out/scores\.tsv"
    proxy.faults = [
        (r"HEAD /bucket/in/pairs", "503"),
        (read, "503"),
        (read, "cut"),
        (read, "reset"),
        (read, "stall"),
        (written, "503"),
        (written, "reset"),
        (written, "stall"),
    ]
    done = run(proxy, site, tmp_path)
    assert done.returncode == 0, done.stderr
    assert proxy.faults == [], "all of them came"
    assert ask(proxy, "GET", "/bucket/out/scores.tsv") == (200, bucket)
    status, record = ask(proxy, "GET", "/bucket/out/_scores.tsv.run.json")
    assert status == 200
    left = [path.read_text(errors="replace") for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [text for text in (done.stdout, done.stderr, record.decode(), *left) if SECRET in text]
    again = run(proxy, site, tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout.splitlines()[-1])["already_finished"] is True


def test_one_that_always_fails_ends_in_an_error(proxy: Proxy, site: Path, tmp_path: Path, bucket: bytes) -> None:
    proxy.always = "503"
    began = time.monotonic()
    done = run(proxy, site, tmp_path)
    assert done.returncode == 1, done.stderr
    assert re.search(r"s3://bucket/in/pairs\.tsv: the store fails: .*give the same command again", done.stderr)
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 200
    assert ask(proxy, "GET", "/bucket/out/scores.tsv")[0] == 404


def keys(proxy: Proxy, prefix: str) -> list[str]:
    """The names below it, without it."""
    listed = ask(proxy, "GET", f"/bucket?list-type=2&prefix={prefix}")[1].decode()
    return [name.removeprefix(prefix) for name in re.findall("<Key>(.*?)</Key>", listed)]


def test_a_folder_over_ray(proxy: Proxy, site: Path, tmp_path: Path, bucket: bytes) -> None:
    """Bundle, input and output are URLs; then the input alone is one, a glob."""
    names = ("a.tsv", "b.parquet", "sub/c.jsonl")
    for path in tiny.bundle().iterdir():
        assert ask(proxy, "PUT", f"/bucket/models/nli/{path.name}", path.read_bytes())[0] == 200
    for seed, name in enumerate(names):
        file = write(tmp_path / Path(name).name, tiny.snli_rows(500, seed=seed))
        (tmp_path / "alone" / name).parent.mkdir(parents=True, exist_ok=True)
        score(file, tmp_path / "alone" / name)
        assert ask(proxy, "PUT", f"/bucket/parts/{name}", file.read_bytes())[0] == 200
    for name in ("parts/", "parts/sub/", "parts/empty/", "parts/_SUCCESS"):
        assert ask(proxy, "PUT", f"/bucket/{name}", b"")[0] == 200
    urls = ["s3://bucket/models/nli", "s3://bucket/parts", "s3://bucket/scores"]
    with cluster("alone", **with_bucket(proxy, site, tmp_path)) as address:
        done = run(proxy, site, tmp_path, *urls, "--ray", address)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout.splitlines()[-1])
        assert (summary["rows"], summary["partitions"], summary["output"]) == (1500, 3, "s3://bucket/scores")
        records = ("_a.tsv.run.json", "_b.parquet.run.json", "sub/_c.jsonl.run.json")
        assert keys(proxy, "scores/") == sorted([*names, *records]), "no probe is left"
        for name in names:
            assert ask(proxy, "GET", f"/bucket/scores/{name}") == (200, (tmp_path / "alone" / name).read_bytes())
        kept = [ask(proxy, "GET", f"/bucket/scores/{name}")[1].decode() for name in records]
        kept += [path.read_text(errors="replace") for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert not [text for text in (done.stdout, done.stderr, *kept) if SECRET in text]
        assert not list((tmp_path / "cache" / "remote").glob("*/a.tsv")), "the inputs would fill a node's disk"

        shutil.rmtree(tmp_path / "cache")  # as on another machine
        again = run(proxy, site, tmp_path, *urls, "--ray", address)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout.splitlines()[-1])["already_finished"] is True
        ask(proxy, "PUT", "/bucket/scores/gone.tsv", b"x")
        foreign = run(proxy, site, tmp_path, *urls, "--ray", address)
        assert foreign.returncode == 2, foreign.stderr
        assert "s3://bucket/scores/gone.tsv: no partition of the input has this output" in foreign.stderr

    with cluster("alone", PYTHONPATH=SOURCES) as address:
        lacking = run(proxy, site, tmp_path, *urls[:2], "s3://bucket/others", "--ray", address)
    assert lacking.returncode == 2, lacking.stderr
    assert re.search(r"node alone \(.*\): s3://bucket/\S+: needs s3fs, which is not installed", lacking.stderr)
    assert keys(proxy, "others/") == []

    mixed = run(proxy, site, tmp_path, str(tiny.bundle()), "s3://bucket/parts/**/*.jsonl", "out", "--ray", "local")
    assert mixed.returncode == 0, mixed.stderr
    assert (tmp_path / "out/sub/c.jsonl").read_bytes() == (tmp_path / "alone/sub/c.jsonl").read_bytes()
