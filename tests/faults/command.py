"""The command `bertnli` in a forked process that has its libraries loaded: run to its end, or killed at any moment."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import environment

PATIENCE = 200.0  # seconds for a command that is not disturbed
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_LIBRARIES = ["tests.support.runs", "bertnli.cli", "bertnli_export.score", "onnxscript", "torch.onnx"]

Note = Callable[[str], None]
Prepare = Callable[..., None]


class Kind(ABC):
    """A kind of trials. The constructor runs its command undisturbed in `folder`, for the right result."""

    @abstractmethod
    def __init__(self, folder: Path): ...

    @abstractmethod
    def trial(self, folder: Path, draw: random.Random, note: Note) -> None:
        """One trial in an empty folder. `note` is told what happens. An AssertionError says what is wrong."""


@dataclass(frozen=True)
class Ended:
    """code: as multiprocessing has it, -N if signal N killed the command. said: all that it printed."""

    code: int
    said: str
    seconds: float

    @property
    def refused(self) -> bool:
        return self.code in (1, 2)


class Command:
    """`bertnli ARGUMENTS` in `folder`, with a cache of its own there. prepare: called first, in its process."""

    def __init__(self, folder: Path, *arguments: object, prepare: tuple[Prepare, tuple[object, ...]] | None = None):
        self._log, self._began = folder / "said.log", time.monotonic()
        self._log.unlink(missing_ok=True)
        server = multiprocessing.get_context("forkserver")
        server.set_forkserver_preload(_LIBRARIES)
        words = [str(argument) for argument in arguments]
        variables = environment(BERTNLI_CACHE=str(folder / "cache"), CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
        self._process = server.Process(target=_run, args=(folder, self._log, variables, prepare, words), daemon=True)
        self._process.start()

    def end(self, patience: float = PATIENCE) -> Ended:
        """Wait for its end. It may not hang, show a traceback, or fail without a message."""
        self._process.join(patience)
        said = self._log.read_text(errors="replace") if self._log.exists() else None
        if self._process.exitcode is None:
            self._process.kill()
            raise AssertionError(f"it hangs; it said: {said}")
        if said is None:  # killed before the command had begun, in Python's own start
            return Ended(-signal.SIGKILL, "", 0.0)
        ended = Ended(self._process.exitcode, said, time.monotonic() - self._began)
        assert "Traceback" not in said, said
        assert ended.code in (0, 1, 2, 130, 143) or -ended.code in _SIGNALS, f"{ended.code}: {said}"
        told = any(line.startswith("bertnli") for line in said.splitlines())
        assert told or not ended.refused, f"{ended.code} without a message: {said}"
        return ended

    def kill(self, draw: random.Random, usual: float, note: Note) -> Ended:
        """Send it a random signal within the `usual` time that it takes, and wait for its end."""
        number, moment = draw.choice(_SIGNALS), draw.uniform(0, usual)
        self._process.join(moment)
        if self._process.exitcode is None and self._process.pid is not None:
            os.kill(self._process.pid, number)
        ended = self.end()
        note(f"{number.name} after {moment:.2f} s: {ended.code}")
        return ended


def _run(
    folder: Path,
    log: Path,
    variables: dict[str, str],
    prepare: tuple[Prepare, tuple[object, ...]] | None,
    arguments: list[str],
) -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # until the command has its own handlers
        signal.signal(number, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    code = 1
    try:
        if prepare is not None:
            prepare[0](*prepare[1])
        from bertnli import cli

        sys.argv = ["bertnli", *arguments]
        cli.main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)
