"""One file from one address, against a server that drops, changes, lies and stalls."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from bertnli.common import heartbeat
from bertnli.common.errors import InputError
from bertnli.common.urls import redact
from bertnli.fetch import download as module
from bertnli.fetch import package_index
from bertnli.fetch.download import download
from bertnli.fetch.entry import SourceError
from tests.support.http_stand_in import Hosted, StandIn

BODY = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = "sha256:" + hashlib.sha256(BODY).hexdigest()
OTHER = BODY[::-1]
LIMIT = 10_000_000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    with StandIn() as stand_in:
        yield stand_in


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ranges(server: StandIn, path: str = "/f") -> list[str | None]:
    return [request.headers.get("range") for request in server.asked(path)]


def leave_part(server: StandIn, target: Path, size: int, **hosted: object) -> None:
    """What a process leaves that dies after `size` bytes."""
    server.files["/f"] = Hosted(BODY, cut_after=[size], **hosted)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FRUITLESS_TRIES", 1)
        patch.setattr(module, "WORTHWHILE", LIMIT)
        with pytest.raises(SourceError):
            download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    server.requests.clear()


def test_a_file_appears_whole_and_alone(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And each piece sends a heartbeat, so that the watcher of a rank that fetches does not take it for a stall."""
    beats: list[str] = []
    monkeypatch.setattr(heartbeat, "beat", beats.append)
    server.files["/f"] = Hosted(BODY)
    download(server.url("/f"), target, limit=LIMIT, size=len(BODY), checksum=SHA256)
    assert len({beat for beat in beats if beat.startswith("fetching f: ")}) > 1
    assert target.read_bytes() == BODY
    assert only(target.parent) == ["file.bin"]


@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_is_taken_up_where_it_broke(server: StandIn, target: Path, reset: bool) -> None:
    server.files["/f"] = Hosted(BODY, cut_after=[100_000, 150_000], reset=reset)
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    first, second, third = server.asked("/f")
    assert "range" not in first.headers
    assert reset or second.headers["if-range"] == '"one"'
    if not reset:  # a reset may lose what was under way
        assert (second.headers["range"], third.headers["range"]) == ("bytes=100000-", "bytes=250000-")


def test_many_drops_are_borne_while_each_try_brings_something(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, cut_after=[70_000] * 7)
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY


def test_a_server_that_sends_less_than_the_range_is_asked_on(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, cut_after=[100_000], piece=150_000)
    download(server.url("/f"), target, limit=LIMIT)
    assert target.read_bytes() == BODY
    assert ranges(server) == [None, "bytes=100000-", "bytes=250000-", "bytes=400000-"]


