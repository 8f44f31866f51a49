"""One connection between two watchers: lines of JSON, each signed, so that nobody else can speak on it.

The spoke sends a nonce (a random number), signed with the job's key, and the hub answers with its own. From both and
the key they make the connection's own key, with which each further line is signed, together with its number and its
direction. So a line that was recorded on any connection is worth nothing on another one, or a second time. Nothing is
sent to a stranger.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter

from bertnli.watch.ending import CHECKED, HostName
from bertnli.watch.key import signature
from bertnli.watch.rank_env import Rank

LIMIT = 2**16  # bytes of a line, at most
Nonce = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Hello:
    """A spoke's first message."""

    __pydantic_config__ = CHECKED

    rank: Annotated[int, Field(ge=1)]
    host: HostName
    nonce: Nonce


@dataclass(frozen=True)
class Welcome:
    """The hub's answer."""

    __pydantic_config__ = CHECKED

    nonce: Nonce


class Forged(ValueError):
    """A line that is too long, wrongly signed, or not in the expected form."""


class Channel:
    """One end of a connection. Messages are dataclasses, whose fields are checked when they arrive."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, secret: bytes, rank: Rank):
        self.writer = writer
        self._reader = reader
        # The two ends agree about the job and its size, also where two jobs would use one folder.
        self._secret = bytes.fromhex(signature(secret, "link", rank.job or "", rank.master_port, str(rank.world)))
        self._own, self._other = ("spoke", "hub") if rank.number else ("hub", "spoke")
        self._sent = self._received = 0

    async def join(self, rank: int, host: str) -> None:
        """The spoke's beginning. Raises Forged, EOFError or OSError."""
        hello = Hello(rank, host, secrets.token_hex(16))
        self.send(hello)
        self._mix(hello.nonce)
        self._mix((await self.receive(Welcome)).nonce)

    async def admit(self) -> Hello:
        """The hub's beginning; the spoke has proved itself with its next line. Raises Forged, EOFError or OSError."""
        hello = await self.receive(Hello)
        self._mix(hello.nonce)
        welcome = Welcome(secrets.token_hex(16))
        self.send(welcome)
        self._mix(welcome.nonce)
        return hello

    def send(self, message: Any) -> None:
        if not self.writer.is_closing():
            body = json.dumps(asdict(message)).encode()
            self.writer.write(self._sign(self._own, self._sent, body) + b" " + body + b"\n")
            self._sent += 1

    async def receive(self, kind: type[_T]) -> _T:
        """The next line. Raises EOFError at the end, OSError, and Forged for a line that the other end did not send."""
        try:
            line = await self._reader.readline()
        except ValueError:  # longer than LIMIT
            raise Forged("too long") from None
        if not line.endswith(b"\n"):
            raise EOFError
        signed, _, body = line[:-1].partition(b" ")
        if not hmac.compare_digest(signed, self._sign(self._other, self._received, body)):
            raise Forged("wrongly signed")
        self._received += 1
        try:
            checked: _T = _form(kind).validate_json(body, strict=True)  # type: ignore[arg-type]  # a class is hashable
            return checked
        except ValueError as error:
            raise Forged(str(error)) from None

    async def next(self, kind: type[_T]) -> _T:
        """As `receive`, but lines that the other end did not send are skipped."""
        while True:
            try:
                return await self.receive(kind)
            except Forged:
                continue

    def _sign(self, side: str, number: int, body: bytes) -> bytes:
        return signature(self._secret, side, str(number), body).encode()

    def _mix(self, nonce: str) -> None:
        self._secret = bytes.fromhex(signature(self._secret, "nonce", nonce))


@cache
def _form(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
