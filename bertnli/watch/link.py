"""The link between the watchers of a job: rank 0's is the hub, the others' are spokes of it.

JSON lines over TCP. Each side gives a sign every second, and that is its lease: a spoke silent for `stall_timeout` is
lost to the hub, the hub to a spoke, and so a host that is cut off ends by itself on both sides. The hub knows how far
every rank is, and decides on the one ending of the job, its verdict.

Sockets of our own, not the job's TCPStore: that exists only when all ranks have met, which is where the first jobs
hang, and a client whose network is cut blocks in it for ever.
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
from bertnli.watch.child import Trainer
from bertnli.watch.ending import Ending, first
from bertnli.watch.rank_env import PORT, Rank

_BEAT = 1.0  # seconds between two signs
_SETTLE, _SETTLE_LONGER = 0.5, 3.0  # seconds in which another rank may turn out to be the cause; where it surely is
PATIENCE = (
    10.0  # seconds for what should take none: a port to come free, all to hear the verdict, ranks to end by themselves
)


class Link(ABC):
    """This watcher's. `verdict`: how the job ended, once that is known here."""

    def __init__(self, rank: Rank, stall_timeout: float, trainer: Trainer):
        self.rank, self.stall_timeout, self.trainer = rank, stall_timeout, trainer
        self.verdict: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    @abstractmethod
    async def open(self) -> None:
        """Raises InputError if the hub cannot listen."""

    @abstractmethod
    async def settle(self, own: Ending | None) -> Ending:
        """How the job ended; `own`: how this rank did, None where the verdict came before that."""

    @abstractmethod
    async def close(self) -> None: ...

    def _decide(self, verdict: Ending) -> None:
        if not self.verdict.done():
            self.verdict.set_result(verdict)


@dataclass
class _Sign:
    """What the hub knows of a rank. heard: when it last gave a sign; moved: when its trainer last made progress."""

    host: str
    heard: float
    moved: float
    phase: str
    waiting: bool
    halted: bool


