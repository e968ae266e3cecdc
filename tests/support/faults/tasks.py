"""What runs on the workers: nodes of graphs with known answers, and tasks that do harm.

Workers import it, so it needs no test library. Whatever does harm a limited number of times
counts in a file, because its process may be gone when it runs again.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy
from distributed import get_worker, rejoin, secede, worker_client

PRIME = 2_147_483_647


def combine(salt: int, numbers: Sequence[int]) -> int:
    """The answer of a node, whose inputs' order matters."""
    total = salt
    for number in numbers:
        total = (total * 48_271 + number) % PRIME
    return total


class Value:
    """A number with a payload that it determines."""

    def __init__(self, number: int, payload: Any) -> None:
        self.number = number
        self.payload = payload

    def check(self) -> None:
        """Raise AssertionError when the payload is not the number's."""
        size = len(self.payload)
        assert bytes(self.payload) == pattern(self.number, size), f"{self.number}: broken payload"


def pattern(number: int, size: int) -> bytes:
    seed = number.to_bytes(4, "little") + b"%d;" % number
    return (seed * (size // len(seed) + 1))[:size]


def node(salt: int, size: int, *inputs: Value) -> Value:
    for value in inputs:
        value.check()
    number = combine(salt, [value.number for value in inputs])
    return Value(number, pattern(number, size))


def slow_node(salt: int, size: int, *inputs: Value) -> Value:
    time.sleep(0.02 + salt % 64 / 1000)
    return node(salt, size, *inputs)


async def node_on_loop(salt: int, size: int, *inputs: Value) -> Value:
    await asyncio.sleep(salt % 16 / 1000)
    return node(salt, size, *inputs)


def node_that_secedes(salt: int, size: int, *inputs: Value) -> Value:
    secede()
    time.sleep(salt % 16 / 1000)
    rejoin()
    return node(salt, size, *inputs)


def node_by_client(salt: int, size: int, *inputs: Value) -> Value:
    """Has another task do it."""
    with worker_client() as client:
        return client.submit(node, salt, size, *inputs, pure=False).result()


def node_of_array(salt: int, size: int, *inputs: Value) -> Value:
    """Its payload travels beside the pickle."""
    value = node(salt, size, *inputs)
    value.payload = numpy.frombuffer(bytearray(value.payload), dtype="u1")
    return value


# Harm

_libc = ctypes.CDLL(None)


def count_to(file: str, times: int) -> bool:
    """Whether this is not yet past the ``times``-th call for this file, which counts them."""
    with open(file, "ab", buffering=0) as counter:
        counter.write(b"x")
        return counter.tell() <= times


def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    elif how == "system-exit":
        raise SystemExit(4)
    elif how == "keyboard-interrupt":
        raise KeyboardInterrupt
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)


def die_first(x: int, how: str, file: str, times: int) -> int:
    if count_to(file, times):
        time.sleep(0.05)
        die(how)
    return 2 * x


def deadlock(file: str) -> str:
    """Hold a lock and wait for it, until a file says that it has lasted long enough."""
    lock = threading.Lock()
    lock.acquire()
    while not lock.acquire(timeout=0.2):
        if os.path.exists(file):
            return "let go"
    raise AssertionError("acquired twice")


def fork(x: int, seconds: float) -> int:
    pid = os.fork()
    if not pid:
        time.sleep(seconds)
        os._exit(x % 100)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == x % 100
    return 2 * x


def exhaust_descriptors(x: int, seconds: float) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, used + 20), hard))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        time.sleep(seconds)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return 2 * x


def hog_first(x: int, file: str, nbytes: int) -> int:
    """Take far more memory than there is, once, and wait for what follows."""
    if count_to(file, 1):
        hoard = bytearray(nbytes)
        hoard[::4096] = b"x" * len(hoard[::4096])
        time.sleep(120)
        raise AssertionError(f"{len(hoard)} bytes, and the worker lives on")
    return 2 * x


def fail(x: int) -> NoReturn:
    raise HarmError(x)


class HarmError(Exception):
    """What a task raises on purpose."""


class Unpicklable:
    """Its pickling fails, always."""

    def __reduce__(self) -> NoReturn:
        raise HarmError("not to be pickled")

    def __call__(self, *args: Any) -> int:
        return 0


