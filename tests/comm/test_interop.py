"""Ours and distributed's own comm at either end: the same messages arrive, with and without TLS."""

from __future__ import annotations

import asyncio
import logging

import dask
import numpy as np
import pytest
from distributed.comm import CommClosedError, connect, listen, parse_address
from distributed.comm.registry import get_backend
from distributed.protocol import Serialized, to_serialize

from support.certificates import Authority
from support.comm.pairs import MAKES, connected, listening, pair, registered, run, tls

RANDOM = np.random.default_rng(1)

MESSAGES = {
    "plain": {"op": "ping", "reply": True, "key": ("x", 1), "nested": [{"a": None}, 1.5, b"b"]},
    "special": {"op": "x", "set": {1, 2, 3}, "text": "ü" * 40_000},
    "batch": [{"op": "task-finished", "key": f"key-{i}", "nbytes": i} for i in range(5000)],
    "huge-bytes": {"data": RANDOM.bytes(20 << 20)},
}
ARRAYS = {
    "empty": np.empty(0),
    "small": np.arange(10.0),
    "odd": RANDOM.integers(0, 255, 70_001, dtype="u1"),
    "fortran": np.asfortranarray(RANDOM.random((300, 200))),
    "strided": RANDOM.random((400, 500))[::3, ::2],
    "large": RANDOM.random(3 << 20),
}


@pytest.fixture(params=["tcp", "tls"])
def ends(request, tmp_path):
    """The arguments of `pair` for each protocol."""
    return {} if request.param == "tcp" else tls(Authority(tmp_path))


pairings = pytest.mark.parametrize(
    ("here", "there"), [(here, there) for here in MAKES for there in MAKES]
)


async def round_trip(near, far, message):
    await asyncio.gather(near.write(message), answer(far))
    return await near.read()


async def answer(far):
    message = await far.read()
    if isinstance(message, dict) and "arrays" in message:
        message = {"arrays": [to_serialize(array) for array in message["arrays"]]}
    await far.write(message)


