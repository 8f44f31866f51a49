"""The hosts of a job: a hostfile in DeepSpeed's form, read strictly, and `--include` / `--exclude` laid over it.

DeepSpeed itself takes a hostfile that is not there for a job on this machine alone, and its pattern overlooks what
stands behind the slots. Here both are errors with the line's number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bertnli.common.errors import InputError

# Host -> the slots to use on it, in the hostfile's order: the first host runs rank 0. A slot is a GPU's number on its
# host, or one process where hosts have no GPUs.
Hosts = Mapping[str, tuple[int, ...]]

# What ssh, pdsh's lists (`a[1-3],b`) and `--include` (`a@b:0,2`) all take for one host's name, and no option of ssh.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SLOTS = re.compile(r"slots=([0-9]{1,4})")
_LINE = "a host, a space and slots=N, such as: worker-1 slots=8"


def read(path: str | Path) -> dict[str, tuple[int, ...]]:
    """The hosts of the file at `path`, one a line as `HOST slots=N`; `#` begins a comment, blank lines are nothing.

    Raises InputError with the line's number and text for anything else, a host named twice, or no host at all.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
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
                do="a user, a port or an IPv6 address belongs into an entry of your ssh configuration (~/.ssh/config)",
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
            raise InputError(where, found=f"{name} a second time, first on line {first_seen[name]}")
        hosts[name], first_seen[name] = tuple(range(slots[0])), number
    if not hosts:
        raise InputError(f"hostfile {path}", found="no host", expected=f"a line for each host: {_LINE}")
    return hosts


def select(hosts: Hosts, include: str | None = None, exclude: str | None = None) -> dict[str, tuple[int, ...]]:
    """The hosts and slots that `--include`, or else `--exclude`, leaves, in the hostfile's order.

    Both are `HOST[:SLOT,…]` joined by `@`, as DeepSpeed takes them: `worker-1@worker-2:0,2` is all of worker-1 and two
    slots of worker-2. Raises InputError for a host or slot that the hostfile does not have, or if nothing is left.
    """
    if include and exclude:
        raise InputError("--include and --exclude", found="both", expected="one of them")
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
        raise InputError(f"{option} {text}", found="no slot left to run on")
    return left


def _parse_filter(option: str, text: str, hosts: Hosts) -> dict[str, tuple[int, ...]]:
    named: dict[str, set[int]] = {}
    for part in text.split("@"):
        host, colon, numbers = part.partition(":")
        where = f"{option} {text}: {part!r}"
        if host not in hosts:
            raise InputError(where, found=f"no host {host!r} in the hostfile", expected=f"one of {', '.join(hosts)}")
        if colon and not re.fullmatch(r"[0-9]+(,[0-9]+)*", numbers):
            raise InputError(where, found=f"the slots {numbers!r}", expected="numbers with commas, such as 0,2")
        slots = {int(number) for number in numbers.split(",")} if colon else set(hosts[host])
        missing = slots - set(hosts[host])
        if missing:
            raise InputError(
                where, found=f"slot {min(missing)}", expected=f"0 to {max(hosts[host])}, as the hostfile says of {host}"
            )
        named.setdefault(host, set()).update(slots)
    return {host: tuple(sorted(slots)) for host, slots in named.items()}


def to_text(hosts: Hosts) -> str:
    """A hostfile for DeepSpeed that holds these hosts; goes with `to_include`, since a hostfile only counts slots."""
    return "".join(f"{host} slots={max(slots) + 1}\n" for host, slots in hosts.items())


def to_include(hosts: Hosts) -> str:
    """The `--include` that names exactly these slots."""
    return "@".join(f"{host}:{','.join(map(str, slots))}" for host, slots in hosts.items())
