"""Processes of workers that are told to end, and what may keep them from it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import distributed
import pytest
from distributed.comm import CommClosedError
from distributed.core import rpc

FASTWORKER = [sys.executable, "-m", "fastworker"]
DASK_WORKER = [sys.executable, "-m", "dask", "worker", "--worker-class", "fastworker.Worker"]

# Waits on its teardown for ever, and lets itself be cancelled or not.
STUCK = """
import asyncio

async def dask_teardown(worker):
    print("teardown begins", flush=True)
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if {cancels}:
                raise
"""

# Does not end with the worker: Python waits for it at its exit.
THREAD = """
import threading

def idle():
    threading.Event().wait()

def dask_setup(worker):
    threading.Thread(target=idle, name="left-by-user").start()
"""


@pytest.fixture
def client() -> Iterator[distributed.Client]:
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        with distributed.Client(cluster) as client:
            yield client


def start(client, preload: str, *options: str, command: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*command, client.scheduler.address, "--no-dashboard", "--preload", preload, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DASK_FASTWORKER__WORKER__END_TIMEOUT": "1s"},
    )
    client.wait_for_workers(1, timeout=30)
    return process


def terminate(client) -> None:
    """As a scheduler does, with half a second for each step."""
    [address] = client.scheduler_info(n_workers=-1)["workers"]

    async def ask():
        async with rpc(address) as worker:
            with pytest.raises(CommClosedError):
                await worker.terminate(timeout=0.5)

    asyncio.run(ask())


def ended(process: subprocess.Popen[str]) -> str:
    """What the process has written until it ended, which takes no longer than a minute."""
    try:
        return process.communicate(timeout=60)[0]
    finally:
        process.kill()


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
def test_sigterm_while_it_closes_for_the_scheduler(client, command):
    process = start(client, STUCK.format(cancels=True), "--no-nanny", command=command)
    [address] = client.scheduler_info(n_workers=-1)["workers"]
    client.run_on_scheduler(
        lambda dask_scheduler: dask_scheduler.worker_send(address, {"op": "close", "reason": "x"})
    )
    assert process.stdout is not None
    assert any("teardown begins" in line for line in process.stdout)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output = ended(process)
    # Not by the deadline, which is 31 s
    assert "has not ended" not in output
    assert time.monotonic() - started < 25
    assert process.returncode == 0, output


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
def test_a_teardown_that_never_ends(client, command, nanny):
    process = start(client, STUCK.format(cancels=False), nanny, command=command)
    terminate(client)
    output = ended(process)
    assert re.search(r"Worker at tcp://\S+ \(reason: \S+\) has not ended within 1.5 s", output)
    assert re.search(r"\n  asyncio task \S+ \(\S+\) at .* in dask_teardown, ", output), output
    assert process.returncode == (1 if nanny == "--no-nanny" else 0), output


def test_a_thread_that_never_ends(client):
    process = start(client, THREAD, "--no-nanny", command=FASTWORKER)
    terminate(client)
    output = ended(process)
    assert re.search(r"has not ended within 1.5 s; ending process \d+. It still has:\n", output)
    assert re.search(r"\n  thread left-by-user at \S+ in wait", output), output
    assert process.returncode == 1


def test_a_command_within_another_program_is_not_ended():
    """The program goes on after the command has ended, for as long as it wants."""
    program = """
import time
from distributed import LocalCluster
from distributed.cli.dask_worker import main

preload = '''
import asyncio
def dask_setup(worker):
    close = lambda: asyncio.ensure_future(worker.close(timeout=0.2))
    asyncio.get_running_loop().call_later(1, close)
'''
with LocalCluster(n_workers=0, processes=False, protocol="tcp", dashboard_address=":0") as cluster:
    options = ["--no-nanny", "--no-dashboard", "--worker-class", "fastworker.Worker"]
    main([cluster.scheduler_address, *options, "--preload", preload], standalone_mode=False)
time.sleep(2)
print("went on")
"""
    settings = {"DASK_FASTWORKER__WORKER__END_TIMEOUT": "1s"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **settings},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("went on\n")


CRASH = """
import ctypes, threading

def dask_setup(worker):
    threading.Timer(2, lambda: ctypes.string_at(0)).start()
"""


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
def test_a_crash_leaves_its_stack(client, command, monkeypatch):
    monkeypatch.delenv("PYTHONFAULTHANDLER", raising=False)
    process = start(client, CRASH, "--no-nanny", command=command)
    output = ended(process)
    assert process.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in output
    assert "in string_at" in output


def test_a_crash_under_a_nanny_leaves_its_stack(client, monkeypatch):
    monkeypatch.delenv("PYTHONFAULTHANDLER", raising=False)
    process = start(client, CRASH, "--nanny", command=FASTWORKER)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if re.search(r"Worker process \d+ was killed by signal 11", line):
                break
        assert "Fatal Python error: Segmentation fault\n" in lines
    finally:
        process.kill()
        process.wait()


def test_a_crash_leaves_no_stack_where_none_is_wanted(client, monkeypatch):
    monkeypatch.delenv("PYTHONFAULTHANDLER", raising=False)
    monkeypatch.setenv("DASK_FASTWORKER__WORKER__FAULTHANDLER", "false")
    process = start(client, CRASH, "--no-nanny", command=FASTWORKER)
    output = ended(process)
    assert process.returncode == -signal.SIGSEGV
    assert "Fatal Python error" not in output


# Holds the scheduler's farewell back until the nanny has stopped listening, as both are told to
# end at once.
LATE = """
import asyncio

def dask_setup(worker):
    async def close_late():
        while True:
            try:
                _, writer = await asyncio.open_connection(*worker.nanny.split("//")[1].split(":"))
                writer.close()
            except ConnectionRefusedError:
                break
            await asyncio.sleep(0)
        await worker.close(reason="of-itself")
    worker.ending = asyncio.ensure_future(close_late())
"""


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
def test_worker_and_nanny_close_at_once(client, command):
    """Neither waits for the other."""
    process = start(client, LATE, "--nanny", command=command)
    process.send_signal(signal.SIGTERM)
    output = ended(process)
    assert "still alive after" not in output, output
    assert process.returncode == 0


def end_nanny(address: str) -> None:
    async def ask():
        async with rpc(address) as nanny:
            with contextlib.suppress(CommClosedError):
                await nanny.terminate(timeout=0.2)

    asyncio.run(ask())


# Keeps its nanny from closing.
STUCK_NANNY = """
import asyncio

async def dask_teardown(nanny):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
"""


def test_a_nanny_that_never_ends(client):
    process = start(client, "import os", "--preload-nanny", STUCK_NANNY, command=FASTWORKER)
    [nanny] = [info["nanny"] for info in client.scheduler_info()["workers"].values()]

    end_nanny(nanny)
    output = ended(process)
    assert re.search(r"Nanny at tcp://\S+ \(reason: \S+\) has not ended within 1.4 s", output)
    assert process.returncode == 1


def test_a_nanny_that_closes_leaves_the_others_of_its_process(client):
    process = start(client, "import os", "--nworkers", "2", command=FASTWORKER)
    try:
        client.wait_for_workers(2, timeout=30)
        first, second = client.scheduler_info(n_workers=-1)["workers"].values()

        end_nanny(first["nanny"])
        time.sleep(2.5)  # the deadline would be 1.4 s
        assert process.poll() is None
        assert [info["nanny"] for info in client.scheduler_info()["workers"].values()] == [
            second["nanny"]
        ]
        process.send_signal(signal.SIGTERM)
        ended(process)
        assert process.returncode == 0
    finally:
        process.kill()