def as_tuples(value):
    """distributed's messages come back with tuples for lists."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, (list, tuple)) else value


@pairings
def test_messages(here, there, ends):
    async def test():
        async with pair(here, there, **ends) as (near, far):
            for message in MESSAGES.values():
                assert await round_trip(near, far, message) == as_tuples(message)
                assert await round_trip(far, near, message) == as_tuples(message)

    run(test())


@pairings
def test_arrays(here, there, ends):
    async def test():
        async with pair(here, there, **ends) as (near, far):
            message = {"arrays": [to_serialize(array) for array in ARRAYS.values()]}
            got = await round_trip(near, far, message)
            for array, sent in zip(got["arrays"], ARRAYS.values(), strict=True):
                assert array.dtype == sent.dtype
                np.testing.assert_array_equal(array, sent)
                if array.size:
                    assert array.flags.writeable
                    array[...] = 0

    run(test())


@pairings
def test_many_messages_in_flight_keep_their_order(here, there, ends):
    """One end writes without waiting for answers, sizes on both sides of every threshold."""
    sizes = [1, 100, 5000, 9000, 20_000, 40_000, 64 * 1024, 70_000, 1 << 20, 3 << 20] * 6

    async def test():
        async with pair(here, there, **ends) as (near, far):

            async def write():
                for i, size in enumerate(sizes):
                    await near.write({"i": i, "data": to_serialize(np.full(size, i, "u1"))})

            async def read():
                for i, size in enumerate(sizes):
                    message = await far.read()
                    assert message["i"] == i
                    assert message["data"].shape == (size,)
                    assert (message["data"] == i).all()

            await asyncio.gather(write(), read())

    run(test(), 60)


@pairings
def test_both_ends_write_large_messages_at_once(here, there, ends):
    data = RANDOM.bytes(30 << 20)

    async def test():
        async with pair(here, there, **ends) as (near, far):
            got = await asyncio.gather(
                near.write({"x": data}), far.write({"x": data}), near.read(), far.read()
            )
            assert got[2] == got[3] == {"x": data}

    run(test(), 60)


@pairings
def test_split_buffers(here, there, ends, monkeypatch):
    """Arrays that are sent in several frames arrive in one piece."""
    arrays = [RANDOM.random(200_000), RANDOM.random(130_001)]

    async def test():
        async with pair(here, there, **ends) as (near, far):
            near.max_shard_size = far.max_shard_size = 100_000
            got = await round_trip(near, far, {"arrays": [to_serialize(a) for a in arrays]})
            for array, sent in zip(got["arrays"], arrays, strict=True):
                np.testing.assert_array_equal(array, sent)

    run(test())


@pairings
def test_undeserialized(here, there, ends):
    async def test():
        async with pair(here, there, deserialize=False, **ends) as (near, far):
            await near.write({"x": to_serialize(np.arange(100_000))})
            message = await far.read()
            assert isinstance(message["x"], Serialized)
            await far.write(message)
            got = await near.read()
            assert isinstance(got["x"], Serialized)

    run(test())


@pairings
def test_handshake(here, there, ends):
    async def test():
        async with pair(here, there, **ends) as (near, far):
            assert near.remote_info["address"] == near.peer_address
            assert near.local_info["address"] == near.local_address
            assert near.peer_address.startswith(("tcp://", "tls://"))
            assert near.local_address == far.peer_address
            assert near.handshake_options == far.handshake_options
            assert near.handshake_options["compression"] is None
            assert near.same_host
            assert not near.closed()

    run(test())


@pairings
def test_compression_is_agreed_on(here, there):
    pytest.importorskip("lz4")
    data = np.zeros(1 << 20)

    async def test():
        async with pair(here, there) as (near, far):
            for end in (near, far):
                end.handshake_options = {"compression": "lz4", "pickle-protocol": 5}
            nbytes, message = await asyncio.gather(
                near.write({"x": to_serialize(data)}), far.read()
            )
            assert nbytes < data.nbytes / 10
            np.testing.assert_array_equal(message["x"], data)

    run(test())


@pairings
def test_a_closed_connection_is_noticed(here, there, ends):
    async def test():
        async with pair(here, there, **ends) as (near, far):
            reading = asyncio.ensure_future(far.read())
            await near.write({"last": "words"})
            assert await reading == {"last": "words"}
            reading = asyncio.ensure_future(far.read())
            await near.close()
            with pytest.raises(CommClosedError):
                await reading
            assert near.closed()
            assert far.closed()
            with pytest.raises(CommClosedError):
                await far.write({"x": 1})
            with pytest.raises(CommClosedError):
                await near.read()

    run(test())


@pairings
def test_an_idle_end_notices_too(here, there, ends):
    """No coroutine reads there; the connection pool asks `closed` before it uses a comm again."""

    async def test():
        async with pair(here, there, **ends) as (near, far):
            near.abort()
            while not far.closed():
                await asyncio.sleep(0.01)

    run(test())


@pairings
def test_what_was_written_arrives_though_the_writer_closes(here, there, ends):
    data = RANDOM.bytes(8 << 20)

    async def test():
        async with pair(here, there, **ends) as (near, far):

            async def write_and_close():
                await near.write({"x": data})
                await near.close()

            _, message = await asyncio.gather(write_and_close(), far.read())
            assert message == {"x": data}
            with pytest.raises(CommClosedError):
                await far.read()

    run(test())


@pytest.mark.parametrize("make", MAKES)
def test_the_same_errors_without_a_peer(make):
    """Of one attempt: `connect` makes several, and the last may be cut short by its timeout."""

    async def test():
        listener = await listening(make, lambda comm: None)
        _, location = parse_address(listener.contact_address)
        listener.stop()
        with registered(make):
            connector = get_backend("tcp").get_connector()
            with pytest.raises(CommClosedError, match=r"(?i)refused"):
                await connector.connect(location)

    run(test())


@pytest.mark.parametrize("make", MAKES)
def test_encryption_can_be_required(make):
    async def test():
        with registered(make):
            with pytest.raises(RuntimeError, match="encryption required"):
                await connect("tcp://127.0.0.1:1", timeout=1, require_encryption=True)
            with pytest.raises(RuntimeError, match="encryption required"):
                await listen("tcp://127.0.0.1", lambda comm: None, require_encryption=True)
            for context in (None, "x"):
                with pytest.raises(TypeError, match="ssl_context"):
                    await connect("tls://127.0.0.1:1", timeout=1, ssl_context=context)
                with pytest.raises(TypeError, match="ssl_context"):
                    await listen("tls://127.0.0.1", lambda comm: None, ssl_context=context)

    run(test())


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "", "0.0.0.0"])
def test_hosts(make, host):
    async def test():
        async with pair(make, "native", f"tcp://{host}:0") as (near, far):
            assert await round_trip(near, far, {"x": 1}) == {"x": 1}

    if host == "[::1]" and not has_ipv6():
        pytest.skip("no IPv6 here")
    run(test())


def has_ipv6() -> bool:
    import socket

    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_addresses():
    async def test():
        listener = await listening("native", lambda comm: None, "tcp://0.0.0.0:0")
        try:
            assert listener.listen_address.startswith("tcp://0.0.0.0:")
            assert "0.0.0.0" not in listener.contact_address
            port = listener.get_host_port()[1]
            assert listener.contact_address.endswith(f":{port}")
            with pytest.raises(OSError, match="in use"):
                await listening("native", lambda comm: None, f"tcp://0.0.0.0:{port}")
        finally:
            listener.stop()
        listener = await listening(
            "native", lambda comm: None, "tcp://0.0.0.0:0", default_host="10.1.2.3"
        )
        assert listener.contact_address.startswith("tcp://10.1.2.3:")
        listener.stop()
        with pytest.raises(ValueError, match="non-started"):
            _ = listener.listen_address

    run(test())


def test_deserialization_of_large_messages_leaves_the_loop():
    """As with stock: above ``distributed.comm.offload`` a thread does it."""
    import threading

    async def test():
        async with pair() as (near, far):
            main = threading.get_ident()
            _, message = await asyncio.gather(
                near.write({"x": to_serialize([Where(), np.zeros(12 << 20, "u1")])}), far.read()
            )
            assert message["x"][0].thread != main
            far.allow_offload = False
            _, message = await asyncio.gather(
                near.write({"x": to_serialize([Where(), np.zeros(12 << 20, "u1")])}), far.read()
            )
            assert message["x"][0].thread == main

    run(test())


class Where:
    """Knows the thread that it was unpickled in."""

    def __reduce__(self):
        return _where, ()


def _where():
    import threading

    where = Where()
    where.thread = threading.get_ident()
    return where


def test_uvloop():
    uvloop = pytest.importorskip("uvloop")

    async def test():
        async with pair("native", "tornado") as (near, far):
            for message in MESSAGES.values():
                assert await round_trip(near, far, message) == as_tuples(message)

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(test(), 30))
    finally:
        loop.close()


def test_sockets_are_set_as_stock_sets_them():
    import socket

    options = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        (socket.IPPROTO_TCP, 18),  # TCP_USER_TIMEOUT
    ]

    async def test():
        with dask.config.set({"distributed.comm.timeouts.tcp": "47s"}):
            async with pair("native", "tornado") as (near, far):
                ours, theirs = near.stream.socket, far.stream.socket
                for option in options:
                    assert ours.getsockopt(*option) == theirs.getsockopt(*option), option
                assert ours.getsockopt(socket.IPPROTO_TCP, 18) == 47_000

    run(test())


def test_a_connection_is_ready_before_the_first_read():
    """Messages that arrive before the first read wait; a large one waits in the kernel."""

    async def test():
        async with pair() as (near, far):
            await near.write({"x": 1})
            await near.write({"x": b"y" * 5_000_000})
            await asyncio.sleep(0.05)
            assert await far.read() == {"x": 1}
            assert await far.read() == {"x": b"y" * 5_000_000}

    run(test())


def test_a_comm_without_server():
    async def test():
        listener = await _echo()
        comm = await connected("native", listener.contact_address)
        await comm.write({"x": 1})
        assert await comm.read() == {"x": 1}
        assert "native" not in repr(comm)
        assert repr(comm).startswith("<TCP ")
        comm.name = "who"
        assert "who" in repr(comm)
        await comm.close()
        assert "(closed)" in repr(comm)
        listener.stop()

    run(test())


async def _echo():
    async def echo(comm):
        await comm.write(await comm.read())

    return await listening("native", echo)


class Unserializable:
    def __reduce__(self):
        raise TypeError("not this one")


class Unloadable:
    def __reduce__(self):
        return _not_here, ()


def _not_here():
    raise ModuleNotFoundError("not here")


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (Unserializable(), {}),
        (Unserializable(), {"on_error": "raise"}),
        (5, {"serializers": ["nonsense"]}),
        (Unloadable(), {}),
    ],
)
def test_the_same_errors_and_logs_with_bad_results(caplog, value, options):
    message = {"status": "OK", "data": {"x": to_serialize(value)}}

    async def test(make):
        async with pair(make, make) as (near, far):
            caplog.clear()
            with pytest.raises(Exception) as raised:
                await near.write(message, **options)
                await far.read()
            assert not near.closed() and not far.closed()
            await near.write("still here")
            assert await far.read() == "still here"
        said = [(r.name, r.levelname, str(r.msg)) for r in caplog.records]
        return raised.type, str(raised.value), said

    with caplog.at_level(logging.ERROR, logger="distributed"):
        stock, native = run(test("tornado")), run(test("native"))
    assert native[:2] == stock[:2]
    assert set(native[2]) == set(stock[2]) and stock[2]
