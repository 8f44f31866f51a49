"""How a rank ended, and with it the job: which rank on which host, its exit code, and its error."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bertnli.common.signals import exit_text

PREFIX = "bertnli train: "
"""Begins each message that bertnli itself prints in training."""

# Bytes of a rank's error that are kept. As JSON each may take six, and a line of the link holds 65,536 (channel.py).
_MAX_TEXT = 8000
_TAIL_LINES = 10  # lines that are kept of output without an error

# What the other ranks print when a peer is gone: messages of gloo, NCCL and the rendezvous about a broken connection.
_PEER_LOST = re.compile(
    r"Connection (closed by peer|reset by peer|refused)|Broken pipe|Socket closed|DistNetworkError|DistBackendError"
    r"|DistStoreError|ncclRemoteError|ncclSystemError|gloo/transport|failed to recv|recvValue failed"
)
_HINTS = {
    -signal.SIGKILL: "by a user, or by the kernel when memory ran out (dmesg): lower micro_batch_tokens or start fewer "
    "ranks",
    -signal.SIGBUS: "is /dev/shm full?",
}


CHECKED = ConfigDict(extra="forbid")  # for __pydantic_config__ of what arrives from another process
HostName = Annotated[str, Field(max_length=255)]


@dataclass(frozen=True)
class Ending:
    """How one rank ended.

    rank, host: which one. code: the exit code that the job gets from it. how: completes "rank N on HOST ...". text: its
    error: a traceback, a message of bertnli, or its last lines. kind: `ended` (the process ended), `stalled` (no
    progress) or `lost` (no message from its watcher).
    """

    __pydantic_config__ = CHECKED

    rank: Annotated[int, Field(ge=0)]
    host: HostName
    code: Annotated[int, Field(ge=0, le=255)]
    how: Annotated[str, Field(max_length=1000)]
    text: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    kind: Literal["ended", "stalled", "lost"] = "ended"

    @classmethod
    def of_process(cls, rank: int, host: str, returncode: int, stopped_by: int, stderr: str) -> Ending:
        """From subprocess's return code, the signal that was passed on to the process (0: none), and its output."""
        text = error_text(stderr)
        # Any other code means that it failed while it was stopping: for example, the last checkpoint was not written.
        as_requested = returncode in (128 + stopped_by, -stopped_by)
        killed = (stopped_by, returncode) == (signal.SIGINT, -signal.SIGKILL)  # by a second Ctrl-C
        if stopped_by and (as_requested or killed):
            return cls(rank, host, 128 + stopped_by, f"was stopped by {signal.Signals(stopped_by).name}", text)
        hint = f" ({_HINTS[returncode]})" if returncode in _HINTS else ""
        code = returncode if returncode >= 0 else 128 - returncode
        return cls(rank, host, code, f"{exit_text(returncode)}{hint}", text)

    @property
    def failed(self) -> bool:
        """False if it finished, refused its input (2), or was stopped by a signal after saving its state (130, 143)."""
        return self.code not in (0, 2, 130, 143)

    @property
    def peer_failure(self) -> bool:
        """Whether this failure is only the effect of another rank's failure: its error is a broken connection."""
        return self.failed and bool(_PEER_LOST.search(self.text))

    @property
    def unexplained(self) -> bool:
        """Whether another rank tells why: of a peer failure, or of a refusal (2) without a message of bertnli."""
        return self.peer_failure or (self.code == 2 and PREFIX not in self.text)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} {self.how}"


def root_cause(endings: Iterable[Ending]) -> Ending:
    """The ending that caused the others; `endings` are in the order in which they were reported.

    One that is not a peer failure comes first; of ranks that refuse their input (2), the one that printed why.
    """
    return min(endings, key=lambda ending: (ending.peer_failure, ending.unexplained))


def error_text(output: str) -> str:
    """The traceback or bertnli's message at the end of a process's output; if there is none, the last ten lines."""
    lines = output.rstrip().splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith(("Traceback (most recent call last)", PREFIX, "Fatal Python error")):
            return _end_of("\n".join(lines[number:]))
    return _end_of("\n".join(lines[-_TAIL_LINES:]))


def _end_of(text: str) -> str:
    """The last bytes that are kept, without a character that the cut goes through."""
    return text.encode(errors="replace")[-_MAX_TEXT:].decode(errors="ignore")
