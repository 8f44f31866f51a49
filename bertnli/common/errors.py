"""The errors that a user can cause, and their exit codes.

Any other exception that reaches the command line is a bug and shows its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bertnli.common.printable import printable


class BertnliError(Exception):
    """One message that tells the user what to do: what; found; expected; do.

    what: names the file, row or key. The other parts are omitted if they would only repeat it. lines: more lines below
    it. Each part and each line is made `printable`, as it may have text from elsewhere.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        do: str | None = None,
        lines: Sequence[str] = (),
    ):
        parts = [what]
        if found is not None:
            parts.append(f"found {found}")
        if expected is not None:
            parts.append(f"expected {expected}")
        if do is not None:
            parts.append(do)
        super().__init__("\n".join(["; ".join(map(printable, parts)), *map(printable, lines)]))

    def __reduce__(self) -> tuple[Any, ...]:
        """For a worker process, which sends it whole: it is not made printable again, and keeps its lines."""
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(kind: type[BertnliError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> BertnliError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class InputError(BertnliError, ValueError):
    """The input, the options or the environment are wrong (exit code 2)."""

    exit_code = 2


class ReportedElsewhere(InputError):
    """The error that another rank reports; this rank ends without a message."""


class RunError(BertnliError, RuntimeError):
    """The work failed after it had started (exit code 1)."""


class Interrupted(BaseException):
    """The user (SIGINT, exit code 130) or a scheduler (SIGTERM, exit code 143) asked to stop; the state is kept.

    Derives from BaseException, like KeyboardInterrupt, so that code which reports any library Exception as "the file is
    damaged" does not catch it.
    """

    def __init__(self, signal_number: int, what: str, *, do: str | None = None):
        super().__init__(printable(what if do is None else f"{what}; {do}"))
        self.exit_code = 128 + signal_number


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, the one that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def first_line(error: BaseException) -> str:
    """What an error of a library or of the system says, on one line: its first, or the system's reason alone."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
