"""Done to workers from inside, by ``Client.run``: read them, disturb them, look them over."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

from distributed import Status, Worker

from support.stress import tasks, values

#: What a thread looks at, again and again, while tasks run.
LOOKS: dict[str, Callable[[Any], object]] = {
    "log": lambda w: list(w.state.log)[-1:],
    "end of the log": lambda w: w.state.log[-1] if w.state.log else None,
    "stimulus log": lambda w: list(w.state.stimulus_log),
    "story": lambda w: w.state.story(*list(w.tasks)[:3]),
    "stimulus story": lambda w: w.state.stimulus_story(*list(w.tasks)[:3]),
    "picture": lambda w: w.state._to_dict(exclude=("log", "stimulus_log")),
    "task_state": lambda w: dict(_items(w.task_state)),
    "priorities": lambda w: list(w.priorities),
    "dependencies": lambda w: list(_items(w.dependencies)),
    "dependents": lambda w: list(_items(w.dependents)),
    "waiting_for_data": lambda w: list(_items(w.waiting_for_data)),
    "who_has": lambda w: list(_items(w.who_has)),
    "has_what": lambda w: list(_items(w.has_what)),
    "ready": lambda w: list(w.ready),
    "data_needed": lambda w: list(w.data_needed),
    "running": lambda w: w.state.all_running_tasks,
    "counts": lambda w: dict(w.state.task_counter.current_count()),
    "elapsed": lambda w: dict(w.state.task_counter.cumulative_elapsed()),
    "active keys": lambda w: (list(w.active_keys), len(w.active_keys)),
    "active threads": lambda w: w.active_threads.copy(),
    "stacks": lambda w: w.get_call_stack(),
    "data keys": lambda w: [key in w.data for key in w.data],
    "data in memory": lambda w: list(w.data.fast.items()),
    "data sizes": lambda w: (w.data.fast.weights, w.data.fast.order, repr(w.data.fast)),
    "a value": lambda w: w.data.get(next(iter(w.data), None)),
    "digests": lambda w: (dict(w.digests_total), dict(w.digests_max)),
    "runs": lambda w: w.execute_metrics.tasks_total,
    "outbox": lambda w: (w.batched_stream.metrics, repr(w.batched_stream)),
    "waiting messages": lambda w: w.batched_stream.buffer,
    "sent messages": lambda w: w.batched_stream.recent_message_log,
    "spilled": lambda w: (w.data.spilled_total, w.data.cumulative_metrics),
}


def _items(view: Any) -> Iterator[tuple[Any, Any]]:
    for key in view:
        with suppress(KeyError):  # gone meanwhile
            yield key, view[key]


class Reader(threading.Thread):
    """Looks at everything there is to see on a worker, in random order, until it is stopped."""

    def __init__(self, worker: Any, seed: int) -> None:
        super().__init__(name=f"reader-{seed}", daemon=True)
        self.worker = worker
        self.chance = random.Random(seed)
        self.stopped = threading.Event()
        self.errors: dict[str, str] = {}
        self.looks = 0

    def run(self) -> None:
        looks = list(LOOKS)
        while not self.stopped.wait(0.005):
            look = self.chance.choice(looks)
            try:
                LOOKS[look](self.worker)
            except Exception:
                self.errors.setdefault(look, traceback.format_exc())
            self.looks += 1


def start(seed: int, collect: bool, dask_worker: Any) -> None:
    """Bad weather, and a thread that reads the worker's state."""
    stack = dask_worker.stress_stack = ExitStack()
    stack.enter_context(values.bad_weather(collect))
    dask_worker.stress_reader = Reader(dask_worker, seed)
    dask_worker.stress_reader.start()


async def stop(dask_worker: Any) -> dict[str, str]:
    """What went wrong in the thread that read the worker's state."""
    reader = dask_worker.stress_reader
    reader.stopped.set()
    await asyncio.to_thread(reader.join, 30)
    dask_worker.stress_stack.close()
    assert not reader.is_alive(), "the reader hangs"
    assert reader.looks, "the reader did not read"
    return dict(reader.errors)


def pause(dask_worker: Any) -> None:
    dask_worker.status = Status.paused


def unpause(dask_worker: Any) -> None:
    dask_worker.status = Status.running


async def add_plugin(name: str, listening: bool, dask_worker: Any) -> None:
    plugin = tasks.Listening() if listening else tasks.Quiet()
    await dask_worker.plugin_add(plugin=plugin, name=name)


async def remove_plugin(name: str, dask_worker: Any) -> None:
    await dask_worker.plugin_remove(name=name)


def evict(dask_worker: Any) -> None:
    """Spill something, whatever the target is."""
    dask_worker.data.evict()


async def left(dask_worker: Any) -> dict[str, Any]:
    """What is left on a worker once the client wants nothing any more: nothing, in the end."""
    worker: Worker = dask_worker
    state: Any = worker.state
    state.validate_state()
    free = threading.Event()

    def take_lock() -> None:
        with state.lock:
            free.set()

    threading.Thread(target=take_lock, daemon=True).start()
    await asyncio.to_thread(free.wait, 10)
    gc.collect()
    pool: Any = worker.executors["default"]
    threads = [t for t in threading.enumerate() if t.name.startswith(pool._thread_name_prefix)]
    found = {
        "lock is held": not free.is_set(),
        "tasks": {key: ts.state for key, ts in list(state.tasks.items())},
        "data": list(worker.data),
        "spilled": list(worker.data.slow),  # type: ignore[attr-defined]
        "bytes in memory": worker.data.fast.total_weight,  # type: ignore[attr-defined]
        "nbytes": state.nbytes,
        "executing": len(state.executing) + len(state.long_running),
        "active": [*worker.active_keys, *worker.active_threads.values()],
        "thread ids": dict(state.threads),
        "resources in use": {
            name: state.total_resources[name] - amount
            for name, amount in state.available_resources.items()
            if amount != state.total_resources[name]
        },
        "messages": worker.batched_stream.metrics["waiting_messages"],
        "dropped messages": worker.batched_stream.metrics["dropped"],
        "rejoining": len(pool._rejoin_list),
        "too many threads": len(pool._threads) > pool._max_workers,
        "threads that are not alive": [t.name for t in pool._threads if not t.is_alive()],
        # Those that have left the pool end when their task does
        "threads besides the pool's": [
            t.name for t in threads if t not in pool._threads and not _of_another_worker(t, worker)
        ],
        "awaited": len(worker._awaited),
        "values": len(values.alive),
    }
    return {name: what for name, what in found.items() if what}


def _of_another_worker(thread: threading.Thread, worker: Any) -> bool:
    return any(
        thread in other.executors["default"]._threads
        for other in Worker._instances
        if other is not worker
    )


def now() -> float:
    return time.monotonic()
