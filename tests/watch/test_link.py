"""The link between watchers, in one process: strangers change nothing, and every rank ends in time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertnli.common.errors import InputError
from bertnli.common.network import free_port
from bertnli.watch import link
from bertnli.watch.channel import LIMIT, Channel, Hello
from bertnli.watch.child import ChildProcess
from bertnli.watch.ending import Ending
from bertnli.watch.key import Key, key_file, new_key, read_key, write_key
from bertnli.watch.link import FromHub, FromSpoke, Hub, Link, Spoke
from bertnli.watch.rank_env import Rank

STALL = 0.4
LONG = 60.0


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("HEARTBEAT", 0.06), ("CAUSE_WAIT", 0.05), ("PEER_CAUSE_WAIT", 0.2), ("GRACE_PERIOD", 0.5)):
        monkeypatch.setattr(link, name, seconds)


def rank(number: int, world: int = 2, **variables: str) -> Rank:
    """A rank of a job whose ranks are all on this host."""
    job = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    return Rank({"RANK": str(number), **job, **variables})


def side(folder: Path, number: int, world: int = 2, stall: float = LONG, **variables: str) -> Link:
    child = ChildProcess(number, "here")
    return (Spoke if number else Hub)(rank(number, world, **variables), stall, child, folder)


def ended(number: int, code: int = 0, text: str = "") -> Ending:
    return Ending(number, "here", code, f"ended with exit code {code}", text)


@contextlib.asynccontextmanager
async def opened(*links: Link) -> AsyncIterator[None]:
    try:
        for one in links:
            await one.open()
        yield
    finally:
        await asyncio.gather(*(one.close() for one in reversed(links)))


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not met():
            await asyncio.sleep(0.01)


async def finished(*links: Link) -> list[int]:
    """The exit codes where every rank ends with 0."""
    async with asyncio.timeout(30):
        return [one.code for one in await asyncio.gather(*(one.finish(ended(one.rank.number)) for one in links))]


async def told(port: int, sent: bytes) -> bytes:
    """What a stranger is told that sends this, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(OSError):
        writer.write(sent)
        await writer.drain()
    try:
        async with asyncio.timeout(30):
            return await reader.read()
    except OSError:
        return b""
    finally:
        writer.close()


def port_of(hub: Link) -> int:
    assert hub.key is not None
    return hub.key.port


class Wire:
    """A stream's writer that keeps what is written."""

    def __init__(self) -> None:
        self.lines = b""

    def write(self, data: bytes) -> None:
        self.lines += data

    def is_closing(self) -> bool:
        return False


def said(channel_rank: Rank, key: Key, *messages: object) -> bytes:
    """Messages as they stand on the wire at the beginning of a connection."""
    wire = Wire()
    channel = Channel(asyncio.StreamReader(), wire, key.secret, channel_rank)  # type: ignore[arg-type]
    for message in messages:
        channel.send(message)
    return wire.lines


def forgeries() -> dict[str, bytes]:
    """What strangers send who do not have the key; some know the message's form, or the old protocol's."""
    hello, ending = Hello(1, "here", "0" * 32), FromSpoke(ending=ended(1, 1))
    old = hashlib.sha256(json.dumps([None, "29500", 2]).encode()).hexdigest()[:16]
    before = [{"token": old, "rank": 1, "host": "x"}, {"ending": asdict(ended(1, 1))}, {"ending": asdict(ended(0))}]
    return {
        "a web browser": b"GET / HTTP/1.1\r\n\r\n",
        "not JSON": b"{{{\n",
        "not text": bytes(range(256)) + b"\n",
        "empty lines": b"\n" * 100,
        "deep": b"0" * 64 + b" " + b"[" * 60_000 + b"\n",
        "too long": b"x" * (3 * LIMIT) + b"\n",
        "a list": b"[1, 2]\n",
        "unsigned": b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in (hello, ending)),
        "another key": asyncio.run(_said(new_key(), hello, ending)),
        "the empty key": asyncio.run(_said(Key(b""), hello, ending)),
        "as before there were keys": b"".join(json.dumps(line).encode() + b"\n" for line in before),
    }


async def _said(key: Key, *messages: object) -> bytes:
    return said(rank(1), key, *messages)


