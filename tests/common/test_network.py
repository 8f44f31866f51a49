"""A free port is one for a job's master and, 10,000 below, for its watchers."""

from __future__ import annotations

import random
import socket

import pytest

from bertnli.common import network
from bertnli.common.errors import RunError
from bertnli.watch.rank_env import FIRST_PORT, PORTS, watch_port


def test_a_free_port_is_where_masters_listen_and_has_a_free_one_for_the_watchers() -> None:
    for _ in range(20):
        port = network.free_port()
        assert FIRST_PORT <= port < FIRST_PORT + PORTS
        for each in (port, watch_port({"MASTER_PORT": str(port)})):
            with socket.socket() as taken:
                taken.bind(("", each))


@pytest.mark.parametrize("which", [lambda port: port, lambda port: port - 10_000], ids=["master", "watchers"])
def test_a_port_that_somebody_has_is_passed_over(which, monkeypatch) -> None:
    first, second = network.free_port(), network.free_port()
    monkeypatch.setattr(random.Random, "sample", lambda *_: [first, second])
    with socket.socket() as other:
        other.bind(("127.0.0.1", which(first)))
        assert network.free_port() == second


def test_no_free_port_is_an_error(monkeypatch) -> None:
    monkeypatch.setattr(network, "_is_free", lambda port: False)
    with pytest.raises(RunError, match="no port of this host is free"):
        network.free_port()
