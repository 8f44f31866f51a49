"""The link between the watchers of a job: rank 0's is the hub, each other rank's is a spoke.

They exchange messages over TCP (channel.py), signed with the job's key (key.py), so strangers at the port change
nothing. Each side sends a message every second, which works as a lease: a spoke that sends nothing for `stall_timeout`
is lost for the hub, and the hub for a spoke, so a host that is cut off ends its part of the job by itself. The hub
knows how far every rank is, and decides on one outcome of the job.

These are sockets of our own, not the job's TCPStore. The TCPStore exists only after all ranks have met, and jobs often
hang before that; and a client whose network is cut off blocks in it forever.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from bertnli.common.errors import InputError, first_line
from bertnli.common.network import with_port
from bertnli.watch.channel import LIMIT, Channel
from bertnli.watch.child import ChildProcess
from bertnli.watch.ending import CHECKED, Ending, root_cause
from bertnli.watch.key import Key, key_file, new_key, read_key, write_key
from bertnli.watch.rank_env import PORT, Rank

HEARTBEAT = 1.0  # seconds between two messages
# Seconds to wait after a failure, in case another rank reports the root cause; longer when this one does not tell it.
CAUSE_WAIT, PEER_CAUSE_WAIT = 0.5, 3.0
GRACE_PERIOD = 10.0
"""Seconds for what normally takes none: a port becomes free, all ranks receive the outcome, a rank ends by itself."""
_ALLOWANCE = 5  # heartbeats; for what takes part of one, and after the whole job was suspended
_STRANGERS = 64  # connections at once, beside one for each rank, that have not proved that they are of this job
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class State:
    """How far a rank is: its last heartbeat, and the seconds since then."""

    __pydantic_config__ = CHECKED

    phase: Annotated[str, Field(max_length=200)]
    waiting: bool
    suspended: bool
    idle: Annotated[float, Field(ge=0, allow_inf_nan=False)]

    @classmethod
    def of(cls, child: ChildProcess) -> State:
        return cls(child.phase[:200], child.waiting, child.suspended, time.monotonic() - child.last_progress)


@dataclass(frozen=True)
class FromSpoke:
    """A spoke's message: how far its rank is, or at last how it ended."""

    __pydantic_config__ = CHECKED

    state: State | None = None
    ending: Ending | None = None


@dataclass(frozen=True)
class FromHub:
    """The hub's message: at last how the job failed, before that only that the hub is there."""

    __pydantic_config__ = CHECKED

    outcome: Ending | None = None