@pytest.mark.parametrize("joined", [False, True], ids=["before all have joined", "in the job"])
def test_forged_messages_leave_a_job_as_it_was(tmp_path, capfd, joined):
    async def job(sent: list[bytes]) -> None:
        hub, spoke = side(tmp_path, 0), side(tmp_path, 1)
        async with opened(hub):
            if joined:
                await spoke.open()
                await until(lambda: 1 in hub._states)
            assert set(await asyncio.gather(*(told(port_of(hub), one) for one in sent))) == {b""}
            assert not hub._endings and not hub.outcome.done() and set(hub._spokes) == ({1} if joined else set())
            if not joined:
                await spoke.open()
            assert await finished(hub, spoke) == [0, 0]
            await spoke.close()

    asyncio.run(job(list(forgeries().values())))
    assert capfd.readouterr().err == ""  # no traceback of a stranger's


def test_a_recorded_connection_is_worth_nothing_again(tmp_path):
    """On the same hub, and on the hub of another attempt that has the same key."""
    recorded: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, keep: bool) -> None:
        while part := await reader.read(65536):
            if keep:
                recorded.append(part)
            writer.write(part)
        writer.close()

    async def job() -> None:
        hub = side(tmp_path, 0, 3, BERTNLI_JOB="x")

        async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to_hub = await asyncio.open_connection("127.0.0.1", port_of(hub))
            await asyncio.gather(relay(reader, to_hub[1], keep=True), relay(to_hub[0], writer, keep=False))

        relaying = await asyncio.start_server(pass_on, "127.0.0.1", 0)
        named = {"BERTNLI_JOB": "x", "BERTNLI_WATCH_PORT": str(relaying.sockets[0].getsockname()[1])}
        spoke = side(tmp_path, 1, 3, **named)
        async with opened(hub, spoke):
            await until(lambda: 1 in hub._states)
            await spoke.finish(ended(1))
            await until(lambda: 1 in hub._endings)
            await spoke.close()
            await until(lambda: not hub._strangers)
            again = b"".join(recorded)
            assert (await told(port_of(hub), again)).count(b"\n") <= 1  # the answer to a greeting, and no more
            assert set(hub._spokes) == {1} and list(hub._endings) == [1]
            key = read_key(key_file(tmp_path, hub.rank))
            await hub.close()
        relaying.close()
        write_key(key_file(tmp_path, hub.rank), key)
        hub, others = side(tmp_path, 0, 3, BERTNLI_JOB="x"), [side(tmp_path, n, 3, BERTNLI_JOB="x") for n in (1, 2)]
        async with opened(hub):
            assert hub.key.secret == key.secret
            await told(port_of(hub), again)
            assert not hub._spokes and not hub._states and not hub._endings
            async with opened(*others):
                assert await finished(hub, *others) == [0, 0, 0]

    asyncio.run(job())


def test_a_connection_speaks_for_its_own_rank_only_and_success_needs_rank_0(tmp_path):
    async def job() -> None:
        hub, one, two = (side(tmp_path, number, 3) for number in range(3))
        async with opened(hub, one, two):
            await until(lambda: len(hub._states) == 2)
            for foreign in (ended(2, 1), ended(0, 0), ended(0, 1), ended(7, 1)):
                one._connected.result().send(FromSpoke(ending=foreign))
            assert await finished(one, two) == [0, 0]
            await until(lambda: len(hub._endings) == 2)
            assert all(ending.code == 0 for ending in hub._endings.values()) and not hub.outcome.done()
            assert await finished(hub) == [0]

    asyncio.run(job())


def test_the_first_connection_with_a_number_stays(tmp_path):
    async def job() -> None:
        hub, first, second = side(tmp_path, 0), side(tmp_path, 1), side(tmp_path, 1, stall=STALL)
        async with opened(hub, first):
            await until(lambda: 1 in hub._states)
            kept = hub._spokes[1]
            async with opened(second):
                outcome = await second.outcome
            assert (outcome.kind, outcome.code) == ("lost", 1) and hub._spokes == {1: kept}
            assert await finished(hub, first) == [0, 0]

    asyncio.run(job())


