"""The link between the watchers of a job: rank 0's is the hub, each other rank's is a spoke.

They exchange JSON lines over TCP. Each side sends a line every second, which works as a lease: a spoke that sends
nothing for `stall_timeout` is lost for the hub, and the hub for a spoke, so a host that is cut off ends its part of the
job by itself. The hub knows how far every rank is, and decides on one outcome of the job.

These are sockets of our own, not the job's TCPStore. The TCPStore exists only after all ranks have met, and jobs often
hang before that; and a client whose network is cut off blocks in it forever.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from bertnli.common.errors import InputError
from bertnli.common.network import with_port
from bertnli.watch.child import ChildProcess
from bertnli.watch.ending import Ending, root_cause
from bertnli.watch.rank_env import PORT, Rank

HEARTBEAT = 1.0  # seconds between two messages
# Seconds to wait after a failure, in case another rank reports the root cause; longer when the error blames a peer.
CAUSE_WAIT, PEER_CAUSE_WAIT = 0.5, 3.0
GRACE_PERIOD = 10.0
"""Seconds for what normally takes none: a port becomes free, all ranks receive the outcome, a rank ends by itself."""


class Link(ABC):
    """One watcher's side of the link. `outcome`: how the job ended, once this watcher knows it."""

    def __init__(self, rank: Rank, stall_timeout: float, child: ChildProcess):
        self.rank, self.stall_timeout, self.child = rank, stall_timeout, child
        self.outcome: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @abstractmethod
    async def open(self) -> None:
        """Raises InputError if the hub cannot listen."""

    @abstractmethod
    async def finish(self, own: Ending | None) -> Ending:
        """Report how this rank ended (None: the outcome came first), and return how the job ended."""

    @abstractmethod
    async def close(self) -> None: ...

    def _decide(self, outcome: Ending) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)


@dataclass
class _RankState:
    """What the hub knows of a rank. Times are on the hub's monotonic clock: its last message, its last heartbeat."""

    host: str
    last_message: float
    last_progress: float
    phase: str
    waiting: bool
    suspended: bool


