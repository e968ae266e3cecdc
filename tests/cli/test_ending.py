"""Processes of workers that are told to end, and what may keep them from it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import psutil
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


def start(client, preload: str, *options: str, command: list[str]) -> subprocess.Popen[str]:
    process = launch(client.scheduler.address, "--preload", preload, *options, command=command)
    client.wait_for_workers(1, timeout=30)
    return process


def launch(*options: str, command: list[str]) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, where Ctrl-C works as in a terminal."""
    return subprocess.Popen(
        [*command, "--no-dashboard", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "DASK_FASTWORKER__WORKER__END_TIMEOUT": "1s"},
        start_new_session=True,
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


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


# Has the worker close of itself when its nanny, which does not listen any more, tells it to.
AT_ONCE = """
import asyncio

def dask_setup(worker):
    close = worker.close

    async def close_twice(**options):
        worker.close = close
        print("closes of itself", flush=True)
        worker.of_itself = asyncio.ensure_future(close(reason="of-itself"))
        await asyncio.sleep(0)
        await close(**options)

    worker.close = close_twice
"""


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
def test_worker_and_nanny_close_at_once(client, command):
    """Neither waits for the other."""
    process = start(client, AT_ONCE, "--nanny", command=command)
    process.send_signal(signal.SIGTERM)
    output = ended(process)
    assert "\ncloses of itself\n" in output
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


# The deadlines after a signal are short here.
SOON = """
import fastworker.control.ending, fastworker.nanny, fastworker.worker
fastworker.worker.CLOSE_TIMEOUT = fastworker.nanny.SIGNAL_TIMEOUT = 0.5
fastworker.control.ending.LAST_RESORT = 0.5
"""

# Keeps the event loop from doing anything, not even hearing of the signal.
BLOCKED = """
import time

def block():
    while True:
        time.sleep(600)

async def dask_setup(server):
    server.loop.call_later(1, lambda: (print("the loop is blocked", flush=True), block()))
"""


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> None:
    assert process.stdout is not None
    assert any(re.search(pattern, line) for line in process.stdout), f"ended without {pattern!r}"


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_blocked_event_loop(client, command, number):
    process = start(client, SOON + BLOCKED, "--no-nanny", command=command)
    wait_for_line(process, "the loop is blocked$")
    process.send_signal(number)
    output = ended(process)
    assert f"Worker (reason: signal-{number}) has not ended within 1.5 s" in output
    assert re.search(r"\n  thread MainThread at \S+ in block\n", output), output
    assert process.returncode == 1


def test_a_blocked_event_loop_of_nannies(client):
    process = start(
        client,
        "import os",
        "--preload-nanny",
        SOON + BLOCKED,
        "--nworkers",
        "2",
        command=FASTWORKER,
    )
    wait_for_line(process, "the loop is blocked$")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    output = ended(process)
    assert "Nanny (reason: signal-15) has not ended within 2 s" in output
    assert process.returncode == 1
    assert not psutil.wait_procs(children, timeout=30)[1]


# Lets no other thread run Python once the worker closes.
GREEDY = """
import ctypes

def dask_teardown(worker):
    ctypes.PyDLL(None).sleep(600)
"""


@pytest.mark.parametrize("command", [FASTWORKER, DASK_WORKER], ids=["fastworker", "dask-worker"])
def test_a_thread_that_keeps_the_gil(client, command):
    process = start(client, SOON + GREEDY, "--no-nanny", command=command)
    process.send_signal(signal.SIGTERM)
    output = ended(process)
    assert re.search(r"Timeout \(0:00:02\)!\n(.*\n)+.* in dask_teardown\n", output), output
    assert process.returncode == 1


def test_ctrl_c_with_a_nanny(client):
    process = start(client, "import os", "--nanny", command=FASTWORKER)
    os.killpg(process.pid, signal.SIGINT)
    output = ended(process)
    assert "Received signal SIGINT" in output
    assert re.search(r"Stopping worker at \S+ Reason: signal-2\n", output), output
    assert "Traceback" not in output and "still alive" not in output, output
    assert process.returncode == 0


@pytest.mark.slow
def test_ctrl_c_while_endless_tasks_run(client):
    """Of which nothing is left; the nanny gives them 8 s."""
    process = start(client, "import os", "--nanny", "--nthreads", "3", command=FASTWORKER)
    endless = [
        lambda: all(True for _ in iter(int, 1)),
        lambda: threading.Event().wait(),
        lambda: time.sleep(3600),
    ]
    futures = [client.submit(function, pure=False) for function in endless]
    while sum(client.run(lambda dask_worker: len(dask_worker.active_threads)).values()) < len(
        futures
    ):
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    output = ended(process)
    assert "Traceback" not in output and "has not ended" not in output, output
    assert process.returncode == 0
    assert not psutil.wait_procs(children, timeout=30)[1]


def test_a_worker_with_a_nanny_leaves_ctrl_c_to_it(client):
    process = start(client, "import os", "--nanny", command=FASTWORKER)
    [pid] = client.run(os.getpid).values()
    os.kill(pid, signal.SIGINT)
    assert client.submit(os.getpid).result(timeout=30) == pid
    process.send_signal(signal.SIGTERM)
    assert "Traceback" not in ended(process)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
def test_a_signal_while_it_waits_for_a_scheduler(nanny, number):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        process = launch(address, nanny, command=FASTWORKER)
        wait_for_line(process, f"Still waiting for a scheduler at {address}: ")
        process.send_signal(number)
        output = ended(process)
    assert "Error" not in output and "Traceback" not in output, output
    assert process.returncode == 0


def test_a_start_that_takes_longer_than_the_death_timeout(client):
    """The nanny ends the process that it has started, without a complaint about itself."""
    preload = "import asyncio\nasync def dask_setup(worker): await asyncio.sleep(600)"
    options = [client.scheduler.address, "--nanny", "--death-timeout", "3", "--preload", preload]
    process = launch(*options, command=FASTWORKER)
    output = ended(process)
    assert "Timed out starting worker" in output
    assert "AssertionError" not in output and "reaping stray process" not in output, output
    assert process.returncode == 1
