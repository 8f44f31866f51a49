"""The preflight: check every host before anything starts on any; ask them all at once (remote.py), then compare.

It prints a table with a row for each host. All problems together are one error, which says how to fix each. Nothing
stays on the hosts.
"""

from __future__ import annotations

import shlex
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.network import GLOO, NCCL, with_port
from bertnli.common.printable import printable_lines
from bertnli.watch.rank_env import PORT, watch_port
from bertnli_launch.hostfile import Hosts
from bertnli_launch.remote import RemoteHost, RemoteHosts

DEFAULT_PORT = 29500  # DeepSpeed's and torch's
MAX_SKEW = 2.0  # seconds between two hosts' clocks
_GIB = 2**30

Facts = Mapping[str, Any]  # what probe.facts returns


@dataclass(frozen=True)
class PreflightResult:
    """The result of a preflight without problems: the master's address, and the facts of every host."""

    master: str
    facts: Mapping[str, Facts]

    @property
    def on_gpus(self) -> bool:
        """Whether the ranks will compute on GPUs."""
        return on_gpus(next(iter(self.facts.values())))


@dataclass(frozen=True)
class Needs:
    """What a run needs on every host.

    paths: files and folders that must exist and be the same, by their keys in the run file ("data.train"). output: the
    run's folder, on storage that all hosts share. disk: free bytes needed there. memory: free bytes needed for each
    rank.
    """

    paths: Mapping[str, Path] = field(default_factory=dict)
    output: Path | None = None
    disk: int = 0
    memory: int = 0


def preflight(
    hosts: Hosts,
    needs: Needs,
    environment: Mapping[str, str],
    *,
    master: str | None,
    port: int,
    show: Callable[[str], None] = print,
) -> PreflightResult:
    """Check every host and show the table. Raises InputError with all problems of all hosts.

    environment: what the ranks will get; the probes get it too, so that they find the same Python, libraries and
    interfaces. master: an address of the first host that the others reach (default: found here). port: the master's.
    """
    with RemoteHosts(hosts, environment) as remotes:
        request = {"paths": {label: str(path) for label, path in needs.paths.items()}}
        output = {} if needs.output is None else {"output": str(needs.output)}
        facts = remotes.ask("facts", {host: {**request, **output} for host in hosts})
        for host, found in facts.items():
            for problem in compare(host, hosts[host], found, needs, facts):
                remotes.add_problem(host, problem)
        skews, interfaces = _check_clocks(remotes, facts), {}
        if facts and needs.output is not None:
            _check_storage(remotes, facts, needs.output)
        if next(iter(hosts)) in facts:  # the first host is the master
            master = master or _find_master(remotes, facts)
            ports = [port, watch_port({**environment, "MASTER_PORT": str(port)})]
            interfaces = _check_network(remotes, facts, master, ports)
    problems = sorted(remotes.problems, key=lambda problem: list(hosts).index(problem[0]))
    show(printable_lines(_table(hosts, facts, skews, interfaces, problems)))
    if problems:
        raise InputError(
            f"preflight: {len(problems)} problem{'s' * (len(problems) > 1)}; nothing was started",
            lines=[f"  {host}: {problem}" for host, problem in problems],
        )
    assert master is not None
    return PreflightResult(master, facts)


# One host against the first that answers


def on_gpus(facts: Facts) -> bool:
    """Whether ranks on this host compute on GPUs."""
    return facts["gpus"] > 0 and facts["torch_cuda"] is not None


