"""What the cluster tests run on workers; workers import it, so it needs no test library."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import zlib

from distributed import WorkerPlugin, get_client, get_worker, rejoin, secede, worker_client


def increment(x):
    return x + 1


def add(*values):
    return sum(values)


def sleep_and_return(value, seconds):
    time.sleep(seconds)
    return value


def where_it_ran(_, seconds=0.0):
    """The address of the worker, after ``seconds``."""
    time.sleep(seconds)
    return get_worker().address


def pid_where_it_ran(_):
    return os.getpid()


def unique_token(_):
    """Different each time it runs: tells whether a task ran again."""
    return os.urandom(8)


async def async_increment(x):
    await asyncio.sleep(0.01)
    return x + 1


async def async_failure(x):
    await asyncio.sleep(0)
    raise KeyError(x)


def partial_sums_through_client(n):
    """A task that submits tasks and waits for them, its own thread given back meanwhile."""
    with worker_client() as client:
        return sum(client.gather(client.map(increment, range(n))))


def fibonacci(n):
    """Tasks inside tasks: each leaves the thread pool while it waits, and comes back."""
    if n < 2:
        return n
    client = get_client()
    futures = client.map(fibonacci, [n - 1, n - 2], pure=False)
    secede()
    results = client.gather(futures)
    rejoin()
    return sum(results)


def state_on_worker(key, dask_worker):
    """The state of a task as this worker sees it; run with ``Client.run``."""
    task = dask_worker.state.tasks.get(key)
    return None if task is None else task.state


class Counter:
    """An actor. Clients see the attributes that its class has, so ``value`` stands there."""

    value = 0

    def increment(self, by=1):
        self.value += by
        return self.value

    def fail(self):
        raise LookupError("the actor says no")


class CustomError(Exception):
    def __init__(self, code, detail):
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def raise_custom(code):
    raise CustomError(code, {"at": "a worker"})


class UnpicklableError(Exception):
    def __reduce__(self):
        raise TypeError("this exception does not travel")


def raise_unpicklable():
    raise UnpicklableError("a text that should survive")


class FailsToLoadOnWorkers:
    """An argument that the client and the scheduler can handle, but no worker."""

    def __reduce__(self):
        return _refuse_on_workers, ()


def _refuse_on_workers():
    if os.environ.get("CLUSTER_ROLE") == "worker":
        raise ValueError("cannot be loaded")
    return FailsToLoadOnWorkers()


def return_unpicklable():
    return threading.Lock()


_attempts: dict[str, int] = {}


def fail_first(times, label):
    """Raise the first ``times`` times that it runs in this process, then return the count."""
    count = _attempts[label] = _attempts.get(label, 0) + 1
    if count <= times:
        raise RuntimeError(f"attempt {count}")
    return count


_running = 0
_most_running = 0
_lock = threading.Lock()


def count_at_once(seconds):
    """How many calls of this function ever ran together in this process."""
    global _running, _most_running
    with _lock:
        _running += 1
        _most_running = max(_most_running, _running)
    time.sleep(seconds)
    with _lock:
        _running -= 1
        return _most_running


def touch_and_sleep(path, seconds):
    """Append a byte to a file, so that a test sees which tasks ran."""
    with open(path, "ab") as file:
        file.write(b".")
    time.sleep(seconds)


def end_process():
    os._exit(1)


def array_of(megabytes, seed):
    import numpy as np

    return np.random.default_rng(seed).random(megabytes * 2**17)


def checksum(array):
    """Exact, where a sum of floats depends on how memory is aligned."""
    return zlib.crc32(array)


def frame_part(index, rows):
    """One part of a data frame that is the same wherever it is made."""
    import numpy as np
    import pandas as pd

    rng = np.random.default_rng(index)
    return pd.DataFrame(
        {
            "key": rng.integers(0, 100, rows),
            "value": rng.integers(0, 1_000_000, rows),
            "name": rng.choice(["red", "green", "blue"], rows),
        }
    )


def on_disk(dask_worker):
    """How many results are on disk, and how many there are."""
    return len(dask_worker.data.slow), len(dask_worker.data)


def leak_on_one(_):
    import builtins

    time.sleep(0.01)
    worker = get_worker()
    if worker.name == "one" and not hasattr(builtins, "leak"):
        builtins.leak = bytearray(b"x") * 900_000_000
        while worker.status.name != "paused":
            time.sleep(0.01)
    return worker.name


def classes_in_use(dask_worker):
    """The classes of a worker, its state machine and a task of it, as dotted names."""

    def name(cls):
        return f"{cls.__module__}.{cls.__qualname__}"

    tasks = dask_worker.state.tasks.values()
    return {
        "worker": name(type(dask_worker)),
        "state": name(type(dask_worker.state)),
        "task": {name(type(task)) for task in tasks},
    }


class Ended(WorkerPlugin):
    """Notes when it is taken out."""

    name = "ended"

    def __init__(self, path):
        self.path = path

    def teardown(self, worker):
        open(os.path.join(self.path, str(worker.name)), "w").close()