@pytest.mark.parametrize(("allowance", "closed"), [(5, 200), (1000, 200 - 66)], ids=["seconds", "not too many"])
def test_idle_connections_get_seconds_and_shut_nobody_out(tmp_path, monkeypatch, allowance, closed):
    monkeypatch.setattr(link, "_ALLOWANCE", allowance)

    async def job() -> None:
        hub, spoke = side(tmp_path, 0), side(tmp_path, 1)
        async with opened(hub):
            idle = [await asyncio.open_connection("127.0.0.1", port_of(hub)) for _ in range(200)]
            heard = [asyncio.ensure_future(reader.read()) for reader, _ in idle]
            await until(lambda: sum(one.done() for one in heard) == closed)
            async with opened(spoke):
                await until(lambda: 1 in hub._states)
                assert await finished(hub, spoke) == [0, 0]
            assert {one.result() for one in heard if one.done()} == {b""}
            for _, writer in idle:
                writer.close()

    asyncio.run(job())


# What a spoke hears


async def _stranger(writer: asyncio.StreamWriter, sent: bytes) -> None:
    """Another program at the hub's port."""
    with contextlib.suppress(OSError):
        while True:
            writer.write(sent)
            await writer.drain()
            await asyncio.sleep(0.02)


async def _false_hub(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: Key, what: object) -> None:
    """A hub that greets as it should, sends one heartbeat, and then this for ever: bytes, a message, or that again."""
    channel = Channel(reader, writer, key.secret, rank(0))
    with contextlib.suppress(OSError, EOFError, ValueError):
        await channel.admit()
        channel.writer = wire = Wire()  # type: ignore[assignment]
        channel.send(FromHub())
        channel.writer = writer
        writer.write(wire.lines)
        while True:
            if isinstance(what, FromHub | Hello):
                channel.send(what)
            else:
                writer.write(wire.lines if what == "again" else what)  # type: ignore[arg-type]
            await writer.drain()
            await asyncio.sleep(0.02)


HEARD = {
    "no JSON": b"{{{\n",
    "not text": bytes(range(256)) + b"\n",
    "unsigned heartbeats": b'{"outcome": null}\n',
    "an unsigned outcome": json.dumps({"outcome": asdict(ended(0, 1))}).encode() + b"\n",
    "a heartbeat over and over": "again",
    "lines that are too long": b"x" * 100_000 + b"\n",
    "a line without an end": b"x" * 1000,
    "signed, and without the keys": Hello(1, "here", "0" * 32),
    "signed, of other types": FromHub({"rank": "0", "code": True}),  # type: ignore[arg-type]
    "signed, with more words than there may be": FromHub(Ending(0, "here", 1, "ended", "x" * 9000)),
    "nothing": b"",
}


def test_a_spoke_ends_in_time_whatever_it_hears(tmp_path, capfd):
    key, strangers = new_key(), {f"a stranger: {name}": sent for name, sent in forgeries().items()}

    async def hears(name: str, folder: Path) -> Ending:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                if name in HEARD:
                    spoke.stall_timeout = STALL  # from now on: joining may take as long as it does on a busy machine
                    await _false_hub(reader, writer, key, HEARD[name])
                else:
                    await _stranger(writer, strangers[name])

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        spoke = side(folder, 1, stall=LONG if name in HEARD else STALL)
        write_key(key_file(folder, spoke.rank), Key(key.secret, server.sockets[0].getsockname()[1]))
        try:
            async with opened(spoke):
                return await asyncio.wait_for(asyncio.shield(spoke.outcome), 40)
        finally:
            server.close()

    async def all_at_once() -> list[Ending]:
        return await asyncio.gather(*(hears(name, tmp_path / name) for name in (*HEARD, *strangers)))

    for name, outcome in zip((*HEARD, *strangers), asyncio.run(all_at_once()), strict=True):
        how = f"sent nothing for {STALL:g} s" if name in HEARD else "was not reached at 127.0.0.1"
        assert (outcome.kind, outcome.rank, outcome.code) == ("lost", 0, 1) and how in outcome.how, name
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("letter", ["x", "é", "蛋", "😀", "\x01", '"'], ids=ascii)
def test_last_words_of_any_letters_reach_every_rank(tmp_path, letter):
    words = "bertnli train: " + letter * 6000

    async def job() -> None:
        hub, spoke = side(tmp_path, 0), side(tmp_path, 1)
        async with opened(hub, spoke):
            await until(lambda: 1 in hub._states)
            own = Ending.of_process(0, "here", 1, 0, words)
            outcome, heard = await asyncio.wait_for(asyncio.gather(hub.finish(own), spoke.finish(None)), 30)
        assert outcome == heard == own and own.text[-1] == letter
        assert len(own.text.encode()) > 5000

    asyncio.run(job())


