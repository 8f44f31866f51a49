"""The hosts of a job: a hostfile in DeepSpeed's format, read strictly, and `--include` and `--exclude`.

If a hostfile is missing, DeepSpeed itself starts the job on this machine only, and it ignores what follows the slots on
a line. Here both are errors, the latter with the line's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bertnli.common.encodings import read_text
from bertnli.common.errors import InputError

# Host -> the slots to use on it, in the order of the hostfile; the first host runs rank 0. A slot is a GPU's number on
# its host; on hosts without GPUs, one process.
Hosts = Mapping[str, tuple[int, ...]]

# A name that ssh, pdsh's lists (`a[1-3],b`) and `--include` (`a@b:0,2`) all read as one host, and ssh not as an option.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SLOTS = re.compile(r"slots=([0-9]{1,4})")
_LINE = "a host, a space and slots=N, such as: worker-1 slots=8"


def read(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Read a file of `HOST slots=N` lines; `#` begins a comment, and blank lines are skipped.

    Raises InputError, with the line's number and text, for anything else, for a host named twice, or if there is none.
    """
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        raise InputError(
            f"hostfile {path}: {error}", expected=f"a text file with a line for each host: {_LINE}"
        ) from None
    hosts: dict[str, tuple[int, ...]] = {}
    first_seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where, name = f"hostfile {path}, line {number}: {line.strip()!r}", words[0]
        if not _NAME.fullmatch(name):
            raise InputError(
                where,
                found=f"the host {name!r}",
                expected="letters, digits and . _ - only",
                do="put a user, a port or an IPv6 address into an entry of your ssh configuration (~/.ssh/config)",
            )
        slots = [int(match[1]) for word in words[1:] if (match := _SLOTS.fullmatch(word))]
        unknown = [word for word in words[1:] if not _SLOTS.fullmatch(word)]
        if unknown:
            raise InputError(where, found=f"the word {unknown[0]!r}", expected=_LINE)
        if len(slots) != 1:
            raise InputError(where, found="slots= twice" if slots else "no slots=", expected=_LINE)
        if slots == [0]:
            raise InputError(where, found="no slot to run on", expected="slots=1 or more", do="or remove the line")
        if name in hosts:
            raise InputError(where, found=f"{name} twice, first on line {first_seen[name]}")
        hosts[name], first_seen[name] = tuple(range(slots[0])), number
    if not hosts:
        raise InputError(f"hostfile {path}", found="no host", expected=f"a line for each host: {_LINE}")
    return hosts


def select(hosts: Hosts, include: str | None = None, exclude: str | None = None) -> dict[str, tuple[int, ...]]:
    """The hosts and slots that remain after `--include` or `--exclude`, in the order of the hostfile.

    Both have DeepSpeed's format, `HOST[:SLOT,…]` joined by `@`: `worker-1@worker-2:0,2` means all slots of worker-1 and
    two of worker-2. Raises InputError for a host or slot that is not in the hostfile, or if nothing remains.
    """
    if include and exclude:
        raise InputError("--include and --exclude", found="both", expected="only one of them")
    if not include and not exclude:
        return dict(hosts)
    option, text = ("--include", include) if include else ("--exclude", exclude)
    named = _parse_filter(option, text or "", hosts)
    if include:
        left = {host: named[host] for host in hosts if host in named}
    else:
        left = {host: tuple(slot for slot in slots if slot not in named.get(host, ())) for host, slots in hosts.items()}
    left = {host: slots for host, slots in left.items() if slots}
    if not left:
        raise InputError(f"{option} {text}", found="no slot to run on")
    return left


def _parse_filter(option: str, text: str, hosts: Hosts) -> dict[str, tuple[int, ...]]:
    named: dict[str, set[int]] = {}
    for part in text.split("@"):
        host, colon, numbers = part.partition(":")
        where = f"{option} {text}: {part!r}"
        if host not in hosts:
            raise InputError(where, found=f"no host {host!r} in the hostfile", expected=f"one of {', '.join(hosts)}")
        if colon and not re.fullmatch(r"[0-9]+(,[0-9]+)*", numbers):
            raise InputError(where, found=f"the slots {numbers!r}", expected="numbers separated by commas, such as 0,2")
        slots = {int(number) for number in numbers.split(",")} if colon else set(hosts[host])
        missing = slots - set(hosts[host])
        if missing:
            raise InputError(
                where,
                found=f"slot {min(missing)}",
                expected=f"0 to {max(hosts[host])}, the slots of {host}",
            )
        named.setdefault(host, set()).update(slots)
    return {host: tuple(sorted(slots)) for host, slots in named.items()}


def to_text(hosts: Hosts) -> str:
    """A hostfile for DeepSpeed with these hosts. Use it with `to_include`: a hostfile can only count slots."""
    return "".join(f"{host} slots={max(slots) + 1}\n" for host, slots in hosts.items())


def to_include(hosts: Hosts) -> str:
    """The value of `--include` that names exactly these slots."""
    return "@".join(f"{host}:{','.join(map(str, slots))}" for host, slots in hosts.items())