def compare(host: str, slots: Sequence[int], mine: Facts, needs: Needs, facts: Mapping[str, Facts]) -> list[str]:
    """The problems of one host, compared with the first, each with its fix. `mine`: its facts; `facts`: all hosts'."""
    first, reference = next(iter(facts.items()))
    pip = f"ssh {host} {shlex.quote(sys.executable)} -m pip install"
    problems = []
    for name in ("python", "bertnli", "torch", "deepspeed"):
        if mine[name] is None:
            problems.append(f"{name} is not installed; {pip} 'bertnli[train]'")
        elif reference[name] not in (None, mine[name]):
            fix = "install the same on both" if name == "python" else f"{pip} {name}=={reference[name]}"
            if mine[name].partition("+")[0] == reference[name].partition("+")[0]:  # for pip the two are the same
                fix = f"install the build of {first}"
            problems.append(f"{name} is {mine[name]}, but {reference[name]} on {first}; {fix}")
    if mine["bertnli"] == reference["bertnli"] and mine["source"] != reference["source"]:
        problems.append(f"bertnli {mine['bertnli']} is not the same code as on {first}; install the same on both")
    problems += _compare_devices(slots, mine, first, reference)

    advice = "copy it there, or put it on storage that all hosts share"
    for label, path in needs.paths.items():
        here, there = mine["paths"][label], reference["paths"][label]
        if "problem" in here:
            problems.append(f"{label}: {path}: {here['problem']}; {advice}")
        elif "digest" in there and here != there:
            problems.append(f"{label}: {path} is not the same as on {first}; {advice}")
    if mine["memory"] < needs.memory * len(slots):
        problems.append(
            f"{mine['memory'] / _GIB:.1f} GiB of memory free, {needs.memory * len(slots) / _GIB:.1f} GiB needed for "
            f"{len(slots)} ranks; free some memory, or give this host fewer slots"
        )
    if mine["disk"] < needs.disk:
        problems.append(
            f"{mine['disk'] / _GIB:.1f} GiB free for {needs.output}, {needs.disk / _GIB:.1f} GiB needed for its "
            "checkpoints; free some space, or set a smaller checkpoint.keep"
        )
    return problems


def _compare_devices(slots: Sequence[int], mine: Facts, first: str, reference: Facts) -> list[str]:
    fewer = "lower slots= in the hostfile, or exclude slots with --exclude"
    if mine["driver_problem"]:
        return [f"its GPUs cannot be used: {mine['driver_problem']}"]
    if on_gpus(reference):
        if mine["gpus"] and mine["torch_cuda"] is None:
            return [f"its torch {mine['torch']} is built without CUDA; install the build of {first}"]
        if not mine["gpus"]:
            return [f"it has no GPUs, but {first} has; use hosts of one kind"]
        if mine["gpus"] <= max(slots):
            return [f"slot {max(slots)} is requested (slots count from 0), but it has {mine['gpus']} GPUs; {fewer}"]
    elif on_gpus(mine):
        return [f"it has GPUs, but {first} has none that torch can use; use hosts of one kind"]
    elif mine["cores"] < len(slots):
        return [f"{len(slots)} slots are requested, one process each, but it has {mine['cores']} cores; {fewer}"]
    return []


# All hosts together


def _check_clocks(remotes: RemoteHosts, facts: Mapping[str, Facts]) -> dict[str, float]:
    """Seconds by which each host's clock is ahead of the first host's."""
    offsets = remotes.map(RemoteHost.clock_offset, facts)
    first = next(iter(offsets), None)
    skews = {host: offset - offsets[str(first)] for host, offset in offsets.items()}
    for host, skew in skews.items():
        if abs(skew) > MAX_SKEW:
            remotes.add_problem(
                host,
                f"its clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} that of {first}; "
                "synchronize it (chrony, ntpd or systemd-timesyncd)",
            )
    return skews


def _check_storage(remotes: RemoteHosts, facts: Mapping[str, Facts], output: Path) -> None:
    """The first host writes a file where the run's folder will be; all other hosts must see it."""
    first, *others = facts
    token = uuid.uuid4().hex
    file = {"path": f"{facts[first]['folder']}/.bertnli-{token}"}
    written = remotes.ask("write", {first: {**file, "content": token}})
    if "problem" in written.get(first, {}):
        remotes.add_problem(first, f"output {output}: {written[first]['problem']}; name a folder that can be written")
        return
    for host, answer in remotes.ask("read", {host: {**file, "content": token} for host in others}).items():
        if "problem" in answer:
            remotes.add_problem(
                host,
                f"output {output} is not shared with {first}: a file written there is not seen here "
                f"({answer['problem']}); name a folder on storage that all hosts share and can write to",
            )
    remotes.ask("remove", {first: file})