def test_a_later_call_goes_on_from_the_part(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    assert only(target.parent) == ["file.bin.part", "file.bin.part.json"]
    have = (target.parent / "file.bin.part").stat().st_size
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert ranges(server) == [f"bytes={have}-"]
    assert only(target.parent) == ["file.bin"]


def test_a_planted_link_is_not_followed(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    victims = {}
    for name in ("file.bin.part", "file.bin.part.json"):
        victim = target.with_name(name).rename(target.with_name(f"victim {name}"))
        target.with_name(name).symlink_to(victim)
        victims[victim] = victim.read_bytes()
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY and not target.is_symlink()
    assert {victim: victim.read_bytes() for victim in victims} == victims


def test_sigkill_in_the_middle_then_the_rest(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, bytes_per_second=400_000)
    call = "import sys, pathlib; from bertnli.fetch.download import download; "
    call += "download(sys.argv[1], pathlib.Path(sys.argv[2]), limit=10**7)"
    process = subprocess.Popen([sys.executable, "-c", call, server.url("/f"), str(target)], stderr=subprocess.DEVNULL)
    part = target.with_name("file.bin.part")
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 50_000):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert have < len(BODY)
    assert not target.exists()
    server.files["/f"].bytes_per_second = None
    server.requests.clear()
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert ranges(server) == [f"bytes={have}-"]


def test_killed_between_the_last_byte_and_the_check(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    target.with_name("file.bin.part").write_bytes(BODY)
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert server.requests == []


def test_a_server_without_ranges_starts_again(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, ranges=False, cut_after=[200_000])
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_that_always_drops_is_given_up(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, ranges=False, cut_after=[200_000] * 50)
    with pytest.raises(SourceError, match="kept for the next try"):
        download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert len(server.requests) == 1 + module.FRUITLESS_TRIES
    assert not target.exists()


def test_the_file_changed_between_two_calls(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    server.files["/f"] = Hosted(OTHER, etag='"two"')
    download(server.url("/f"), target, limit=LIMIT)
    assert target.read_bytes() == OTHER


def test_the_file_changed_and_the_server_sends_the_range_all_the_same(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    server.files["/f"] = Hosted(OTHER, etag='"two"', honours_if_range=False)
    download(server.url("/f"), target, limit=LIMIT)
    assert target.read_bytes() == OTHER
    assert ranges(server)[-1] is None


def test_the_file_got_shorter(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    short = BODY[:1000]
    server.files["/f"] = Hosted(short, etag='"two"', honours_if_range=False)  # answers 416
    download(server.url("/f"), target, limit=LIMIT)
    assert target.read_bytes() == short


def test_another_address_does_not_go_on_from_this_ones_part(server: StandIn, target: Path) -> None:
    leave_part(server, target, 300_000)
    server.files["/g"] = Hosted(OTHER)  # with the same ETag
    download(server.url("/g"), target, limit=LIMIT)
    assert target.read_bytes() == OTHER
    assert ranges(server, "/g") == [None]


def test_if_range_is_a_date_where_the_etag_is_weak(server: StandIn, target: Path) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    leave_part(server, target, 300_000, etag='W/"one"', last_modified=date)
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert server.requests[0].headers["if-range"] == date
    assert target.read_bytes() == BODY


def test_a_drop_without_any_validator_or_checksum_starts_again(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, etag=None, cut_after=[100_000])
    download(server.url("/f"), target, limit=LIMIT)
    assert target.read_bytes() == BODY
    assert ranges(server) == [None, None]


@pytest.mark.parametrize("checksum", [None, SHA256])
def test_without_any_validator_only_a_checksum_allows_going_on(
    server: StandIn, target: Path, checksum: str | None
) -> None:
    leave_part(server, target, 300_000, etag=None)
    download(server.url("/f"), target, limit=LIMIT, checksum=checksum)
    assert target.read_bytes() == BODY
    assert (ranges(server) == [None]) == (checksum is None)


def test_a_part_with_wrong_bytes_is_thrown_away_and_the_file_fetched_from_the_start(
    server: StandIn, target: Path
) -> None:
    leave_part(server, target, 300_000)
    part = target.with_name("file.bin.part")
    part.write_bytes(bytes(part.stat().st_size))
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert ranges(server)[-1] is None


def test_wrong_bytes_leave_nothing(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(OTHER)
    with pytest.raises(
        SourceError, match=f"wrong checksum of file.bin: found sha256 {hashlib.sha256(OTHER).hexdigest()}"
    ):
        download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert only(target.parent) == []
    assert len(server.requests) == 1


def test_a_truncated_file_is_not_taken(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY[:-1], length=False)  # nothing in the answer says that a byte is missing
    with pytest.raises(SourceError, match="wrong checksum"):
        download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert only(target.parent) == []


def test_another_size_than_known_is_noticed_before_the_body(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(b"<html>Log in to this network</html>")
    with pytest.raises(SourceError, match="a different file: found 35 bytes, expected 512,000"):
        download(server.url("/f"), target, limit=LIMIT, size=len(BODY), checksum=SHA256)
    assert only(target.parent) == []


@pytest.mark.parametrize("length", [True, False])
def test_no_more_than_the_limit_is_written(server: StandIn, target: Path, length: bool) -> None:
    server.files["/f"] = Hosted(BODY, length=length)
    with pytest.raises(SourceError, match="too large: expected at most 100,000 bytes"):
        download(server.url("/f"), target, limit=100_000)
    assert only(target.parent) == []


def test_not_found_is_final(server: StandIn, target: Path) -> None:
    with pytest.raises(SourceError, match="HTTP 404"):
        download(server.url("/nothing"), target, limit=LIMIT)
    assert len(server.requests) == 1


def test_a_server_error_is_tried_again(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, status=[500, 503, 429])
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    assert len(server.requests) == 4


def test_a_server_error_for_ever_is_given_up(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(always=502)
    with pytest.raises(SourceError, match="HTTP 502 Bad Gateway"):
        download(server.url("/f"), target, limit=LIMIT)
    assert len(server.requests) == module.FRUITLESS_TRIES


def test_redirects_are_followed(server: StandIn, target: Path) -> None:
    server.files["/f"] = Hosted(BODY, cut_after=[100_000])
    server.files["/old"] = Hosted(location=server.url("/f"))
    download(server.url("/old"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY
    server.files["/round"] = Hosted(location=server.url("/round"))
    with pytest.raises(SourceError, match="TooManyRedirects"):
        download(server.url("/round"), target.with_name("other"), limit=LIMIT)


def test_nobody_there_is_given_up_soon(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening
        with pytest.raises(SourceError, match="cannot be reached"):
            download(f"http://127.0.0.1:{unused.getsockname()[1]}/f", target, limit=LIMIT)
    assert len(pauses) == 1


def test_an_address_that_swallows_everything_is_tried_once(target: Path) -> None:
    """As behind a firewall: each try would take its whole time-out, perhaps for each of the host's addresses."""
    tries: list[httpx2.Request] = []

    def swallow(request: httpx2.Request) -> httpx2.Response:
        tries.append(request)
        raise httpx2.ConnectTimeout("timed out")

    with (
        httpx2.Client(transport=httpx2.MockTransport(swallow)) as client,
        pytest.raises(SourceError, match="cannot be reached"),
    ):
        download("http://example.invalid/f", target, limit=LIMIT, client=client)
    assert len(tries) == 1


def test_a_silent_server_is_given_up(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(SourceError, match="the connection broke"):
            download(f"http://127.0.0.1:{silent.getsockname()[1]}/f", target, limit=LIMIT)


def test_a_full_disk_is_the_disks_error_and_keeps_the_part(
    server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/f"] = Hosted(BODY)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_room(descriptor: int) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        with pytest.raises(OSError) as caught:
            download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert caught.value is full
    assert not target.exists()
    download(server.url("/f"), target, limit=LIMIT, checksum=SHA256)
    assert target.read_bytes() == BODY


def test_secrets_of_an_address_are_neither_shown_nor_kept(server: StandIn, target: Path) -> None:
    assert redact("https://me:pass@host:8/a/b.zip?token=1#x") == "https://host:8/a/b.zip"
    leave_part(server, target, 300_000)
    assert server.host not in target.with_name("file.bin.part.json").read_text()


def test_plain_lines_in_a_log(server: StandIn, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.files["/f"] = Hosted(BODY)
    download(server.url("/f"), target, limit=LIMIT)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines == ["fetching f: 0.0 MB of 0.5 MB", "fetching f: 0.5 MB of 0.5 MB"], "the first and the last"


def test_a_bar_on_a_terminal(server: StandIn, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    server.files["/f"] = Hosted(BODY)
    download(server.url("/f"), target, limit=LIMIT)
    assert "512.0/512.0 kB" in terminal.getvalue()
    assert "of 0.5 MB" not in terminal.getvalue()


@pytest.mark.parametrize("client", ["ours", "the index's"])
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "HTTPS_PROXY",
            "socks5://me:secret@proxy:1080",
            "HTTPS_PROXY; found socks5://proxy:1080; .*: pip install socksio",
        ),
        (
            "all_proxy",
            "socks4://proxy:1",
            "ALL_PROXY; found socks4://proxy:1; expected a proxy that this program supports",
        ),
        ("http_proxy", "ftp://proxy", "HTTP_PROXY; found ftp://proxy; .*; correct or unset it"),
        ("HTTPS_PROXY", "http://[::bad", "HTTPS_PROXY; found a malformed URL"),
        ("SSLKEYLOGFILE", "/proc/none", r"SSLKEYLOGFILE; found /proc/none \(.*; expected a file that can be written"),
        ("SSL_CERT_FILE", "/none.pem", r"SSL_CERT_FILE; found /none.pem \(No such file or directory\); .* unset it"),
        (
            "SSL_CERT_FILE",
            "/etc/hostname",
            r"SSL_CERT_FILE; found /etc/hostname \(.*; expected certificates in PEM format",
        ),
    ],
)
def test_a_proxy_or_certificate_that_cannot_be_used_is_named(client, variable, value, said, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=said) as raised:
        if client == "ours":
            module.new_client()
        else:
            with package_index._client({}):
                pass
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("location", "refused"),
    [
        ("http://other/f?token=1", "http://other/f"),
        ("https://other/f", ""),
        ("/f", ""),
        ("file:///etc/passwd", "file:/"),
    ],
)
def test_https_is_not_left_by_a_redirect(location, refused, target):
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path == "/start":
            return httpx2.Response(302, headers={"location": location})
        return httpx2.Response(200, content=iter([BODY]))

    with module.new_client(httpx2.MockTransport(answer)) as client:
        if refused:
            match = f"redirected from https to an unprotected address, {refused}"
            with pytest.raises(SourceError, match=match) as raised:
                download("https://host/start", target, limit=LIMIT, client=client)
            assert "token" not in str(raised.value) and not target.exists()
        else:
            download("https://host/start", target, limit=LIMIT, client=client)
            assert target.read_bytes() == BODY


def test_the_index_is_not_left_for_http_either():
    with package_index._client({}) as client:
        assert module.refuse_downgrade in client.event_hooks["response"]
