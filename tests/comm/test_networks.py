"""Slow, lossy and broken networks: the data is right, or there is an error; no process hangs.

The first tests need nothing. The others make a network of two hosts, where that can be done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from distributed.comm import CommClosedError
from distributed.protocol import to_serialize

from support.comm import peer
from support.comm.pairs import connected, listening, run
from support.networks import Disturbance, Network

pairings = pytest.mark.parametrize(
    ("here", "there"), [("native", "native"), ("native", "tornado"), ("tornado", "native")]
)


class Wire:
    """Passes bytes on between two sockets, in pieces of any size and not at once."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.random = random.Random(seed)
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.connect, "127.0.0.1", 0, limit=1 << 16)
        self.address = f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *error):
        self.server.close()
        self.cut()

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()

    async def connect(self, reader, writer):
        back, forth = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 16)
        self.writers += [writer, forth]
        await asyncio.gather(self.carry(reader, forth), self.carry(back, writer))

    async def carry(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self.random.choice([1, 7, 100, 5000, 1 << 16])):
                writer.write(data)
                await writer.drain()
                if self.random.random() < 0.05:
                    await asyncio.sleep(self.random.random() * 0.005)
            writer.close()


@contextlib.asynccontextmanager
async def serving(there):
    async def handle(comm):
        with contextlib.suppress(CommClosedError):
            while True:
                message = await comm.read()
                await comm.write({"array": to_serialize(message["array"])})

    listener = await listening(there, handle)
    yield listener.get_host_port()[1]
    listener.stop()


@pairings
def test_pieces_and_delays(here, there):
    async def test():
        async with serving(there) as port, Wire(port, seed=5) as wire:
            comm = await connected(here, wire.address)
            for nbytes in (1, 1000, 40_000, 70_000, 500_000, 3):
                array = np.random.default_rng(nbytes).integers(0, 255, nbytes, dtype="u1")
                await comm.write({"array": to_serialize(array)})
                np.testing.assert_array_equal((await comm.read())["array"], array)
            await comm.close()

    run(test(), 60)


@pairings
def test_cut_in_the_middle(here, there):
    async def test():
        async with serving(there) as port, Wire(port, seed=6) as wire:
            comm = await connected(here, wire.address)
            reading = asyncio.ensure_future(comm.read())
            await comm.write({"array": to_serialize(np.zeros(20 << 20))})
            wire.cut()
            with pytest.raises(CommClosedError):
                await reading
            assert comm.closed()

    run(test())


# ------------------------------------------------------------------------- networks of the kernel

more = pytest.mark.skipif(
    os.environ.get("FASTWORKER_TEST_NETWORKS") != "1",
    reason="on demand, for it waits long: FASTWORKER_TEST_NETWORKS=1",
)
pulls = pytest.mark.parametrize(
    ("here", "there"),
    [
        ("native", "native"),
        pytest.param("native", "tornado", marks=more),
        pytest.param("tornado", "native", marks=more),
    ],
)
TIMEOUT = 90.0
DISTURBANCES = {
    "delay": Disturbance(delay=0.020, jitter=0.005),
    "loss": Disturbance(delay=0.002, loss=0.02),
    "reorder": Disturbance(delay=0.010, early=0.25),
    "corrupt": Disturbance(delay=0.002, corrupt=0.005),
    "duplicate": Disturbance(duplicate=0.05),
}


def end(network: Network, host: int, *arguments: str) -> subprocess.Popen[str]:
    return network.start(host, sys.executable, peer.__file__, *arguments)


def transfer(network: Network, here: str, there: str, count: int, nbytes: int):
    """A server on one host, and a client of it on the other that has connected."""
    server = end(network, 1, "serve", network.addresses[1], there)
    client = end(
        network, 0, "fetch", server.stdout.readline().strip(), here, f"{count}", f"{nbytes}"
    )
    assert client.stdout.readline() == "connected\n"
    return server, client


@pytest.mark.timeout(TIMEOUT)
@pairings
@pytest.mark.parametrize("network", DISTURBANCES.values(), ids=DISTURBANCES.keys(), indirect=True)
def test_disturbed(network, here, there):
    _, client = transfer(network, here, there, 5, 3 << 20)
    assert client.stdout.read().split() == ["0", "1", "2", "3", "4", "done"]


@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("make", ["native", pytest.param("tornado", marks=more)])
def test_a_cable_pulled_for_a_while(network, make):
    _, client = transfer(network, make, "native", 200, 4 << 20)
    assert client.stdout.readline() == "0\n"
    network.cable("down")
    time.sleep(3)
    network.cable("up")
    assert client.stdout.read().split() == [*map(str, range(1, 200)), "done"]


@pytest.mark.timeout(TIMEOUT)
@pulls
def test_a_cable_pulled_for_good(network, here, there):
    """Both ends notice: the one that sends, and the one that waits."""
    server, client = transfer(network, here, there, 100_000, 4 << 20)
    assert client.stdout.readline() == "0\n"
    network.cable("down")
    last = client.stdout.read().splitlines()[-1]
    assert last.startswith("CommClosedError after"), last
    assert server.stdout.readline().startswith("ended: CommClosedError")


@pytest.mark.timeout(TIMEOUT)
@pulls
def test_an_idle_connection_whose_cable_was_pulled(network, here, there):
    """Nothing is on its way, and the one that waits cannot know; keep-alive finds out."""
    server = end(network, 1, "serve", network.addresses[1], there)
    idle = end(network, 0, "idle", server.stdout.readline().strip(), here)
    assert idle.stdout.readline() == "connected\n"
    network.cable("down")
    assert idle.stdout.readline().startswith("CommClosedError")
    assert server.stdout.readline().startswith("ended: CommClosedError")
