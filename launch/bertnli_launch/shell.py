"""Quoting: arguments and variables that DeepSpeed, pdsh and ssh pass through a remote shell arrive unchanged.

DeepSpeed puts some variables and arguments into double quotes, and escapes at most the quotes in them
(deepspeed/launcher/multinode_runner.py: add_export and PDSHRunner). Then pdsh replaces %h, %n and %u, and at last a
shell reads the line. The functions here escape text so that the result is the text again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from bertnli.common.errors import InputError

# BatchMode: fail instead of asking for a password. ServerAlive: a host that is gone is noticed within 15 s.
SSH = (
    *("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
)


def over_ssh(host: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The ssh command that runs `command` on `host` with these variables added to the environment."""
    settings = [f"{name}={value}" for name, value in (environment or {}).items()]
    # exec: no shell stays between ssh and the command, which would keep signals or the exit status to itself
    return [*SSH, host, "exec " + shlex.join([*(("env", *settings) if settings else ()), *command])]


def deepspeed_env_file(variables: Mapping[str, str]) -> str:
    """The text of an env file for DeepSpeed (DS_ENV_FILE) from which each value arrives unchanged.

    Raises InputError for a value with a line break: such a file cannot hold one.
    """
    lines = []
    for name, value in variables.items():
        if "\n" in value or "\r" in value:
            raise InputError(
                f"environment variable {name}",
                found="a line break in its value",
                do="unset it, or give it one line",
            )
        escaped = re.sub(r'([\\"$`])', r"\\\1", value).replace("%", "%%")
        if value != value.strip():  # DeepSpeed strips spaces at the ends; expansions to nothing protect them
            escaped = f"${{BERTNLI_NOTHING-}}{escaped}${{BERTNLI_NOTHING-}}"
        lines.append(f"{name}={escaped}\n")
    return "".join(lines)


def deepspeed_argument(argument: str) -> str:
    """Escape an argument of the user's module for `deepspeed`, so that it arrives unchanged through pdsh."""
    if " " in argument:  # DeepSpeed puts it into double quotes and escapes quotes inside
        return re.sub(r"([\\$`])", r"\\\1", argument).replace("%", "%%")
    return shlex.quote(argument).replace("%", "%%")


def check_plain(what: str, text: str) -> None:
    """Raises InputError if a shell would change `text`, which DeepSpeed puts into its command line without quotes."""
    if not re.fullmatch(r"[A-Za-z0-9_@+=:,./-]+", text):
        raise InputError(
            f"{what} {text!r}",
            found="a character that DeepSpeed passes to a shell without quotes",
            expected="letters, digits and _ @ + = : , . / - only",
        )