def _find_master(remotes: RemoteHosts, facts: Mapping[str, Facts]) -> str:
    """The address from which the first host reaches the second; of a single host, the one at which ssh reached it."""
    first, *others = facts
    by_ssh = str(facts[first]["address"])
    if not others:
        return by_ssh
    answers = remotes.ask("source", {first: {"address": facts[others[0]]["address"]}})
    return answers.get(first, {}).get("address") or by_ssh


def _check_network(
    remotes: RemoteHosts, facts: Mapping[str, Facts], master: str, ports: Sequence[int]
) -> dict[str, str]:
    """Every host must reach the master's ports, and the master every host, over the interfaces that the ranks will use.

    ports: the master's, and its watcher's. Returns the interface of each host.
    """
    first, token = next(iter(facts)), uuid.uuid4().hex
    variable = NCCL if on_gpus(facts[first]) else GLOO
    request = {"variable": variable, "master": master, "token": token}
    answers = remotes.ask("listen", {host: {**request, "ports": ports if host == first else []} for host in facts})
    listening = {host: answer for host, answer in answers.items() if "problem" not in answer}
    for host, answer in answers.items():
        if host in listening:
            continue
        fix = f"correct or unset {variable}, or name the master's address with --master-addr"
        if "free" in answer:
            free = answer["free"] or "another"
            fix = f"give --master-port {free}" if answer["taken"] == ports[0] else f"set {PORT}={free}"
        remotes.add_problem(host, f"{answer['problem']}; {fix}")
    interfaces = {host: answer["interface"] for host, answer in listening.items()}
    if first not in listening:
        return interfaces
    to = {host: [*([master, port] for port in ports), listening[first]["to"]] for host in listening}
    others = [host for host in listening if host != first]
    to[first] = [listening[host]["to"] for host in others]
    requests = {
        host: {"interface_address": listening[host]["to"][0], "to": to[host], "token": token} for host in listening
    }
    for host, answer in remotes.ask("connect", requests).items():
        targets = zip(others if host == first else [first] * len(to[host]), to[host], answer["problems"], strict=True)
        unreached = {other: f"{with_port(*target)} ({why})" for other, target, why in targets if why}
        for other, target in unreached.items():
            remotes.add_problem(
                host,
                f"from {interfaces[host]} ({listening[host]['to'][0]}) it does not reach {other} at {target}; open TCP "
                f"ports between the hosts, or name another interface in {variable} or address with --master-addr",
            )
    return interfaces


def _table(
    hosts: Hosts,
    facts: Mapping[str, Facts],
    skews: Mapping[str, float],
    interfaces: Mapping[str, str],
    problems: Sequence[tuple[str, str]],
) -> str:
    names = ("python", "bertnli", "torch", "deepspeed")
    rows = [["host", "slots", "devices", *names, "memory", "disk", "interface", "clock", ""]]
    for host, slots in hosts.items():
        wrong = sum(one == host for one, _ in problems)
        row = [host, str(len(slots))]
        if host in facts:
            found = facts[host]
            row.append(f"{found['gpus']} GPUs" if on_gpus(found) else f"{found['cores']} cores")
            row += [found[name] or "none" for name in names]
            row += [f"{found[name] / _GIB:.0f} GiB" for name in ("memory", "disk")]
            row += [interfaces.get(host, "?"), f"{skews[host]:+.1f} s" if host in skews else "?"]
        else:
            row += ["?"] * (len(rows[0]) - 3)
        rows.append([*row, f"{wrong} problem{'s' * (wrong > 1)}" if wrong else "ok"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
