"""What is refused: plaintext clients, other authorities' certificates, names that do not match."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl

import pytest
from distributed.comm import connect
from distributed.comm.core import CommClosedError, FatalCommClosedError

from support.certificates import Authority
from support.comm.pairs import MAKES, connected, listening, pair, registered, run, tls


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


@pytest.fixture
def stranger(tmp_path):
    return Authority(tmp_path, "theirs")


@contextlib.asynccontextmanager
async def server(make, context):
    """A TLS listener, and the comms it has let in."""
    let_in: list[object] = []
    listener = await listening(make, let_in.append, "tls://127.0.0.1:0", ssl_context=context)
    try:
        yield listener, let_in
    finally:
        listener.stop()


async def refused(make, address, **kwargs):
    with registered(make), pytest.raises(OSError) as info:
        comm = await connect(address, timeout=2, **kwargs)
        # TLS 1.3: the client may be done before the server has looked at its certificate
        await comm.read()
    return info.value


pairings = pytest.mark.parametrize(
    ("here", "there"), [("native", "native"), ("native", "tornado"), ("tornado", "native")]
)


@pairings
def test_extra_info(here, there, authority):
    async def test():
        async with pair(here, there, **tls(authority)) as ends:
            for comm in ends:
                assert comm.extra_info["peercert"]["subject"] == ((("commonName", "peer"),),)
                name, protocol, bits = comm.extra_info["cipher"]
                assert "TLS" in protocol and bits >= 128 and name

    run(test())


@pairings
def test_a_server_of_another_authority(here, there, authority, stranger):
    async def test():
        async with server(there, stranger.server()) as (listener, let_in):
            error = await refused(here, listener.contact_address, ssl_context=authority.client())
            assert isinstance(error, FatalCommClosedError)
            assert "does not match" in str(error)
            assert not let_in

    run(test())


@pairings
def test_a_client_of_another_authority(here, there, authority, stranger, caplog):
    async def test():
        async with server(there, authority.server()) as (listener, let_in):
            error = await refused(
                here,
                listener.contact_address,
                ssl_context=stranger.client(trusts=authority),
            )
            assert isinstance(error, CommClosedError)
            assert not let_in

    with caplog.at_level(logging.WARNING, logger="distributed.comm.tcp"):
        run(test())
    if there == "native":
        (line,) = [r for r in caplog.records if "TLS handshake failed" in r.message]
        assert "127.0.0.1" in line.message and "verify failed" in line.message


@pairings
def test_a_client_without_certificate(here, there, authority):
    async def test():
        context = ssl.create_default_context(cafile=str(authority.ca_file))
        context.check_hostname = False
        async with server(there, authority.server()) as (listener, let_in):
            assert isinstance(
                await refused(here, listener.contact_address, ssl_context=context), CommClosedError
            )
            assert not let_in

    run(test())


@pairings
def test_another_host_name(here, there, authority):
    async def test():
        context = authority.client()
        context.check_hostname = True
        async with server(there, authority.server(host="10.9.8.7")) as (listener, let_in):
            error = await refused(here, listener.contact_address, ssl_context=context)
            assert isinstance(error, FatalCommClosedError)
            assert not let_in
        async with server(there, authority.server(host="127.0.0.1")) as (listener, let_in):
            comm = await connected(here, listener.contact_address, ssl_context=context)
            await comm.close()
        # The name may be given when it is not the one that is connected to
        async with server(there, authority.server(host="10.9.8.7")) as (listener, let_in):
            comm = await connected(
                here, listener.contact_address, ssl_context=context, server_hostname="10.9.8.7"
            )
            await comm.close()

    run(test())


@pairings
def test_a_plaintext_client(here, there, authority):
    async def test():
        async with server(there, authority.server()) as (listener, let_in):
            address = listener.contact_address.replace("tls://", "tcp://")
            await refused(here, address)
            assert not let_in

    run(test())


@pytest.mark.parametrize("there", MAKES)
def test_a_plaintext_server(there, authority):
    async def test():
        listener = await listening(there, lambda comm: None)
        try:
            address = listener.contact_address.replace("tcp://", "tls://")
            await refused("native", address, ssl_context=authority.client())
        finally:
            listener.stop()

    run(test())


@pytest.mark.parametrize("make", MAKES)
def test_a_client_that_says_nothing_does_not_block_others(make, authority):
    async def test():
        async with server(make, authority.server()) as (listener, _):
            with socket.create_connection(listener.get_host_port()):
                comm = await connected(
                    "native", listener.contact_address, ssl_context=authority.client()
                )
                await comm.close()

    run(test())


def test_a_handshake_that_stalls_is_given_up(authority, caplog):
    import dask

    async def test():
        with dask.config.set({"fastworker.comm.stall-timeout": "200ms"}):
            async with server("native", authority.server()) as (listener, let_in):
                reader, writer = await asyncio.open_connection(*listener.get_host_port())
                assert await reader.read() == b""
                writer.close()
                assert not let_in

    with caplog.at_level(logging.WARNING, logger="distributed.comm.tcp"):
        run(test())
    assert any("TLS handshake failed" in record.message for record in caplog.records)
