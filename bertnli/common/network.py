"""The network interface that ranks should use: the one that reaches the master, on each host its own.

Left alone, gloo takes the address that the host's name resolves to, on many systems 127.0.0.1, and ranks on other hosts
wait for it until they time out; NCCL may take a container bridge. One value for all hosts does not help where their
interfaces have different names, so each rank asks its host's routing table.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, MutableMapping

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
    """The interface that a rank here will use: as GLOO or NCCL names it, else the one to `master`.

    None if no interface with an address has the name, or there is no route. Of several that fit, the one to `master`.
    """
    route, named = interface_to(master), environment.get(variable)
    if not named:
        return route
    # gloo takes names; NCCL beginnings of names, names after =, and either of them to leave out after ^
    exact = variable == GLOO or named.removeprefix("^").startswith("=")
    listed = named.lstrip("^=").split(",") if variable == NCCL else named.split(",")
    for interface in sorted(addresses(), key=lambda name: name != route):
        listed_here = any(interface == name if exact else interface.startswith(name) for name in listed)
        if listed_here != (variable == NCCL and named.startswith("^")):
            return interface
    return None


def interface_to(address: str) -> str | None:
    """The name of the interface whose address this host's packets to `address` carry; None without a route."""
    own = source_address(address)
    return next((name for name, own_ones in addresses().items() if own in own_ones), None)


def free_port() -> int:
    """A TCP port of this host that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def source_address(address: str) -> str | None:
    """The address of this host that its packets to `address`, a name or a number, carry; None without a route."""
    try:
        for family, kind, _, _, target in socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM):
            with socket.socket(family, kind) as probe:
                probe.connect(target)  # UDP: asks the routing table, sends nothing
                return _bare(probe.getsockname()[0])
    except OSError:
        pass
    return None


def addresses() -> dict[str, list[str]]:
    """This host's interfaces that are up and have IP addresses, each with those."""
    import psutil

    up = psutil.net_if_stats()
    found = {
        name: [_bare(entry.address) for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
        for name, entries in psutil.net_if_addrs().items()
        if name in up and up[name].isup
    }
    return {name: own for name, own in found.items() if own}


def with_port(address: str, port: int) -> str:
    """For a person: ADDRESS:PORT, of an IPv6 address [ADDRESS]:PORT."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _bare(address: str) -> str:
    return address.partition("%")[0]  # an IPv6 address may end in %interface