class Link(ABC):
    """One watcher's side of the link.

    folder: where the job's key is; None where nobody can join. key: the job's, once this watcher has it. outcome: how
    the job ended, once this watcher knows it.
    """

    def __init__(self, rank: Rank, stall_timeout: float, child: ChildProcess, folder: Path | None = None):
        self.rank, self.stall_timeout, self.child = rank, stall_timeout, child
        self.key: Key | None = None
        self.outcome: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._key_file = None if folder is None else key_file(folder, rank)

    @abstractmethod
    async def open(self) -> None:
        """Raises InputError if the hub cannot listen, or cannot write the job's key."""

    @abstractmethod
    async def finish(self, own: Ending | None) -> Ending:
        """Report how this rank ended (None: the outcome came first), and return how the job ended."""

    @abstractmethod
    async def close(self) -> None: ...

    def _decide(self, outcome: Ending) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def _start(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """A task that runs as long as the job. If it breaks, the job ends: without it, it could hang."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                how = f"could not watch its rank: {type(error).__name__}: {first_line(error)}"
                self._decide(Ending(self.rank.number, self.rank.host, 1, how))

        task = asyncio.ensure_future(work)
        task.add_done_callback(ended)
        return task


@dataclass
class _RankState:
    """What the hub knows of a rank. Times are on the hub's monotonic clock: its last message, its last heartbeat."""

    host: str
    last_message: float
    last_progress: float
    phase: str
    waiting: bool
    suspended: bool

    @classmethod
    def now(cls, host: str, state: State) -> _RankState:
        now = time.monotonic()
        return cls(host, now, now - state.idle, state.phase, state.waiting, state.suspended)


class Hub(Link):
    """Rank 0's side."""

    def __init__(self, rank: Rank, stall_timeout: float, child: ChildProcess, folder: Path | None = None):
        super().__init__(rank, stall_timeout, child, folder)
        self._started = time.monotonic()  # or resumed, after the job was suspended
        self._states: dict[int, _RankState] = {}
        self._endings: dict[int, Ending] = {}
        self._spokes: dict[int, Channel] = {}
        self._strangers: dict[asyncio.StreamWriter, None] = {}  # a set in the order of arrival
        self._closed: set[int] = set()  # ranks whose watcher has closed its connection
        self._server: asyncio.Server | None = None
        self._checking: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self.rank.world > 1:
            self._server = await self._listen()
        if self._key_file is not None and (self._server is not None or self.rank.job is not None):
            self.key = self._publish(self._key_file)
        self._checking = self._start(self._check_ranks())

    async def finish(self, own: Ending | None) -> Ending:
        if own is not None:
            self._report(own)
        return await self.outcome

    async def close(self) -> None:
        """Close once every spoke has received the outcome, or after the grace period."""
        end = time.monotonic() + GRACE_PERIOD
        joined = self.key is not None and self.rank.world > 1  # without a key nobody could
        while joined and len(self._closed) < self.rank.world - 1 and time.monotonic() < end:
            await asyncio.sleep(HEARTBEAT / 10)
        if self._checking is not None:
            self._checking.cancel()
        if self._server is not None:
            self._server.close()
        if self.key is not None and self._key_file is not None:
            with contextlib.suppress(OSError):
                if read_key(self._key_file) == self.key:  # not the next job's
                    self._key_file.unlink()

    def _publish(self, path: Path) -> Key:
        """Write the job's key for the other ranks: `bertnli launch` has made it already, or it is made here."""
        port = 0 if self._server is None else self._server.sockets[0].getsockname()[1]
        try:
            made = read_key(path) if self.rank.job is not None else None
            key = Key((made or new_key()).secret, port)
            write_key(path, key)
        except OSError as error:
            raise InputError(
                f"output {path.parent.parent}: the job's key cannot be written into {path.parent.name}",
                found=first_line(error),
                do="give another output, or make that folder writable",
            ) from None
        return key

    async def _listen(self) -> asyncio.Server:
        end = time.monotonic() + GRACE_PERIOD
        address = _LOOPBACK if self.rank.all_here else None  # None: all addresses
        while True:
            try:
                return await asyncio.start_server(self._serve, address, self.rank.port, limit=LIMIT)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise InputError(
                        f"port {self.rank.port}, where rank 0 watches the other ranks: {os.strerror(error.errno or 0)}",
                        do=f"set {PORT} to another port, the same for all ranks",
                    ) from None
                await asyncio.sleep(HEARTBEAT)  # a job that is just ending may still have it

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection. It is a spoke's once a message has come that is signed for this very connection.

        Until then it is a stranger, which gets some seconds, and less if there are many: the oldest one is closed. The
        first connection of a rank stays its only one.
        """
        self._strangers[writer] = None
        if len(self._strangers) > _STRANGERS + self.rank.world:
            next(iter(self._strangers)).transport.abort()
        try:
            async with asyncio.timeout(_ALLOWANCE * HEARTBEAT):
                key = self.key or new_key()  # nobody can have it before it is written
                channel = Channel(reader, writer, key.secret, self.rank)
                hello = await channel.admit()
                first = await channel.receive(FromSpoke)
            if hello.rank < self.rank.world and hello.rank not in self._spokes:
                del self._strangers[writer]
                await self._listen_to(channel, hello.rank, hello.host, first)
        except (OSError, EOFError, ValueError, TimeoutError):
            pass  # anybody can connect and send anything
        except asyncio.CancelledError:
            pass  # this process ends; asyncio would print a traceback
        finally:
            self._strangers.pop(writer, None)
            writer.close()

    async def _listen_to(self, spoke: Channel, number: int, host: str, message: FromSpoke) -> None:
        """Hear a spoke until its connection ends. It speaks for its own rank only."""
        self._spokes[number] = spoke
        if self.outcome.done():
            spoke.send(FromHub(self.outcome.result()))
        with contextlib.suppress(OSError, EOFError):
            while True:
                if message.ending is not None and message.ending.rank == number:
                    self._report(message.ending)
                elif message.state is not None:
                    self._states[number] = _RankState.now(host, message.state)
                message = await spoke.next(FromSpoke)
        self._closed.add(number)
        if number not in self._endings and not self.outcome.done():
            self._report(Ending(number, host, 1, "is gone: its watcher's connection broke", kind="lost"))

    async def _check_ranks(self) -> None:
        """Every second: send a message to all spokes, and look for ranks that are silent or make no progress."""
        last = time.monotonic()
        while not self.outcome.done():
            await asyncio.sleep(HEARTBEAT)
            now = time.monotonic()
            if now - last > _ALLOWANCE * HEARTBEAT:  # this process was suspended, maybe all were: nobody could send
                self._started = now
                for state in self._states.values():
                    state.last_message = now
            last = now
            if self.child.started:
                self._states[0] = _RankState.now(self.rank.host, State.of(self.child))
            for number, state in self._states.items():
                if now - state.last_message > self.stall_timeout:
                    how = f"sent nothing for {self.stall_timeout:g} s, last in {state.phase}"
                    self._report(Ending(number, state.host, 1, how, kind="lost"))
            for spoke in self._spokes.values():
                spoke.send(FromHub())
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
        """Note how a rank ended. The job has succeeded once all have; rank 0 is one, and nobody else speaks for it."""
        if ending.rank in self._endings:
            return
        self._endings[ending.rank] = ending
        if ending.code:
            wait = PEER_CAUSE_WAIT if ending.unexplained else CAUSE_WAIT
            asyncio.get_running_loop().call_later(wait, self._decide_on_root_cause)
        elif len(self._endings) == self.rank.world:
            self._decide(ending)

    def _decide_on_root_cause(self) -> None:
        self._decide(root_cause(ending for ending in self._endings.values() if ending.code))
        for spoke in self._spokes.values():
            spoke.send(FromHub(self.outcome.result()))


class Spoke(Link):
    """The side of every other rank."""

    def __init__(self, rank: Rank, stall_timeout: float, child: ChildProcess, folder: Path | None = None):
        super().__init__(rank, stall_timeout, child, folder)
        self._connected: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        self._listening: asyncio.Task[None] | None = None
        self._no_key = ""  # why this watcher has no key to connect with
        self._port = rank.port

    async def open(self) -> None:
        self._listening = self._start(self._listen())

    async def finish(self, own: Ending | None) -> Ending:
        if own is None:
            return await self.outcome
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_PERIOD):
                hub = await asyncio.shield(self._connected)
                hub.send(FromSpoke(ending=own))
                if own.code:
                    return await asyncio.shield(self.outcome)
                with contextlib.suppress(OSError):
                    await hub.writer.drain()
        return own

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        if self._connected.done():
            writer = self._connected.result().writer
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(GRACE_PERIOD):
                    await writer.wait_closed()

    async def _listen(self) -> None:
        """Connect to the hub, then listen to it until it sends the outcome or is silent for too long.

        Only what the hub has signed is a sign of it, so a spoke ends in time whatever else it hears.
        """
        try:
            async with asyncio.timeout(self.stall_timeout):
                hub = await self._connect()
        except TimeoutError:
            advice = self._no_key or f"open that port, or choose another with {PORT}"
            where = with_port(self._address, self._port) if self._port else self._address
            return self._hub_lost(f"was not reached at {where} for {self.stall_timeout:g} s; {advice}")
        sending = self._start(self._send_states(hub))
        try:
            while True:
                try:
                    message = await self._next_message(hub)
                except TimeoutError:
                    return self._hub_lost(f"sent nothing for {self.stall_timeout:g} s")
                except (OSError, EOFError):
                    return self._hub_lost("is gone: its watcher's connection broke")
                if message.outcome is not None and message.outcome.code:
                    return self._decide(message.outcome)
        finally:
            sending.cancel()

    async def _connect(self) -> Channel:
        """Try until this job's own hub has answered."""
        while True:
            self.key = self._read_key()
            if self.key is not None and self.key.port:
                self._port = self.rank.port or self.key.port
                with contextlib.suppress(OSError, EOFError, ValueError, TimeoutError):
                    async with asyncio.timeout(_ALLOWANCE * HEARTBEAT):
                        hub = await self._join(self.key)
                        self._connected.set_result(hub)
                        return hub
            await asyncio.sleep(HEARTBEAT / 2)

    async def _join(self, key: Key) -> Channel:
        reader, writer = await asyncio.open_connection(self._address, self._port, limit=LIMIT)
        hub = Channel(reader, writer, key.secret, self.rank)
        try:
            await hub.join(self.rank.number, self.rank.host)
        except BaseException:
            writer.close()
            raise
        return hub

    def _read_key(self) -> Key | None:
        assert self._key_file is not None
        share = f"all ranks need one shared output, and its port open (choose another with {PORT})"
        self._no_key = f"its key {self._key_file} was not seen here; {share}"
        try:
            key = read_key(self._key_file)
        except OSError as error:
            problem = f"its key {self._key_file} cannot be read here ({first_line(error)})"
            self._no_key = f"{problem}; run all ranks as one user"
            return None
        if key is not None and key.port:
            self._no_key = ""
        return key

    async def _next_message(self, hub: Channel) -> FromHub:
        """The hub's next message. Raises TimeoutError, and EOFError or OSError if the connection broke."""
        # A second wait: time also passes while the whole job is suspended, and then the hub needs a moment.
        for timeout in (self.stall_timeout, _ALLOWANCE * HEARTBEAT):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    return await hub.next(FromHub)
        raise TimeoutError

    async def _send_states(self, hub: Channel) -> None:
        while True:
            hub.send(FromSpoke(State.of(self.child)))
            await asyncio.sleep(HEARTBEAT)

    @property
    def _address(self) -> str:
        return _LOOPBACK if self.rank.all_here else self.rank.master

    def _hub_lost(self, how: str) -> None:
        self._decide(Ending(0, self.rank.master, 1, how[:1000], kind="lost"))
