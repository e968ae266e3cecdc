"""A network of two hosts on this machine: two namespaces of the kernel and a cable between them.

The cable is a thread that carries packets from one TUN device to another. It can be told to delay,
lose, reorder, corrupt and duplicate them, and it can be pulled. That takes root, the ``ip`` command
and ``/dev/net/tun``, and nothing else of the kernel. What is started in a network ends with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TUN = Path("/dev/net/tun")
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000

PACKET = 9000
"""Bytes of the largest packet, like a local network's jumbo frames."""


class Disturbance(NamedTuple):
    """What happens to packets on their way: shares are from 0 to 1, times are in seconds."""

    delay: float = 0.0
    jitter: float = 0.0
    """A packet takes up to that much less or more than `delay`; so they overtake each other."""
    early: float = 0.0
    """Share of packets that take no time at all."""
    loss: float = 0.0
    corrupt: float = 0.0
    """Share of packets that have one bit flipped."""
    duplicate: float = 0.0


NONE = Disturbance()

TCP_TIMEOUT = 12
"""Seconds of ``distributed.comm.timeouts.tcp`` on the hosts; stock accepts no less than 11."""


class Cable(threading.Thread):
    """Carries packets between the TUN devices of two names; the thread alone uses them."""

    def __init__(self, names: list[str], disturbance: Disturbance, seed: int) -> None:
        super().__init__(name="cable", daemon=True)
        self.disturbance = disturbance
        self.random = random.Random(seed)
        self.under_way: list[tuple[float, int, int, bytes]] = []
        """When it is due, a number, the device and the packet; the earliest first."""
        self.carried = 0
        self.wake, self.waker = os.pipe()
        self.devices: list[int] = []
        for name in names:
            self.devices.append(os.open(TUN, os.O_RDWR | os.O_NONBLOCK))
            request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(self.devices[-1], _TUNSETIFF, request)

    def run(self) -> None:
        while True:
            wait = max(0.0, self.under_way[0][0] - time.monotonic()) if self.under_way else None
            readable, _, _ = select.select([*self.devices, self.wake], [], [], wait)
            if self.wake in readable:
                return
            for side, device in enumerate(self.devices):
                if device in readable:
                    self.take(device, self.devices[1 - side])
            while self.under_way and self.under_way[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(self.under_way)
                self.put(device, packet)

    def take(self, source: int, target: int) -> None:
        for _ in range(64):
            try:
                packet = os.read(source, PACKET + 64)
            except BlockingIOError:
                return
            self.send(packet, target)

    def send(self, packet: bytes, target: int) -> None:
        """Put a packet on its way, or do with it what happens to packets."""
        d, chance = self.disturbance, self.random.random
        if chance() < d.loss:
            return
        if chance() < d.corrupt:
            bit = self.random.randrange(8 * len(packet))
            broken = bytearray(packet)
            broken[bit // 8] ^= 1 << bit % 8
            packet = bytes(broken)
        for _ in range(2 if chance() < d.duplicate else 1):
            self.carried += 1
            due = time.monotonic()
            if d.delay and chance() >= d.early:
                due += d.delay + self.random.uniform(-d.jitter, d.jitter)
            heapq.heappush(self.under_way, (due, self.carried, target, packet))

    @staticmethod
    def put(device: int, packet: bytes) -> None:
        # A device that is down takes none, nor does one take what is too broken to be a packet.
        with contextlib.suppress(OSError):
            os.write(device, packet)

    def stop(self) -> None:
        if self.is_alive():
            os.write(self.waker, b"x")
            self.join()
        for file in (*self.devices, self.wake, self.waker):
            os.close(file)


class Network:
    """Two hosts; a context manager that ends all that was started on them."""

    def __init__(self, disturbance: Disturbance, seed: int = 1) -> None:
        self.disturbance = disturbance
        self.seed = seed
        self.names = [f"fw{os.getpid()}{side}" for side in "ab"]
        self.addresses = ["10.231.77.1", "10.231.77.2"]
        self.children: list[subprocess.Popen[str]] = []
        self.wire: Cable | None = None

    def __enter__(self) -> Network:
        try:
            self.wire = Cable(self.names, self.disturbance, self.seed)
            for name, address in zip(self.names, self.addresses, strict=True):
                ip("netns", "add", name)
                ip("link", "set", name, "mtu", str(PACKET), "netns", name)
                ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
                ip("-n", name, "link", "set", "lo", "up")
            self.cable("up")
            self.wire.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for child in self.children:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
        if self.wire is not None:
            self.wire.stop()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)

    def cable(self, state: str) -> None:
        """Pull the cable (``down``) or put it back (``up``), on both hosts."""
        for name in self.names:
            ip("-n", name, "link", "set", name, state)

    def start(self, host: int, *command: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command on a host; this Python's own programs by their names."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        options.setdefault("stdout", subprocess.PIPE)
        options["env"] = {
            **os.environ,
            "PATH": path,
            "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": f"{TCP_TIMEOUT}s",
            **options.get("env", {}),
        }
        child = subprocess.Popen(
            ["ip", "netns", "exec", self.names[host], *command], text=True, **options
        )
        self.children.append(child)
        return child


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def network_or_skip(disturbance: Disturbance) -> Iterator[Network]:
    """A network; skips the test where this user, machine or kernel has none to make."""
    for there, what in (
        (sys.platform == "linux", "Linux"),
        (hasattr(os, "geteuid") and os.geteuid() == 0, "root"),
        (shutil.which("ip") is not None, "the ip command"),
        (TUN.exists(), f"{TUN}"),
    ):
        if not there:
            pytest.skip(f"making a network takes {what}")
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(Network(disturbance))
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network can be made here: {getattr(error, 'stderr', '') or error}")
        yield network
