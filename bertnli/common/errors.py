"""The errors a person can cause, and the exit codes they end in.

Anything else that reaches the command line is a bug and keeps its traceback.
"""

from __future__ import annotations


class BertnliError(Exception):
    """One message a person can act on: what, found, expected, what to do.

    `what` names the file, row or key. The other parts are left out where they would only repeat it.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        do: str | None = None,
    ):
        parts = [what]
        if found is not None:
            parts.append(f"found {found}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if do is not None:
            parts.append(do)
        super().__init__("; ".join(parts))


class InputError(BertnliError, ValueError):
    """The input, the options or the environment are wrong (exit code 2)."""

    exit_code = 2


class ReportedElsewhere(InputError):
    """Another rank says what is wrong; this one ends with it, silently."""


class RunError(BertnliError, RuntimeError):
    """The work had started and failed (exit code 1)."""


class Interrupted(BaseException):
    """The user (SIGINT, exit code 130) or a scheduler (SIGTERM, exit code 143) asked to stop; state is kept.

    No Exception, as KeyboardInterrupt is none: it may come anywhere, and whoever makes "the file is damaged" of
    whatever a library raises, or has libraries do so, would make that of it.
    """

    def __init__(self, signal_number: int, what: str, *, do: str | None = None):
        super().__init__(what if do is None else f"{what}; {do}")
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """What an error of a library or of the system says, on one line: its first, or the system's reason alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
