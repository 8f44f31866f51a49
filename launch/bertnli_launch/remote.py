"""Asking many hosts at once: a probe (probe.py) on each, over one ssh connection a host, until all is asked."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from bertnli.common.errors import InputError
from bertnli.common.installed import __version__
from bertnli_launch import shell
from bertnli_launch.probe import MARK

_TIMEOUT = 120.0  # seconds for one answer; fingerprints of large files on slow storage take longest
_AT_ONCE = 64

_T = TypeVar("_T")


class Unreachable(Exception):
    """A host that gives no answer: why, and the mend."""


class Remote:
    """The probe on one host. Raises InputError if there is no ssh."""

    def __init__(self, host: str, environment: Mapping[str, str]):
        self.host = host
        self._unread = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the connection
        # PYTHONSAFEPATH: a folder called launch where the session begins is not ours
        command = shell.over_ssh(
            host, [sys.executable, "-m", "bertnli_launch.probe"], {**environment, "PYTHONSAFEPATH": "1"}
        )
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True
            )
        except FileNotFoundError:
            raise InputError("ssh is not installed here", do="apt-get install openssh-client") from None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """What the probe answers. Raises Unreachable if nothing comes."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
        end = time.monotonic() + _TIMEOUT
        while True:
            line, newline, rest = self._unread.partition(b"\n")
            if newline:
                self._unread = rest
                if line.startswith(MARK.encode()):
                    return dict(json.loads(line[len(MARK) :]))
            elif not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise Unreachable(f"it gave no answer for {_TIMEOUT:.0f} s; see whether it or its storage hangs")
            else:
                more = os.read(self._process.stdout.fileno(), 65536)
                if not more:
                    raise Unreachable(self._why_it_ended())
                self._unread += more

    def clock_offset(self) -> float:
        """Seconds that the host's clock is ahead of this one's, from the quickest of three answers."""
        measured = []
        for _ in range(3):
            sent = time.time()
            there = self.ask("clock")["time"]
            received = time.time()
            measured.append((received - sent, there - (sent + received) / 2))
        return min(measured)[1]

    def close(self) -> None:
        """End the probe, and with it all it did on the host."""
        with contextlib.suppress(subprocess.TimeoutExpired, BrokenPipeError):
            self._process.communicate(timeout=5)  # closes its input
        self._process.kill()
        self._process.wait()

    def _why_it_ended(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else f"exit code {code}"
        if code in (126, 127):
            return f"{sys.executable} cannot be run there ({last}); the hosts need the same Python at the same path"
        if code != 255:
            install = f"ssh {self.host} {sys.executable} -m pip install 'bertnli[train]=={__version__}'"
            return f"bertnli does not run there ({last}); install the same one: {install}"
        if "Permission denied" in last:
            return f"ssh asks for a password ({last}); let your key in: ssh-copy-id {self.host}"
        if "verification failed" in last:
            return f"ssh does not know its host key ({last}); check and accept it: ssh {self.host} true"
        return f"ssh does not reach it ({last}); see to it that this works: ssh {self.host} true"


class Inquiry:
    """A probe on every host; one that gives no answer is left out. `problems`: pairs of a host and what is wrong."""

    def __init__(self, hosts: Iterable[str], environment: Mapping[str, str]):
        self.problems: list[tuple[str, str]] = []
        self._remotes = {host: Remote(host, environment) for host in hosts}

    def __enter__(self) -> Inquiry:
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(Remote.close, self._remotes.values()))

    def complain(self, host: str, problem: str) -> None:
        self.problems.append((host, problem))

    def ask(self, do: str, requests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """The answers to each host's own request, of those that gave one, in order."""
        return self.each(requests, lambda remote: remote.ask(do, **requests[remote.host]))

    def each(self, hosts: Iterable[str], act: Callable[[Remote], _T]) -> dict[str, _T]:
        """What `act` gives for each of `hosts` that answers, all at once."""

        def one(host: str) -> _T | Unreachable:
            try:
                return act(self._remotes[host])
            except Unreachable as error:
                return error

        asked = [host for host in hosts if host in self._remotes]
        results: dict[str, _T] = {}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for host, result in zip(asked, pool.map(one, asked), strict=True):
                if isinstance(result, Unreachable):
                    self.complain(host, str(result))
                    self._remotes.pop(host).close()
                else:
                    results[host] = result
        return results
