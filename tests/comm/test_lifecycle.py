"""How connections end, and what is left of them."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import threading

import numpy as np
import psutil
import pytest
from distributed.comm import CommClosedError
from distributed.protocol import to_serialize

from fastworker.comm.sockets import _connect_first
from support.certificates import Authority
from support.comm.pairs import connected, listening, pair, run, tls


@pytest.fixture(params=["tcp", "tls"])
def ends(request, tmp_path):
    return {} if request.param == "tcp" else tls(Authority(tmp_path))


def test_a_cancelled_read_ends_the_connection(ends):
    async def test():
        async with pair(**ends) as (near, far):
            reading = asyncio.ensure_future(near.read())
            await asyncio.sleep(0.01)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert near.closed()
            with pytest.raises(CommClosedError):
                await far.read()

    run(test())


def test_abort_wakes_all_waiting_calls(ends):
    async def test():
        async with pair(**ends) as (near, _far):
            reading = asyncio.ensure_future(near.read())
            writing = asyncio.ensure_future(near.write({"x": b"x" * (200 << 20)}))
            await asyncio.sleep(0.2)
            assert not writing.done()
            near.abort()
            for waiting in (reading, writing):
                with pytest.raises(CommClosedError):
                    await waiting
            near.abort()
            await near.close()

    run(test())


def test_abort_from_another_thread(ends):
    async def test():
        async with pair(**ends) as (near, _far):
            reading = asyncio.ensure_future(near.read())
            await asyncio.sleep(0.01)
            stream = near.stream
            thread = threading.Thread(target=near.abort)
            thread.start()
            with pytest.raises(CommClosedError):
                await reading
            thread.join()
            assert stream.socket.fileno() == -1

    run(test())


def test_two_readers_are_an_error():
    async def test():
        async with pair() as (near, far):
            first = asyncio.ensure_future(near.read())
            await asyncio.sleep(0.01)
            with pytest.raises(RuntimeError, match="two readers"):
                near.stream.wait()
            await far.write({"x": 1})
            assert await first == {"x": 1}

    run(test())


def test_a_message_that_cannot_be_serialized_leaves_the_connection_usable(ends):
    async def test():
        async with pair(**ends) as (near, far):
            with pytest.raises(TypeError):
                await near.write({"x": to_serialize(threading.Lock())}, on_error="raise")
            await near.write({"x": 1})
            assert await far.read() == {"x": 1}

    run(test())


class Cut:
    """What unpickles as if its bytes ended too early."""

    def __reduce__(self):
        return _end_too_early, ()


def _end_too_early():
    raise EOFError


@pytest.mark.parametrize("make", ["native", "tornado"])
def test_a_message_that_ends_too_early_ends_the_connection(make, ends):
    """What comes behind it cannot be trusted either. On its own and among results."""

    async def test(value):
        async with pair(make, **ends) as (near, far):
            await far.write({"data": {"x": to_serialize(value)}})
            with pytest.raises(CommClosedError, match="truncated"):
                await near.read()
            assert near.closed()

    run(test(Cut()))
    run(test([Cut(), bytes(20_000_000)]))


def test_frames_that_are_no_buffers_end_it():
    async def test():
        async with pair() as (near, _far):
            with pytest.raises(TypeError, match="frame 1"):
                await near.write_frames([b"x", 5])
            assert near.closed()

    run(test())


def test_a_dangling_comm_is_closed_with_a_warning(caplog):
    async def test():
        listener = await _listener()
        comm = await connected("native", listener.contact_address)
        stream = comm.stream
        del comm
        gc.collect()
        await asyncio.sleep(0)
        assert stream.closed()
        while listener._tasks:
            await asyncio.sleep(0.01)
        listener.stop()

    with caplog.at_level(logging.WARNING, logger="distributed.comm.tcp"):
        run(test())
    (line,) = [r.message for r in caplog.records if r.message.startswith("Closing dangling")]
    assert "stream in <TCP" in line


def test_a_closed_comm_is_not_dangling(caplog):
    async def test():
        async with pair() as (near, _far):
            await near.close()

    with caplog.at_level(logging.WARNING, logger="distributed.comm.tcp"):
        run(test())
        gc.collect()
    assert not [r for r in caplog.records if r.name == "distributed.comm.tcp"]


def test_a_listener_that_stops_during_a_handshake():
    """A connection that was accepted, but whose peer does not end the handshake, is closed."""

    async def test():
        listener = await _listener()
        accept = listener._serve

        async def late(sock, address):
            listener.stop()
            listener.abort_handshaking_comms()
            await accept(sock, address)

        listener._serve = late
        with pytest.raises(OSError):
            await connected("native", listener.contact_address)

    run(test())


def test_a_stopped_listener_keeps_its_connections():
    async def test():
        async with pair() as (near, far):
            await near.write({"x": 1})
            assert await far.read() == {"x": 1}

    run(test())


def test_errors_of_handlers_are_logged(caplog):
    async def test():
        async def handle(comm):
            comm.abort()
            raise ZeroDivisionError("on purpose")

        listener = await listening("native", handle)
        comm = await connected("native", listener.contact_address)
        with pytest.raises(CommClosedError):
            await comm.read()
        await asyncio.sleep(0.05)
        listener.stop()

    with caplog.at_level(logging.ERROR, logger="fastworker.comm"):
        run(test())
    (record,) = [r for r in caplog.records if r.name == "fastworker.comm"]
    assert "Error while serving tcp://127.0.0.1" in record.message
    assert "on purpose" in record.exc_text


def test_buffers_are_let_go_when_they_are_sent(ends):
    """Neither end keeps an array that the other has, or that has no more references."""
    import weakref

    class Array(np.ndarray):
        pass

    async def test():
        async with pair(**ends) as (near, far):
            array = np.zeros(5 << 20, "u1").view(Array)
            ref = weakref.ref(array)
            sending = asyncio.ensure_future(near.write_frames([b"x", memoryview(array)]))
            del array
            frames = await far.read_frames()
            await sending
            assert frames[1].nbytes == 5 << 20
            gc.collect()
            assert ref() is None

            array = np.zeros(200 << 20, "u1").view(Array)
            ref = weakref.ref(array)
            sending = asyncio.ensure_future(near.write_frames([memoryview(array)]))
            await asyncio.sleep(0.1)
            del array
            assert ref() is not None
            near.abort()
            with pytest.raises(CommClosedError):
                await sending
            del sending
            await asyncio.sleep(0)  # asyncio itself holds the error until the loop's next round
            gc.collect()
            assert ref() is None

    run(test())


async def _listener():
    async def handle(comm):
        try:
            while True:
                await comm.write(await comm.read())
        except CommClosedError:
            pass

    return await listening("native", handle)


COUNT = int(os.environ.get("FASTWORKER_TEST_CONNECTIONS", "2000"))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["close", "abort", "garbage"])
def test_files_and_memory_stay_flat(how):
    """``FASTWORKER_TEST_CONNECTIONS=100000`` for the whole thing."""
    process = psutil.Process()

    async def one(listener):
        comm = await connected("native", listener.contact_address)
        await comm.write({"x": 1})
        assert await comm.read() == {"x": 1}
        if how == "close":
            await comm.close()
        elif how == "abort":
            comm.abort()
        else:
            comm.stream.socket.send(b"garbage!" * 4)
            with pytest.raises(CommClosedError):
                await comm.read()

    async def test():
        listener = await _listener()
        try:
            for _ in range(200):
                await one(listener)
            gc.collect()
            files, memory = process.num_fds(), process.memory_info().rss
            for _ in range(COUNT):
                await one(listener)
            for _ in range(100):
                await asyncio.sleep(0.01)
                if process.num_fds() <= files + 2 and not listener._tasks:
                    break
            gc.collect()
            assert process.num_fds() <= files + 2
            assert process.memory_info().rss < memory + (16 << 20)
        finally:
            listener.stop()

    logging.getLogger("distributed.comm.tcp").setLevel(logging.ERROR)
    try:
        run(test(), 3600)
    finally:
        logging.getLogger("distributed.comm.tcp").setLevel(logging.NOTSET)


def test_an_error_of_several_addresses_stands_in_no_cycle():
    """No frame that it came through holds it."""

    async def refused():
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        addresses = [(socket.AF_INET, (host, port)) for host in ("127.0.0.1", "127.0.0.2")]
        try:
            await _connect_first(addresses)
        except ConnectionRefusedError as error:
            return type(error)

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(refused()) is ConnectionRefusedError
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [found for found in gc.garbage if isinstance(found, ConnectionRefusedError)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
