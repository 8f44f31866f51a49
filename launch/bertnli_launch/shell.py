"""Words through shells, unharmed: what DeepSpeed and ssh paste into the command line that a remote shell reads.

DeepSpeed's pdsh command puts variables and arguments into double quotes where it sees a need and escapes at most the
quotes in them; pdsh replaces %h, %n and %u on the way; a shell then reads the line. What is written here comes out of
all that as it went in (deepspeed/launcher/multinode_runner.py: add_export and PDSHRunner).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from bertnli.common.errors import InputError

# Nobody is there to type a password; a host that is gone shows within 15 s.
SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)


def over_ssh(host: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The ssh command that runs `command` on `host`, with these variables added to the environment there."""
    settings = [f"{name}={value}" for name, value in (environment or {}).items()]
    # exec: a signal for the remote command, or its exit status, meets no shell on the way
    return [*SSH, host, "exec " + shlex.join([*(("env", *settings) if settings else ()), *command])]


def deepspeed_env_file(variables: Mapping[str, str]) -> str:
    """The text of an env file (DS_ENV_FILE) from which each value arrives as it is.

    Raises InputError for a value with a line break, which cannot be written in such a file.
    """
    lines = []
    for name, value in variables.items():
        if "\n" in value or "\r" in value:
            raise InputError(
                f"environment variable {name}", found="a line break in its value", do="unset it, or keep it to a line"
            )
        escaped = re.sub(r'([\\"$`])', r"\\\1", value).replace("%", "%%")
        if value != value.strip():  # expansions to nothing keep DeepSpeed from stripping the spaces
            escaped = f"${{BERTNLI_NOTHING-}}{escaped}${{BERTNLI_NOTHING-}}"
        lines.append(f"{name}={escaped}\n")
    return "".join(lines)


def deepspeed_argument(argument: str) -> str:
    """An argument for the user's module, to be given to `deepspeed`, that arrives there through pdsh as it is."""
    if " " in argument:  # DeepSpeed puts it into double quotes and escapes those inside
        return re.sub(r"([\\$`])", r"\\\1", argument).replace("%", "%%")
    return shlex.quote(argument).replace("%", "%%")


def check_plain(what: str, text: str) -> None:
    """Raises InputError if `text` could not stand in a shell's command line without quotes, where DeepSpeed puts it."""
    if not re.fullmatch(r"[A-Za-z0-9_@+=:,./-]+", text):
        raise InputError(
            f"{what} {text!r}",
            found="a character that DeepSpeed would hand to a shell as it is",
            expected="letters, digits and _ @ + = : , . / - only",
        )
