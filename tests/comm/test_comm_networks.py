"""Slow, lossy and broken networks: the data is right, or there is an error; nobody hangs.

The first tests need nothing. The others build a network of their own out of two namespaces of the
kernel, which takes root, and run on demand:
``FASTWORKER_TEST_NETWORKS=1 pytest test_comm_networks.py``.
Those with loss need the kernel's ``netem``. Whatever they start, they stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comm_pairs import MAKES, connected, listening, run
from distributed.comm import CommClosedError
from distributed.protocol import to_serialize

HERE = Path(__file__).parent

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

on_demand = pytest.mark.skipif(
    os.environ.get("FASTWORKER_TEST_NETWORKS") != "1",
    reason="on demand: FASTWORKER_TEST_NETWORKS=1",
)
TIMEOUT = 90.0
TCP_TIMEOUT = 12
"""Seconds of ``distributed.comm.timeouts.tcp``; stock accepts no less than 11."""


class Network:
    """Two namespaces with a cable between them."""

    def __init__(self) -> None:
        self.names = [f"fw{os.getpid()}{side}" for side in "ab"]
        self.hosts = ["10.231.77.1", "10.231.77.2"]
        self.children: list[subprocess.Popen[str]] = []

    def __enter__(self):
        a, b = self.names
        try:
            for name in self.names:
                ip("netns", "add", name)
            ip("link", "add", a, "netns", a, "type", "veth", "peer", "name", b, "netns", b)
            for name, host in zip(self.names, self.hosts, strict=True):
                ip("-n", name, "addr", "add", f"{host}/24", "dev", name)
                ip("-n", name, "link", "set", "lo", "up")
            self.cable("up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        for child in self.children:
            child.kill()
            child.wait()
            child.stdout.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)

    def cable(self, state: str) -> None:
        for name in self.names:
            ip("-n", name, "link", "set", name, state)

    def disturb(self, *netem: str) -> None:
        for name in self.names:
            command = ["ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", name, "root"]
            done = subprocess.run([*command, "netem", *netem], capture_output=True, text=True)
            if "unknown" in done.stderr or "not found" in done.stderr:
                pytest.skip(f"this kernel has no netem: {done.stderr.strip()}")
            assert done.returncode == 0, done.stderr

    def start(self, side: int, *arguments: str) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self.names[side]]
        command += [sys.executable, str(HERE / "wire_ends.py"), *arguments]
        environment = {**os.environ, "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{TCP_TIMEOUT}s"}
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, text=True, cwd=HERE
        )
        self.children.append(child)
        return child

    def transfer(self, here: str, there: str, count: int, nbytes: int):
        """A server on one side, and a client of it on the other that has connected."""
        server = self.start(1, "serve", self.hosts[1], there)
        client = self.start(
            0, "fetch", server.stdout.readline().strip(), here, str(count), str(nbytes)
        )
        assert client.stdout.readline() == "connected\n"
        return server, client


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def network():
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("takes root and the ip command")
    with Network() as made:
        yield made


@on_demand
@pytest.mark.timeout(TIMEOUT)
@pairings
@pytest.mark.parametrize(
    "netem",
    ["delay 20ms 5ms", "loss 2%", "delay 10ms reorder 25% 50%", "corrupt 0.5%", "duplicate 5%"],
)
def test_disturbed(network, here, there, netem):
    network.disturb(*netem.split())
    _, client = network.transfer(here, there, 5, 3 << 20)
    assert client.stdout.read().split() == ["0", "1", "2", "3", "4", "done"]


@on_demand
@pytest.mark.timeout(TIMEOUT)
@pytest.mark.parametrize("make", MAKES)
def test_a_cable_pulled_for_a_while(network, make):
    _, client = network.transfer(make, "native", 200, 4 << 20)
    assert client.stdout.readline() == "0\n"
    network.cable("down")
    time.sleep(3)
    network.cable("up")
    assert client.stdout.read().split() == [*map(str, range(1, 200)), "done"]


@on_demand
@pytest.mark.timeout(TIMEOUT)
@pairings
def test_a_cable_pulled_for_good(network, here, there):
    """Both ends notice: the one that sends, and the one that waits."""
    server, client = network.transfer(here, there, 100_000, 4 << 20)
    assert client.stdout.readline() == "0\n"
    network.cable("down")
    last = client.stdout.read().splitlines()[-1]
    assert last.startswith("CommClosedError after"), last
    assert server.stdout.readline().startswith("ended: CommClosedError")


@on_demand
@pytest.mark.timeout(TIMEOUT)
@pairings
def test_an_idle_connection_whose_cable_was_pulled(network, here, there):
    """Nothing is on its way, and the one that waits cannot know; keep-alive finds out."""
    server = network.start(1, "serve", network.hosts[1], there)
    idle = network.start(0, "idle", server.stdout.readline().strip(), here)
    assert idle.stdout.readline() == "connected\n"
    network.cable("down")
    assert idle.stdout.readline().startswith("CommClosedError")
    assert server.stdout.readline().startswith("ended: CommClosedError")