class Hub(Link):
    """Rank 0's side."""

    def __init__(self, rank: Rank, stall_timeout: float, child: ChildProcess):
        super().__init__(rank, stall_timeout, child)
        self._started = time.monotonic()  # or resumed, after the job was suspended
        self._states: dict[int, _RankState] = {}
        self._endings: dict[int, Ending] = {}
        self._spokes: dict[int, asyncio.StreamWriter] = {}
        self._closed: set[int] = set()  # ranks whose watcher has closed its connection
        self._server: asyncio.Server | None = None
        self._checking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self.rank.world > 1:
            self._server = await self._listen()
        self._checking = asyncio.ensure_future(self._check_ranks())

    async def finish(self, own: Ending | None) -> Ending:
        if own is not None:
            self._report(own)
        return await self.outcome

    async def close(self) -> None:
        """Close once every spoke has received the outcome, or after the grace period."""
        end = time.monotonic() + GRACE_PERIOD
        while self._server is not None and len(self._closed) < self.rank.world - 1 and time.monotonic() < end:
            await asyncio.sleep(HEARTBEAT / 10)
        if self._checking is not None:
            self._checking.cancel()
        if self._server is not None:
            self._server.close()

    async def _listen(self) -> asyncio.Server:
        end = time.monotonic() + GRACE_PERIOD
        while True:
            try:
                return await asyncio.start_server(self._serve, None, self.rank.port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise InputError(
                        f"port {self.rank.port}, where rank 0 watches the other ranks: {os.strerror(error.errno or 0)}",
                        do=f"set {PORT} to another port, the same for all ranks",
                    ) from None
                await asyncio.sleep(HEARTBEAT)  # a job that is just ending may still have it

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one spoke until it closes. It counts as a rank of this job once it has answered our first message."""
        number = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # anybody can connect and send anything
            hello = json.loads(await reader.readline())
            if hello["token"] == self.rank.token and hello["rank"] in range(1, self.rank.world):
                _send(writer, heartbeat=True)
                while line := await reader.readline():
                    message = json.loads(line)
                    if number is None:
                        number, host = hello["rank"], str(hello["host"])
                        self._spokes[number] = writer
                        if self.outcome.done():
                            _send(writer, outcome=self.outcome.result().to_json())
                    if "ending" in message:
                        self._report(Ending(**message["ending"]))
                    else:
                        now = time.monotonic()
                        last_progress = now - message.pop("idle")
                        self._states[number] = _RankState(
                            host=host, last_message=now, last_progress=last_progress, **message
                        )
        writer.close()
        if number is not None:
            self._closed.add(number)
            if number not in self._endings and not self.outcome.done():
                self._report(Ending(number, host, 1, "is gone: its watcher's connection broke", kind="lost"))

    async def _check_ranks(self) -> None:
        """Every second: send a message to all spokes, and look for ranks that are silent or make no progress."""
        last = time.monotonic()
        while not self.outcome.done():
            await asyncio.sleep(HEARTBEAT)
            now = time.monotonic()
            if now - last > 5 * HEARTBEAT:  # this process was suspended, maybe the whole job: nobody could send
                self._started = now
                for state in self._states.values():
                    state.last_message = now
            last = now
            if self.child.started:
                self._states[0] = _RankState(
                    self.rank.host, now, self.child.last_progress, **_current_state(self.child)
                )
            for number, state in self._states.items():
                if now - state.last_message > self.stall_timeout:
                    how = f"sent nothing for {self.stall_timeout:g} s, last in {state.phase}"
                    self._report(Ending(number, state.host, 1, how, kind="lost"))
            for writer in self._spokes.values():
                _send(writer, heartbeat=True)
            running = [number for number in range(self.rank.world) if number not in self._endings]
            progress = [self._states[number].last_progress for number in running if number in self._states]
            if running and now - max([self._started, *progress]) > self.stall_timeout:
                self._report(self._stalled(running))

    def _stalled(self, running: list[int]) -> Ending:
        """Blame a rank that never joined; if there is none, a suspended one; else one that does not wait for others."""
        since = f"for {self.stall_timeout:g} s"
        for number in running:
            if number not in self._states:
                return Ending(number, "an unknown host", 1, f"has not joined the others {since}", kind="stalled")

        def suspicion(number: int) -> tuple[bool, bool, float]:
            state = self._states[number]
            return not state.suspended, state.waiting, state.last_progress

        number = min(running, key=suspicion)
        state = self._states[number]
        why = "it was suspended, by SIGSTOP or a debugger" if state.suspended else "its log has its stacks"
        return Ending(number, state.host, 1, f"made no progress {since}, in {state.phase}; {why}", kind="stalled")

    def _report(self, ending: Ending) -> None:
        if ending.rank in self._endings:
            return
        self._endings[ending.rank] = ending
        if ending.code:
            wait = PEER_CAUSE_WAIT if ending.peer_failure else CAUSE_WAIT
            asyncio.get_running_loop().call_later(wait, self._decide_on_root_cause)
        elif len(self._endings) == self.rank.world:
            self._decide(ending)

    def _decide_on_root_cause(self) -> None:
        self._decide(root_cause(ending for ending in self._endings.values() if ending.code))
        for writer in self._spokes.values():
            _send(writer, outcome=self.outcome.result().to_json())


class Spoke(Link):
    """The side of every other rank."""

    def __init__(self, rank: Rank, stall_timeout: float, child: ChildProcess):
        super().__init__(rank, stall_timeout, child)
        self._connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._listening = asyncio.ensure_future(self._listen())

    async def finish(self, own: Ending | None) -> Ending:
        if own is None:
            return await self.outcome
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_PERIOD):
                writer = await asyncio.shield(self._connected)
                _send(writer, ending=own.to_json())
                if own.code:
                    return await asyncio.shield(self.outcome)
                with contextlib.suppress(OSError):
                    await writer.drain()
        return own

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        if self._connected.done():
            self._connected.result().close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(GRACE_PERIOD):
                    await self._connected.result().wait_closed()

    async def _listen(self) -> None:
        """Connect to the hub, then listen to it until it sends the outcome or is silent for too long."""
        address = with_port(self.rank.master, self.rank.port)
        try:
            async with asyncio.timeout(self.stall_timeout):
                reader = await self._connect()
        except TimeoutError:
            advice = f"open that port, or choose another with {PORT}"
            return self._hub_lost(f"was not reached at {address} for {self.stall_timeout:g} s; {advice}")
        sending = asyncio.ensure_future(self._send_states())
        try:
            while True:
                try:
                    line = await self._next_line(reader)
                except TimeoutError:
                    return self._hub_lost(f"sent nothing for {self.stall_timeout:g} s")
                if not line:
                    return self._hub_lost("is gone: its watcher's connection broke")
                message = json.loads(line)
                if "outcome" in message:
                    return self._decide(Ending(**message["outcome"]))
        finally:
            sending.cancel()

    async def _connect(self) -> asyncio.StreamReader:
        """Try until this job's own hub has sent its first message."""
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(5 * HEARTBEAT):
                    reader, writer = await asyncio.open_connection(self.rank.master, self.rank.port)
                    _send(writer, token=self.rank.token, rank=self.rank.number, host=self.rank.host)
                    if await reader.readline():
                        self._connected.set_result(writer)
                        return reader
            await asyncio.sleep(HEARTBEAT / 2)

    async def _next_line(self, reader: asyncio.StreamReader) -> bytes:
        """The hub's next line; empty if the connection broke. Raises TimeoutError."""
        # A second wait: time also passes while the whole job is suspended, and then the hub needs a moment.
        for timeout in (self.stall_timeout, 5 * HEARTBEAT):
            try:
                async with asyncio.timeout(timeout):
                    return await reader.readline()
            except TimeoutError:
                continue
            except OSError:
                return b""
        raise TimeoutError

    async def _send_states(self) -> None:
        while True:
            idle = time.monotonic() - self.child.last_progress
            _send(self._connected.result(), idle=idle, **_current_state(self.child))
            await asyncio.sleep(HEARTBEAT)

    def _hub_lost(self, how: str) -> None:
        self._decide(Ending(0, self.rank.master, 1, how, kind="lost"))


def _current_state(child: ChildProcess) -> dict[str, Any]:
    return {"phase": child.phase, "waiting": child.waiting, "suspended": child.suspended}


def _send(writer: asyncio.StreamWriter, **message: Any) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")
