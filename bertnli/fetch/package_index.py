"""Downloads a file of a package from the package index. The package is never installed, built or imported.

`unearth` reads the index. The index, trusted hosts and the proxy are pip's settings, from its environment variables and
configuration files, so that a private index or a mirror that is configured for pip is used here too.
"""

from __future__ import annotations

import ast
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bertnli.common.urls import redact
from bertnli.fetch.download import download, refuse_downgrade, timeouts, usable_settings
from bertnli.fetch.entry import Archive, SourceError

if TYPE_CHECKING:
    import ssl

    from unearth.fetchers.sync import PyPIClient
    from unearth.finder import Source as Place  # {"url": …, "type": "index" or "find_links"}

# In pip's order: a variable overrides a command's section, which overrides the global one (pip's user guide,
# "Configuration").
_SECTIONS = (":env:", "download", "install", "global")
_OPTIONS = (
    "index-url",
    "extra-index-url",
    "no-index",
    "find-links",
    "trusted-host",
    "cert",
    "client-cert",
    "proxy",
)


def pip_settings() -> dict[str, str]:
    """pip's settings for reaching the index, as `pip config list` reports them; {} if none is set."""
    # -P: a file called pip in the working folder must not be imported.
    command = [sys.executable, "-P", "-m", "pip", "config", "list"]
    try:
        listed = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.SubprocessError):  # some tools make environments without pip
        variables = {option: "PIP_" + option.replace("-", "_").upper() for option in _OPTIONS}
        return {option: os.environ[name] for option, name in variables.items() if os.environ.get(name)}
    by_section: dict[tuple[str, str], str] = {}
    for line in listed.splitlines():  # :env:.index-url='https://…'
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        try:
            by_section[section, option] = str(ast.literal_eval(value))
        except (SyntaxError, ValueError):
            continue
    chosen = ((option, section) for section in reversed(_SECTIONS) for option in _OPTIONS)
    return {option: by_section[section, option] for option, section in chosen if (section, option) in by_section}


def download_archive(archive: Archive, target: Path) -> str:
    """Download the archive's file to `target`, from the first index or find-links location that has it.

    Returns that location's URL without secrets. Raises SourceError that lists all locations and why each failed,
    OSError if the file cannot be written.
    """
    settings = pip_settings()
    failures = []
    with _client(settings) as client:
        for place in _places(settings):
            shown = redact(place["url"])
            try:
                url = _find(place, archive, client)
                download(
                    url,
                    target,
                    limit=archive.download_limit,
                    size=archive.size,
                    checksum=archive.checksum,
                    client=client,
                )
                return shown
            except SourceError as error:
                failures.append(f"{shown}: {error}")
    raise SourceError("; ".join(failures) or "pip's settings allow no index and no location (no-index)")


def _places(settings: dict[str, str]) -> list[Place]:
    from unearth import PackageFinder

    finder = PackageFinder(index_urls=settings.get("index-url", "").split())  # empty: the default index, as in pip
    if settings.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        finder.sources = []
    else:
        for url in settings.get("extra-index-url", "").split():
            finder.add_index_url(url)
    indexes, finder.sources = finder.sources, []
    for location in settings.get("find-links", "").split():
        finder.add_find_links(location)
    return finder.sources + indexes


@contextmanager
def _client(settings: dict[str, str]) -> Iterator[PyPIClient]:
    """unearth's HTTP client. It supports file:// URLs, trusted hosts, and logins from the URL, netrc or keyring."""
    import httpx2
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers.sync import PyPIClient

    trusted = settings.get("trusted-host", "").split()
    proxy = settings.get("proxy") or None
    with usable_settings(proxy):
        # PyPIClient ignores the proxy for a trusted host; pip does not.
        unverified = {
            f"{scheme}://{host}": httpx2.HTTPTransport(verify=False, proxy=proxy or _environment_proxy(scheme, host))
            for scheme in ("http", "https")
            for host in trusted
        }
        client = PyPIClient(
            trusted_hosts=trusted,
            verify=_authority(settings),
            timeout=timeouts(),
            proxy=proxy,
            mounts=unverified,
            follow_redirects=True,
        )
    client.event_hooks = {"response": [*client.event_hooks["response"], refuse_downgrade]}
    indexes = [place["url"] for place in _places(settings) if place["type"] == "index"]
    client.auth = MultiDomainBasicAuth(prompting=sys.stdin.isatty(), index_urls=indexes)
    with client:
        yield client


def _environment_proxy(scheme: str, host: str) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    return None if proxy_bypass(host) else getproxies().get(scheme)


def _authority(settings: dict[str, str]) -> ssl.SSLContext | bool:
    """The accepted certificates: those in pip's setting `cert`, a file or folder, else the system's (True)."""
    if "cert" not in settings and "client-cert" not in settings:
        return True
    import ssl

    try:
        authority = settings.get("cert")
        is_folder = authority is not None and Path(authority).is_dir()
        context = ssl.create_default_context(
            cafile=None if is_folder else authority, capath=authority if is_folder else None
        )
        if "client-cert" in settings:
            context.load_cert_chain(settings["client-cert"])
    except OSError as error:
        raise SourceError(f"pip's settings cert or client-cert cannot be used ({error})") from error
    return context


def _find(place: Place, archive: Archive, client: PyPIClient) -> str:
    """The URL of the archive's file at one location. Raises SourceError if the location does not have it."""
    import httpx2
    from unearth import PackageFinder

    assert archive.requirement is not None, "an archive on the package index names its package"
    # Nothing is installed, so a package for any Python is accepted.
    finder = PackageFinder(session=client, ignore_compatibility=True)  # type: ignore[arg-type]  # its own client class
    finder.sources = [place]
    with _collected_warnings() as warnings:
        try:
            packages = list(finder.find_matches(archive.requirement))
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, OSError) as error:
            raise SourceError(f"cannot be read ({str(error) or type(error).__name__})") from error
    is_wheel = archive.filename.endswith(".whl")
    for package in packages:
        if package.link.is_wheel == is_wheel:
            return package.link.url_without_fragment
    why = f" ({warnings[-1]})" if warnings else ""
    raise SourceError(f"no {'wheel' if is_wheel else 'sdist'} of {archive.requirement}{why}")


@contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Collect unearth's log messages: it logs why an index cannot be used, and then treats the index as empty."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("unearth")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
