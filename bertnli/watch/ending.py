"""How a rank, and with it the job, ended: which rank on which host, the exit code, and what it said last."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

_TEXT = 6000  # characters kept of what a rank said last
_SAYS = "bertnli train: "  # begins a message of ours
_LINES = 10  # shown of a rank that said nothing in particular

# What ranks that are left say of one that is gone: gloo's, NCCL's, the rendezvous' words for a broken connection.
_ABOUT_ANOTHER = re.compile(
    r"Connection (closed by peer|reset by peer|refused)|Broken pipe|Socket closed|DistNetworkError|DistBackendError"
    r"|DistStoreError|ncclRemoteError|ncclSystemError|gloo/transport|failed to recv|recvValue failed"
)
_REASONS = {
    "SIGKILL": "by hand, or as memory ran out, which dmesg knows: then lower micro_batch_tokens, or start fewer ranks",
    "SIGBUS": "is /dev/shm full?",
}


@dataclass(frozen=True)
class Ending:
    """rank, host: whose. code: the exit code that it gives the job. how: follows on "rank N on HOST".

    text: what it said last: a traceback, an error's message, or its last lines. kind: whether it ended, made no
    progress, or gave no sign.
    """

    rank: int
    host: str
    code: int
    how: str
    text: str = ""
    kind: Literal["ended", "stalled", "lost"] = "ended"

    @classmethod
    def of_process(cls, rank: int, host: str, returncode: int, stopped_by: int, output: str) -> Ending:
        """From a return code as subprocess has it, the signal that was passed on to it (0: none), and its output."""
        text = last_words(output)
        # With any other code it has failed on its way out, as where the last checkpoint cannot be written.
        as_asked = returncode in (128 + stopped_by, -stopped_by)
        at_once = (stopped_by, returncode) == (signal.SIGINT, -signal.SIGKILL)  # by a second Ctrl-C
        if stopped_by and (as_asked or at_once):
            return cls(rank, host, 128 + stopped_by, f"was stopped by {signal.Signals(stopped_by).name}", text)
        if returncode >= 0:
            return cls(rank, host, returncode, f"ended with exit code {returncode}", text)
        name = signal.Signals(-returncode).name
        reason = f" ({_REASONS[name]})" if name in _REASONS else ""
        return cls(rank, host, 128 - returncode, f"was ended by {name}{reason}", text)

    @property
    def failed(self) -> bool:
        """Not finished, not refused for its input (2), not stopped by a signal with its state kept (130, 143)."""
        return self.code not in (0, 2, 130, 143)

    @property
    def about_another(self) -> bool:
        """Whether this is only what the failure of another rank looks like from here."""
        return self.failed and bool(_ABOUT_ANOTHER.search(self.text))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} {self.how}"


def first(endings: Iterable[Ending]) -> Ending:
    """The one that the others followed, of endings in the order in which they came to light."""
    return min(endings, key=lambda ending: (ending.about_another, ending.code == 2 and _SAYS not in ending.text))


def last_words(output: str) -> str:
    """The traceback at the end of a process' output; or the error in its last lines; or else its last ten lines."""
    lines = output.rstrip().splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].startswith(("Traceback (most recent call last)", _SAYS, "Fatal Python error")):
            return "\n".join(lines[number:])[-_TEXT:]
    return "\n".join(lines[-_LINES:])[-_TEXT:]