class Hub(Link):
    """Rank 0's."""

    def __init__(self, rank: Rank, stall_timeout: float, trainer: Trainer):
        super().__init__(rank, stall_timeout, trainer)
        self._began = time.monotonic()  # or went on, after a halt
        self._signs: dict[int, _Sign] = {}
        self._endings: dict[int, Ending] = {}
        self._spokes: dict[int, asyncio.StreamWriter] = {}
        self._told: set[int] = set()
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self.rank.world > 1:
            self._server = await self._listen()
        self._watching = asyncio.ensure_future(self._watch())

    async def settle(self, own: Ending | None) -> Ending:
        if own is not None:
            self._report(own)
        return await self.verdict

    async def close(self) -> None:
        """When all have heard the verdict, or had the time to."""
        end = time.monotonic() + PATIENCE
        while self._server is not None and len(self._told) < self.rank.world - 1 and time.monotonic() < end:
            await asyncio.sleep(_BEAT / 10)
        if self._watching is not None:
            self._watching.cancel()
        if self._server is not None:
            self._server.close()

    async def _listen(self) -> asyncio.Server:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return await asyncio.start_server(self._serve, None, self.rank.port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise InputError(
                        f"port {self.rank.port}, where rank 0 watches over the others: {os.strerror(error.errno or 0)}",
                        do=f"set {PORT} to another, the same for all ranks",
                    ) from None
                await asyncio.sleep(_BEAT)  # that of a job which is just ending

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One spoke, from its first word to its last. It is one of ours when it has answered our first sign."""
        number = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # also of a stranger
            hello = json.loads(await reader.readline())
            if hello["token"] == self.rank.token and hello["rank"] in range(1, self.rank.world):
                _send(writer, beat=True)
                while line := await reader.readline():
                    message = json.loads(line)
                    if number is None:
                        number, host = hello["rank"], str(hello["host"])
                        self._spokes[number] = writer
                        if self.verdict.done():
                            _send(writer, verdict=self.verdict.result().to_json())
                    if "ending" in message:
                        self._report(Ending(**message["ending"]))
                    else:
                        now = time.monotonic()
                        moved = now - message.pop("idle")
                        self._signs[number] = _Sign(host=host, heard=now, moved=moved, **message)
        writer.close()
        if number is not None:
            self._told.add(number)
            if number not in self._endings and not self.verdict.done():
                self._report(Ending(number, host, 1, "is gone: its watcher's connection broke", kind="lost"))

    async def _watch(self) -> None:
        """Every second: a sign to all, and a look at who is silent or stands still."""
        last = time.monotonic()
        while not self.verdict.done():
            await asyncio.sleep(_BEAT)
            now = time.monotonic()
            if now - last > 5 * _BEAT:  # we were halted ourselves, maybe all of the job, and have heard nobody
                self._began = now
                for sign in self._signs.values():
                    sign.heard = now
            last = now
            if self.trainer.started:
                self._signs[0] = _Sign(self.rank.host, now, **_state(self.trainer))
            for number, sign in self._signs.items():
                if now - sign.heard > self.stall_timeout:
                    how = f"gave no sign for {self.stall_timeout:g} s, last in {sign.phase}"
                    self._report(Ending(number, sign.host, 1, how, kind="lost"))
            for writer in self._spokes.values():
                _send(writer, beat=True)
            running = [number for number in range(self.rank.world) if number not in self._endings]
            moved = max([self._began, *(self._signs[number].moved for number in running if number in self._signs)])
            if running and now - moved > self.stall_timeout:
                self._report(self._stalled(running))

    def _stalled(self, running: list[int]) -> Ending:
        """Nobody moves: a rank that never came, else one that was halted, else one that waits for no other."""
        since = f"for {self.stall_timeout:g} s"
        for number in running:
            if number not in self._signs:
                return Ending(number, "an unknown host", 1, f"has not joined the others {since}", kind="stalled")
        number = min(
            running,
            key=lambda number: (
                not self._signs[number].halted,
                self._signs[number].waiting,
                self._signs[number].moved,
            ),
        )
        sign = self._signs[number]
        why = "; it was halted, by SIGSTOP or a debugger" if sign.halted else "; its log shows where it stands"
        return Ending(number, sign.host, 1, f"made no progress {since}, in {sign.phase}{why}", kind="stalled")

    def _report(self, ending: Ending) -> None:
        if ending.rank in self._endings:
            return
        self._endings[ending.rank] = ending
        if ending.code:
            wait = _SETTLE_LONGER if ending.about_another else _SETTLE
            asyncio.get_running_loop().call_later(wait, self._settle_on_first)
        elif len(self._endings) == self.rank.world:
            self._decide(ending)

    def _settle_on_first(self) -> None:
        self._decide(first(ending for ending in self._endings.values() if ending.code))
        for writer in self._spokes.values():
            _send(writer, verdict=self.verdict.result().to_json())


class Spoke(Link):
    """That of any other rank."""

    def __init__(self, rank: Rank, stall_timeout: float, trainer: Trainer):
        super().__init__(rank, stall_timeout, trainer)
        self._connected: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        self._living: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._living = asyncio.ensure_future(self._live())

    async def settle(self, own: Ending | None) -> Ending:
        if own is None:
            return await self.verdict
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                writer = await asyncio.shield(self._connected)
                _send(writer, ending=own.to_json())
                if own.code:
                    return await asyncio.shield(self.verdict)
                with contextlib.suppress(OSError):
                    await writer.drain()
        return own

    async def close(self) -> None:
        if self._living is not None:
            self._living.cancel()
        if self._connected.done():
            self._connected.result().close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._connected.result().wait_closed()

    async def _live(self) -> None:
        """Reach the hub, then listen to it until it has decided, or is silent for too long."""
        here = with_port(self.rank.master, self.rank.port)
        try:
            async with asyncio.timeout(self.stall_timeout):
                reader = await self._connect()
        except TimeoutError:
            mend = f"is the port open? {PORT} names another"
            return self._lost(f"was not reached at {here} for {self.stall_timeout:g} s; {mend}")
        beating = asyncio.ensure_future(self._beat())
        try:
            while True:
                try:
                    line = await self._hear(reader)
                except TimeoutError:
                    return self._lost(f"gave no sign for {self.stall_timeout:g} s")
                if not line:
                    return self._lost("is gone: its watcher's connection broke")
                message = json.loads(line)
                if "verdict" in message:
                    return self._decide(Ending(**message["verdict"]))
        finally:
            beating.cancel()

    async def _connect(self) -> asyncio.StreamReader:
        """Try until the job's own hub has given its first sign."""
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(5 * _BEAT):
                    reader, writer = await asyncio.open_connection(self.rank.master, self.rank.port)
                    _send(writer, token=self.rank.token, rank=self.rank.number, host=self.rank.host)
                    if await reader.readline():
                        self._connected.set_result(writer)
                        return reader
            await asyncio.sleep(_BEAT / 2)

    async def _hear(self, reader: asyncio.StreamReader) -> bytes:
        """The hub's next line; empty where the connection broke. Raises TimeoutError."""
        for patience in (self.stall_timeout, 5 * _BEAT):  # twice: time has passed too where the whole job was halted
            try:
                async with asyncio.timeout(patience):
                    return await reader.readline()
            except TimeoutError:
                continue
            except OSError:
                return b""
        raise TimeoutError

    async def _beat(self) -> None:
        while True:
            now = time.monotonic()
            state = _state(self.trainer)
            _send(self._connected.result(), idle=now - state.pop("moved"), **state)
            await asyncio.sleep(_BEAT)

    def _lost(self, how: str) -> None:
        self._decide(Ending(0, self.rank.master, 1, how, kind="lost"))


def _state(trainer: Trainer) -> dict[str, Any]:
    return {
        "moved": trainer.moved,
        "phase": trainer.phase,
        "waiting": trainer.waiting,
        "halted": trainer.halted,
    }


def _send(writer: asyncio.StreamWriter, **message: Any) -> None:
    if not writer.is_closing():
        writer.write(json.dumps(message).encode() + b"\n")
