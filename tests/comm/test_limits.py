"""Peers that send garbage, stall, lie or flood are cut off, with one line in the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import time

import dask
import psutil
import pytest
from distributed.comm import CommClosedError
from distributed.protocol import dumps

from fastworker.comm.outgoing import message_bytes
from support.certificates import Authority
from support.comm.pairs import connected, listening, pair, run

GREETING = message_bytes(dumps({"compression": None, "python": (3, 11, 0), "pickle-protocol": 5}))
CUT_OFF = "Closing the connection"


class Listening:
    """A native listener whose comms are read until they end."""

    def __init__(self) -> None:
        self.messages: list[object] = []
        self.errors: list[BaseException] = []

    async def start(self, **kwargs):
        self.listener = await listening("native", self.handle, **kwargs)
        return self

    async def handle(self, comm):
        try:
            while True:
                self.messages.append(await comm.read())
        except CommClosedError as error:
            self.errors.append(error)
            assert comm.closed()

    async def error(self) -> str:
        """Why the one comm ended, when it has."""
        while not self.errors:
            await asyncio.sleep(0.01)
        (error,) = self.errors
        return str(error)


@contextlib.asynccontextmanager
async def peer(greets: bool = True, **settings):
    """A listener and a raw connection to it, that has said hello or not."""
    with dask.config.set({f"fastworker.comm.{key}": value for key, value in settings.items()}):
        server = await Listening().start()
    reader, writer = await asyncio.open_connection(*server.listener.get_host_port())
    try:
        if greets:
            writer.write(GREETING)
        yield server, reader, writer
    finally:
        writer.close()
        server.listener.stop()


async def cut_off(reader):
    """Wait until the listener has closed the connection."""
    with contextlib.suppress(ConnectionError):
        while await reader.read(1 << 16):
            pass


def warnings(caplog):
    lines = [r for r in caplog.records if CUT_OFF in r.message]
    assert {r.name for r in lines} <= {"fastworker.comm"}
    return [r.message for r in lines]


@pytest.fixture(autouse=True)
def the_log(caplog):
    with caplog.at_level(logging.WARNING, logger="fastworker.comm"):
        yield


@pytest.mark.parametrize("greets", [True, False])
@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "frames in one message"),
        (b"\xff" * 64, "frames in one message"),
        (b"\0" * 64, "without frames"),
        (struct.pack("2Q", 8, 1), "a head of 8 bytes"),
        (struct.pack("3Q", 16, 1, 1 << 59), "bytes in one message"),
    ],
    ids=["http", "ones", "zeros", "short-head", "huge-frame"],
)
def test_garbage(caplog, greets, garbage, words):
    async def test():
        async with peer(greets) as (server, reader, writer):
            writer.write(garbage)
            await cut_off(reader)
            assert not server.messages
            if greets:
                assert words in await server.error()

    run(test())
    (line,) = warnings(caplog)
    assert words in line and "tcp://127.0.0.1:" in line


def test_other_comms_go_on_meanwhile(caplog):
    async def test():
        async with peer() as (server, reader, writer):
            comm = await connected("native", server.listener.contact_address)
            await comm.write({"before": 1})
            writer.write(b"garbage!" * 10)
            await cut_off(reader)
            await comm.write({"after": 1})
            while len(server.messages) < 2:
                await asyncio.sleep(0.01)
            assert server.messages == [{"before": 1}, {"after": 1}]
            await comm.close()

    run(test())


def test_frames_that_cannot_be_decoded(caplog):
    """The framing is right, the content is not: the reader gets an error, neither end hangs."""

    async def test():
        errors = []

        async def handle(comm):
            try:
                await comm.read()
            except Exception as error:
                errors.append(error)
            finally:
                comm.abort()

        listener = await listening("native", handle)
        reader, writer = await asyncio.open_connection(*listener.get_host_port())
        writer.write(GREETING + message_bytes([b"\xc1\xc1\xc1"]))
        await cut_off(reader)
        writer.close()
        listener.stop()
        assert len(errors) == 1

    run(test())


@pytest.mark.parametrize("nbytes", [3, 20, 5000, 200_000])
def test_a_stall_in_the_middle_of_a_message(caplog, nbytes):
    message = message_bytes([b"x" * 1000, b"y" * 1_000_000])

    async def test():
        async with peer(**{"stall-timeout": "300ms"}) as (server, reader, writer):
            writer.write(message[:nbytes])
            await cut_off(reader)
            assert "in the middle of a message" in await server.error()

    run(test())
    (line,) = warnings(caplog)
    assert "nothing has come for 0.3 s in the middle of a message" in line


def test_a_first_message_that_never_comes(caplog):
    async def test():
        async with peer(greets=False, **{"stall-timeout": "300ms"}) as (server, reader, _):
            await cut_off(reader)
            assert not server.errors

    run(test())
    (line,) = warnings(caplog)
    assert "no message within 0.3 s" in line


def test_slow_is_not_stalled(caplog):
    """What keeps coming, however slowly, is waited for; and so is an idle peer."""
    message = message_bytes(dumps({"x": "y" * 100}))

    async def test():
        async with peer(**{"stall-timeout": "1s"}) as (server, _, writer):
            for i in range(0, len(message), len(message) // 6):
                writer.write(message[i : i + len(message) // 6])
                await asyncio.sleep(0.3)
            await asyncio.sleep(1.5)
            assert server.messages == [{"x": "y" * 100}]
            assert not server.errors

    run(test())
    assert not warnings(caplog)


def test_limits_are_those_of_the_configuration(caplog):
    async def test(message, **settings):
        async with peer(**settings) as (server, reader, writer):
            writer.write(message)
            await cut_off(reader)
            return await server.error()

    five = message_bytes([b"x" * 10_000] * 5)
    assert "5 frames" in run(test(five, **{"max-frames": 4}))
    assert "more than 49999" in run(test(five, **{"max-message-bytes": 49_999}))
    assert len(warnings(caplog)) == 2


def test_nothing_large_before_the_handshake(caplog):
    async def test():
        async with peer(greets=False) as (_, reader, writer):
            writer.write(message_bytes([b"x" * (2 << 20)]))
            await cut_off(reader)

    run(test())
    (line,) = warnings(caplog)
    assert "more than 1048576" in line


def rss() -> int:
    return psutil.Process().memory_info().rss


def test_lying_lengths_cost_nothing():
    """64 peers announce a gigabyte each and send a little of it."""
    gigabyte = 1 << 30

    async def test():
        server = await Listening().start()
        before = rss()
        writers = []
        for _ in range(64):
            _, writer = await asyncio.open_connection(*server.listener.get_host_port())
            writer.write(GREETING + struct.pack("3Q", 16, 1, gigabyte) + b"x" * 100_000)
            writers.append(writer)
        while server.listener._tasks and rss() - before < 20 << 20:
            if all(not w.transport.get_write_buffer_size() for w in writers):
                await asyncio.sleep(0.5)
                break
            await asyncio.sleep(0.02)
        # A page is as much as the system gives at once; a huge one is 2 MiB
        assert rss() - before < 64 * (2 << 20) + (64 << 20)
        for writer in writers:
            writer.close()
        while len(server.errors) < 64:
            await asyncio.sleep(0.01)
        server.listener.stop()

    run(test(), 60)


def test_a_flood_waits_in_the_senders_buffers():
    """TCP slows down a peer that writes without end to a reader that has stopped reading."""

    async def test():
        async with pair() as (near, far):
            before = rss()
            message = message_bytes([b"x" * 1000])
            flood = message * 1000
            sock = near.stream.socket
            total, since = 0, time.monotonic()
            while time.monotonic() - since < 1.0:
                try:
                    total += sock.send(flood)
                    since = time.monotonic()
                except BlockingIOError:
                    await asyncio.sleep(0.01)
                assert total < 200 << 20
            assert rss() - before < 32 << 20
            frames = await far.read_frames()
            assert bytes(frames[0]) == b"x" * 1000

    run(test())


def test_a_writer_waits_for_a_slow_reader():
    async def test():
        with dask.config.set({"fastworker.comm.write-buffer": "1 MiB"}):
            async with pair() as (near, far):
                data = os.urandom(30 << 20)
                writing = asyncio.ensure_future(near.write({"x": data}))
                while not near.stream.unsent:
                    await asyncio.sleep(0.01)
                done, _ = await asyncio.wait([writing], timeout=0.2)
                assert not done
                assert near.stream.unsent > 1 << 20
                assert (await far.read()) == {"x": data}
                assert await writing > len(data)

                # A writer that gives up waiting has sent the message all the same
                writing = asyncio.ensure_future(near.write({"x": data}))
                while not near.stream.unsent:
                    await asyncio.sleep(0.01)
                writing.cancel()
                assert (await far.read()) == {"x": data}
                await near.write({"y": 1})
                assert (await far.read()) == {"y": 1}

    run(test())


def test_a_listener_survives_running_out_of_files(caplog):
    import resource

    async def test():
        server = await Listening().start()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, hard))
        clients = []
        try:
            with contextlib.suppress(OSError):
                for _ in range(19):
                    client = socket.socket()
                    clients.append(client)
                    client.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        client.connect(server.listener.get_host_port())
            await asyncio.sleep(0.2)
            for client in clients:
                client.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        comm = await connected("native", server.listener.contact_address)
        await comm.write({"x": 1})
        while not server.messages:
            await asyncio.sleep(0.01)
        await comm.close()
        server.listener.stop()

    with caplog.at_level(logging.ERROR, logger="fastworker.comm"):
        run(test())
    lines = [r for r in caplog.records if "cannot accept connections" in r.message]
    assert {r.name for r in lines} == {"fastworker.comm"}


@pytest.mark.parametrize("nbytes", [0, 3, 40, 2000, 300_000])
def test_a_connection_that_ends_in_the_middle(nbytes):
    message = message_bytes([b"x" * 1000, b"y" * 1_000_000])

    async def test():
        async with peer() as (server, reader, writer):
            writer.write(message[:nbytes])
            writer.write_eof()
            await cut_off(reader)
            await server.error()
            assert not server.messages

    run(test())


def test_garbage_over_tls(tmp_path, caplog):
    authority = Authority(tmp_path)

    async def test():
        server = await Listening().start(
            address="tls://127.0.0.1:0", ssl_context=authority.server()
        )
        reader, writer = await asyncio.open_connection(
            *server.listener.get_host_port(), ssl=authority.client()
        )
        writer.write(GREETING + b"garbage!" * 4)
        await cut_off(reader)
        writer.close()
        server.listener.stop()
        await server.error()

    run(test())
    assert len(warnings(caplog)) == 1