@given(st.text(st.characters(codec="utf-8"), max_size=50).map(lambda text: text * 1000), st.text(max_size=255))
def test_no_ending_is_longer_than_a_line(text, host):
    ending = Ending.of_process(1, host, 1, 0, f"bertnli train: {text}")
    for message in (FromSpoke(ending=ending), FromHub(ending)):
        assert len(json.dumps(asdict(message))) + 100 < LIMIT


# The key


def test_the_key_is_a_file_for_this_user_alone_and_goes_with_its_job(tmp_path):
    async def job() -> None:
        hub, spoke = side(tmp_path / "run" / "logs", 0), side(tmp_path / "run" / "logs", 1)
        async with opened(hub, spoke):
            (file,) = (tmp_path / "run" / "logs").iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert read_key(file) == hub.key and len(hub.key.secret) == 32
            assert await finished(hub, spoke) == [0, 0]
            await spoke.close()
            write_key(file, new_key())  # another job's
            await hub.close()
            assert file.exists()
            write_key(file, hub.key)
            await hub.close()
            assert not file.exists()

    asyncio.run(job())


def test_every_job_has_another_key_also_on_the_same_port(tmp_path):
    async def key() -> Key:
        hub = side(tmp_path, 0)
        write_key(key_file(tmp_path, hub.rank), Key(b"left by a job that was killed", 1))
        async with opened(hub):
            await hub.finish(ended(0, 1))
            return hub.key

    secrets = {asyncio.run(key()).secret for _ in range(3)}
    assert len(secrets) == 3 and b"left by a job that was killed" not in secrets


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"secret": "zz", "port": 1}', b'{"secret": 1, "port": 1}', b"\xff"]
)
def test_a_damaged_key_is_none(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    assert read_key(tmp_path / "key") is None and read_key(tmp_path / "no" / "key") is None


def test_a_folder_that_cannot_hold_the_key_is_an_error(tmp_path):
    (tmp_path / "logs").touch()

    async def job() -> None:
        async with opened(side(tmp_path / "logs", 0)):
            pass

    with pytest.raises(InputError, match=rf"output {tmp_path}: the job's key cannot be written into logs; found "):
        asyncio.run(job())


def test_a_key_that_a_rank_cannot_read_is_named(tmp_path):
    async def job(folder: Path) -> str:
        spoke = side(folder, 1, stall=STALL)
        async with opened(spoke):
            return (await spoke.outcome).how

    assert f"its key {tmp_path}/.key-29500 was not seen here; all ranks need one shared" in asyncio.run(job(tmp_path))
    (tmp_path / ".key-29500").mkdir()
    assert "cannot be read here (Is a directory); run all ranks as one user" in asyncio.run(job(tmp_path))


def test_ranks_of_one_host_listen_on_loopback_only(tmp_path):
    async def listens(**variables: str) -> set[str]:
        hub = side(tmp_path, 0, MASTER_PORT=str(free_port()), **variables)
        async with opened(hub):
            await hub.finish(ended(0, 1))
            own = psutil.Process().net_connections()
            return {one.laddr.ip for one in own if one.laddr.port == port_of(hub)}

    assert asyncio.run(listens(LOCAL_WORLD_SIZE="2")) == {"127.0.0.1"}
    assert asyncio.run(listens(LOCAL_WORLD_SIZE="1")) & {"::", "0.0.0.0"}


def test_a_watcher_that_breaks_ends_its_job(tmp_path, monkeypatch):
    async def breaks(*_: object) -> None:
        raise RuntimeError("a mistake of ours")

    async def job(broken: int) -> Ending:
        both = side(tmp_path, 0), side(tmp_path, 1)
        async with opened(*both):
            return await asyncio.wait_for(both[broken].outcome, 30)

    for broken, name in ((0, "Hub._check_ranks"), (1, "Spoke._connect"), (1, "Spoke._send_states")):
        with monkeypatch.context() as patch:
            patch.setattr(f"bertnli.watch.link.{name}", breaks)
            outcome = asyncio.run(job(broken))
        assert (outcome.rank, outcome.code) == (broken, 1)
        assert str(outcome).endswith("could not watch its rank: RuntimeError: a mistake of ours")