class Unloadable:
    """Can be pickled; the pickle fails to load in the processes named: workers', or all others."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __reduce__(self) -> Any:
        return load_elsewhere, (self.where,)

    def __call__(self, *args: Any) -> int:
        return 0


def load_elsewhere(where: str) -> Unloadable:
    role = os.environ.get("CLUSTER_ROLE", "client")
    if where in (role, "everywhere"):
        raise HarmError(f"not to be loaded by a {role}")
    return Unloadable(where)


class UnpicklableError(HarmError):
    def __reduce__(self) -> NoReturn:
        raise HarmError("not to be pickled")


class UnloadableError(HarmError):
    def __reduce__(self) -> Any:
        return load_elsewhere, ("everywhere",)


MADE = {
    each.__name__: each for each in (Unpicklable, Unloadable, UnpicklableError, UnloadableError)
}


def make(name: str, *args: Any) -> Any:
    return MADE[name](*args)


def make_and_raise(name: str) -> NoReturn:
    raise MADE[name]("made to be raised")


def take(value: object) -> str:
    return type(value).__name__


# What the harness looks at from inside, by Client.run


def what_is_left(dask_worker: Any) -> dict[str, Any]:
    """What is left on a worker once the client wants nothing any more."""
    import psutil

    process = psutil.Process()
    local = str(dask_worker.local_directory)
    found = {
        "tasks": {str(key): ts.state for key, ts in list(dask_worker.state.tasks.items())},
        "data": [str(key) for key in dask_worker.data],
        "active": {thread: str(key) for thread, key in list(dask_worker.active_threads.items())},
        "half-closed sockets": [
            str(each.raddr) for each in process.net_connections() if each.status == "CLOSE_WAIT"
        ],
        "open files": [
            each.path for each in process.open_files() if each.path.startswith(local + "/")
        ],
        "files": [
            str(path)
            for path in Path(local).rglob("*")
            if path.is_file() and path.suffix not in (".lock", ".dirlock")
        ],
        "children": [each.name() for each in process.children()],
    }
    return {name: what for name, what in found.items() if what}


def without(left: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """What is left on a worker besides the tasks and data of these keys."""
    rest = {
        **left,
        "tasks": {key: state for key, state in left.get("tasks", {}).items() if key not in known},
        "data": [key for key in left.get("data", ()) if key not in known],
    }
    return {name: what for name, what in rest.items() if what}


def known_keys(dask_scheduler: Any) -> list[str]:
    return [str(key) for key in dask_scheduler.tasks]


def what_is_wanted(dask_scheduler: Any) -> str:
    """What clients want, and what the scheduler knows besides."""
    known = [str(ts) for ts in dask_scheduler.tasks.values()]
    wanted = {key: [ts.key for ts in cs.wants_what] for key, cs in dask_scheduler.clients.items()}
    return f"{str(wanted)[:500]}; known tasks: {str(known)[:500]}"


def stories(keys: list[str], dask_scheduler: Any) -> str:
    """What a scheduler knows of keys that do not come."""
    lines = []
    for key in keys:
        ts = dask_scheduler.tasks.get(key)
        lines.append(f"{key}: {ts and (ts.state, ts.processing_on, ts.waiting_on)}")
        lines += [f"    {line}" for line in dask_scheduler.story(key)[-20:]]
    lines += [f"{ws}: {ws.status}, {len(ws.processing)}" for ws in dask_scheduler.workers.values()]
    return "\n".join(lines)


def worker_stories(keys: list[str], dask_worker: Any) -> str:
    lines = [f"{dask_worker.status} executing={list(dask_worker.state.executing)[:9]}"]
    for key in keys:
        ts = dask_worker.state.tasks.get(key)
        lines.append(f"{key}: {ts and (ts.state, ts.previous, ts.next)}")
        lines += [f"    {line}" for line in dask_worker.state.story(key)[-30:]]
    return "\n".join(lines)


def set_status(name: str, dask_worker: Any) -> None:
    from distributed import Status

    dask_worker.status = Status[name]


async def leave(dask_worker: Any) -> None:
    """Have the worker close gracefully, after the answer to this."""
    asyncio.get_running_loop().call_later(
        0.05, lambda: asyncio.ensure_future(dask_worker.close_gracefully())
    )


def count_removed(dask_scheduler: Any) -> int:
    return dask_scheduler.plugins["fault-counter"].removed


def where_am_i() -> str:
    return str(get_worker().address)
