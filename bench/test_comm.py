"""Our comm and stock's, in turn, each with its own make at the other end, in another process.

The figures are wall time, as most of the work is the kernel's and the other process's: the median
of each turn, of those the best. ``wire`` is a bare socket between the same processes, read into one
piece of memory again and again.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed.comm import Comm, connect

from comm_peer import WORD, context
from fastworker.comm import selection
from fastworker.comm.arena import keep_at_most
from versus import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

MAKES = {"stock": "tornado", "ours": "native"}
MIB = 1 << 20
SIZES = {"1MiB": (MIB, 60), "10MiB": (10 * MIB, 16), "64MiB": (64 * MIB, 6)}
"""Bytes of an array, and how many of them go in one turn."""
TARGETS = {"1MiB": 1.5, "10MiB": 1.4, "64MiB": 2.0}
CALLS = 500
PATIENCE = 60.0


@contextlib.contextmanager
def in_use(which: str) -> Iterator[None]:
    before = selection.in_use()["tcp"]
    selection.use(which)
    try:
        yield
    finally:
        selection.use(before)


@contextlib.contextmanager
def peer(make: str, *arguments: str) -> Iterator[tuple[str, int, psutil.Process]]:
    """A process that answers: the address of its comm, the port of its bare socket."""
    script = Path(__file__).with_name("comm_peer.py")
    child = subprocess.Popen(
        [sys.executable, str(script), MAKES[make], *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        address, port = child.stdout.readline().split()
        yield address, int(port), psutil.Process(child.pid)
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


async def connected(make: str, address: str, **arguments: Any) -> Comm:
    with in_use(MAKES[make]):
        return await connect(address, timeout=PATIENCE, **arguments)


async def call(comm: Comm, i: int) -> None:
    await comm.write({"op": "echo", "i": i, "reply": True})
    await comm.read()


async def fetch(comm: Comm, nbytes: int) -> Any:
    await comm.write({"op": "array", "nbytes": nbytes})
    return (await comm.read())["array"]


async def time_calls(comm: Comm) -> float:
    start = time.perf_counter()
    for i in range(CALLS):
        await call(comm, i)
    return (time.perf_counter() - start) / CALLS


async def time_fetches(comm: Comm, nbytes: int, count: int) -> float:
    """Seconds for an array, the median of those that are all held at the end."""
    times, held = [], []
    for _ in range(count):
        start = time.perf_counter()
        held.append(await fetch(comm, nbytes))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_bare(sock: socket.socket, nbytes: int, count: int) -> float:
    memory = memoryview(bytearray(nbytes))
    times = []
    for _ in range(count):
        start = time.perf_counter()
        sock.sendall(nbytes.to_bytes(WORD, "little"))
        got = 0
        while got < nbytes:
            got += sock.recv_into(memory[got:])
        times.append(time.perf_counter() - start)
    return statistics.median(times)


async def in_turn(
    record: Record, prefix: str, addresses: dict[str, str], port: int | None, **arguments: Any
) -> None:
    comms = {make: await connected(make, addresses[make], **arguments) for make in MAKES}
    bare = None if port is None else socket.create_connection(("127.0.0.1", port))
    calls: dict[str, list[float]] = {make: [] for make in MAKES}
    arrays: dict[str, dict[str, list[float]]] = {
        size: {side: [] for side in [*MAKES, "wire"]} for size in SIZES
    }
    for turn in range(4 if record.short else 10):
        for make, comm in comms.items():
            calls[make].append(await time_calls(comm))
        for size, (nbytes, count) in SIZES.items():
            for make, comm in comms.items():
                arrays[size][make].append(await time_fetches(comm, nbytes, count))
            if bare is not None:
                arrays[size]["wire"].append(time_bare(bare, nbytes, count))
        if turn == 0:  # it warmed up
            for times in [calls, *arrays.values()]:
                for samples in times.values():
                    samples.clear()
    for comm in comms.values():
        await comm.close()
    if bare is not None:
        bare.close()

    def figures(times: dict[str, list[float]]) -> dict[str, float]:
        return {make: 1e6 * min(times[make]) for make in MAKES}

    record(f"{prefix}/call", **figures(calls), unit="us", at_least=2.0 if bare else 1.0)
    for size, times in arrays.items():
        least = TARGETS[size] if bare else 1.0
        record(f"{prefix}/{size}", **figures(times), unit="us", at_least=least)
        if bare:
            ours = 1e6 * min(times["ours"])
            wire = 1e6 * min(times["wire"])
            least = 0.9 if size == "10MiB" else None
            record(
                f"{prefix}/{size}/wire",
                stock=wire,
                ours=ours,
                unit="us",
                at_least=least,
                judged=False,
            )


def test_tcp(record: Record) -> None:
    with peer("stock") as (stock, _, _), peer("ours") as (ours, port, _):
        asyncio.run(in_turn(record, "comm/tcp", {"stock": stock, "ours": ours}, port))


def test_tls(record: Record, tmp_path: Path) -> None:
    file = str(self_signed(tmp_path))
    with peer("stock", file) as (stock, _, _), peer("ours", file) as (ours, _, _):
        addresses = {"stock": stock, "ours": ours}
        arguments = {"ssl_context": context(file, ssl.Purpose.SERVER_AUTH)}
        asyncio.run(in_turn(record, "comm/tls", addresses, None, **arguments))


@pytest.mark.parametrize("size", ["64MiB", "256MiB"])
def test_peak_memory(record: Record, size: str) -> None:
    """The most that both ends together take on top, for an array that one has and one gets."""
    nbytes = int(size.removesuffix("MiB")) * MIB
    peaks = {}
    try:
        for make in MAKES:
            with peer(make) as (address, _, server):
                peaks[make] = asyncio.run(peak(make, address, nbytes, server)) / nbytes
    finally:
        keep_at_most(128 * MIB)
    record(f"comm/memory/{size}", **peaks, unit="x its size", at_most=1.05, judged=False)


async def peak(make: str, address: str, nbytes: int, server: psutil.Process) -> float:
    comm = await connected(make, address)
    keep_at_most(0)
    await fetch(comm, nbytes)  # the server has made it now
    await asyncio.sleep(0.2)
    total = 0
    for process in (psutil.Process(), server):
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        total -= process.memory_info().rss
    array = await fetch(comm, nbytes)
    for process in (psutil.Process(), server):
        status = Path(f"/proc/{process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        total += int(line.split()[1]) * 1024
    assert len(array) == nbytes
    await comm.close()
    return total


def self_signed(directory: Path) -> Path:
    """A certificate and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fastworker benchmark")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = directory / "certificate.pem"
    file.touch(0o600)
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return file
