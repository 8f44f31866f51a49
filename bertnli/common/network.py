"""The network interface that ranks use: on each host, the one with the route to the master.

By default gloo takes the address to which the host's name resolves. On many systems that is 127.0.0.1, and ranks on
other hosts wait for it until they time out. NCCL may take a container bridge. One setting for all hosts does not work
where their interfaces have different names, so each rank asks its own host's routing table.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Mapping, MutableMapping
from contextlib import suppress

from bertnli.common.errors import RunError

GLOO, NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def set_interfaces(environment: MutableMapping[str, str], *, one_host: bool) -> None:
    """Set the two variables, if they are not set, from the route to MASTER_ADDR. Call it before the ranks connect.

    one_host: whether all ranks run on this host. The variables stay unset without a MASTER_ADDR or a route to it, and
    if the route is the loopback interface although other hosts take part.
    """
    master = environment.get("MASTER_ADDR")
    interface = None if master is None else interface_to(master)
    if interface is None or (interface == "lo" and not one_host):
        return
    environment.setdefault(GLOO, interface)
    environment.setdefault(NCCL, f"={interface}")  # without the = it would be a prefix


def chosen_interface(variable: str, environment: Mapping[str, str], master: str) -> str | None:
    """The interface that a rank on this host will use: the one that `variable` names, by default the one to `master`.

    If the variable fits several, the one to `master` is taken. None if it fits no interface that has an address, or if
    there is no route.
    """
    route, named = interface_to(master), environment.get(variable)
    if not named:
        return route
    # gloo takes names. NCCL takes prefixes, after = whole names, and after ^ what to exclude.
    exact = variable == GLOO or named.removeprefix("^").startswith("=")
    listed = named.lstrip("^=").split(",") if variable == NCCL else named.split(",")
    for interface in sorted(addresses(), key=lambda name: name != route):
        fits = any(interface == name if exact else interface.startswith(name) for name in listed)
        if fits != (variable == NCCL and named.startswith("^")):
            return interface
    return None


def interface_to(address: str) -> str | None:
    """The interface through which this host sends packets to `address`; None without a route."""
    own = source_address(address)
    return next((name for name, listed in addresses().items() if own in listed), None)


def free_port() -> int:
    """A TCP port of this host for a job's master, that no process has now; nor the one 10,000 below, for its watchers.

    Both are below 32,768, where Linux begins to take ports for outgoing connections: one may come at any moment.
    Raises RunError if there is none.
    """
    for port in random.Random(os.urandom(8)).sample(range(20_000, 29_000), 1_000):
        if _is_free(port) and _is_free(port - 10_000):
            return port
    raise RunError("no port of this host is free, of 1,000 from 20,000 to 28,999", do="end what has them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.bind(("", port))
        return True
    return False


def source_address(address: str) -> str | None:
    """The source address of this host's packets to `address` (a host name or an IP); None without a route."""
    try:
        for family, kind, _, _, target in socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                probe.connect(target)  # UDP: this asks the routing table and sends nothing
                return _without_zone(probe.getsockname()[0])
    except OSError:
        pass
    return None


def addresses() -> dict[str, list[str]]:
    """This host's interfaces that are up, with their IP addresses; those without any are omitted."""
    import psutil

    up = psutil.net_if_stats()
    found = {
        name: [_without_zone(entry.address) for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        for name, entries in psutil.net_if_addrs().items()
        if name in up and up[name].isup
    }
    return {name: own for name, own in found.items() if own}


def with_port(address: str, port: int) -> str:
    """For messages: ADDRESS:PORT, or [ADDRESS]:PORT for IPv6."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _without_zone(address: str) -> str:
    return address.partition("%")[0]  # an IPv6 address may end in %INTERFACE
