"""Messages as schedulers send them, and how to compare what comes out of them."""

from __future__ import annotations

import functools
import struct
from typing import Any

import distributed
import numpy as np
from dask._task_spec import Task, TaskRef
from dask.utils_test import inc
from distributed.core import Status
from distributed.protocol import dumps, to_serialize
from distributed.protocol.serialize import ToPickle

from fastworker.core.messages import ComputeTask, FreeKeys

ADDRESSES = ("tcp://127.0.0.1:40001", "tcp://127.0.0.1:40002", "tls://10.0.0.3:8787")
SPAN = "0f0e7d5e-1b3a-4f6e-9d0a-8f0c1d2e3f4a"


def compute_task(key: Any = "inc-0123", i: int = 0, **fields: Any) -> dict[str, Any]:
    """A compute-task message, as the scheduler puts it together."""
    return {
        "op": "compute-task",
        "key": key,
        "run_id": 1_000 + i,
        "priority": (0, 1, i),
        "stimulus_id": f"compute-task-{1795574237.495389 + i}",
        "who_has": {},
        "nbytes": {},
        "run_spec": ToPickle(Task(key, inc, i)),
        "resource_restrictions": None,
        "actor": False,
        "annotations": {},
        "span_id": SPAN,
        **fields,
    }


def free_keys(*keys: Any) -> dict[str, Any]:
    return {"op": "free-keys", "keys": keys, "stimulus_id": "processing-released-1795574237.4"}


def with_dependencies() -> dict[str, Any]:
    deps = ["x", ("y", 0, 1), ("y", 1.5), b"z", 5]
    return compute_task(
        ("sum", 3, ("a", 1)),
        who_has={key: ADDRESSES[: 1 + i % 3] for i, key in enumerate(deps)},
        nbytes={key: 28 << (8 * i) for i, key in enumerate(deps)},
        run_spec=ToPickle(Task(("sum", 3, ("a", 1)), sum, TaskRef("x"), TaskRef(("y", 0, 1)))),
        priority=(-3, 2**40, -(2**33), 1.5),
        resource_restrictions={"GPU": 1, "MEM": 2.5e9},
        actor=True,
        annotations={"retries": 3, "nested": {"a": [1, {"b": None}], "s": {1, "two"}}},
        span_id=None,
    )


def with_buffers(n: int = 20_000) -> dict[str, Any]:
    """A task with arrays in frames of their own: one that can be compressed, one that cannot."""
    arrays = np.zeros(n), np.random.default_rng(0).random(n)
    return compute_task("buffers", run_spec=ToPickle(Task("buffers", len, arrays)))


OTHERS: dict[str, Any] = {
    "acquire-replicas": {
        "op": "acquire-replicas",
        "who_has": {"x": ADDRESSES, ("y", 1): ADDRESSES[:1]},
        "nbytes": {"x": 10**12, ("y", 1): 0},
        "stimulus_id": "active-memory-manager-1",
    },
    "remove-replicas": {"op": "remove-replicas", "keys": ["x", ("y", 1)], "stimulus_id": "s"},
    "refresh-who-has": {
        "op": "refresh-who-has",
        "who_has": {"x": list(ADDRESSES), "lost": ()},
        "stimulus_id": "s",
    },
    "steal-request": {"op": "steal-request", "key": ("x", 5), "stimulus_id": "steal-1"},
    "worker-status-change": {
        "op": "worker-status-change",
        "status": "paused",
        "stimulus_id": "worker-status-change-1",
    },
    "a status as an enum": {"op": "other", "status": Status.closing_gracefully},
    "sets": {"op": "other", "set": {1, "x", (1, 2)}, "empty": set()},
    "adjust-heartbeat-interval": {"op": "adjust-heartbeat-interval", "interval": 0.5},
    "close": {"op": "close", "reason": "scheduler-close"},
    "close-stream": {"op": "close-stream"},
    "serialized": {"op": "other", "value": to_serialize(np.arange(50_000))},
    "serialized in containers": {
        "op": "other",
        "args": [to_serialize([np.arange(3), {"a": np.ones(2)}]), {"k": to_serialize("text")}],
    },
    "serialized and pickled": {"op": "other", "a": to_serialize(b"x"), "b": ToPickle({"c": {1}})},
    "functions": {
        "op": "other",
        "function": ToPickle(functools.partial(inc, 5)),
        "f": ToPickle(inc),
    },
    "OK": "OK",
    "numbers": {
        "op": "other",
        "numbers": [
            *(
                sign * (1 << bits) + near
                for bits in range(63)
                for sign in (1, -1)
                for near in (-1, 1)
            ),
            2**64 - 1,
            0.0,
            -0.0,
            1e300,
            float("inf"),
            float("nan"),
            True,
            None,
        ],
    },
    "long": {
        "op": "other",
        "array": list(range(70_000)),
        "map": {i: str(i) for i in range(70_000)},
        "text": "ä€😀" * 30_000,
        "bytes": [b"x" * n for n in (0, 31, 32, 255, 256, 65_535, 65_536)],
        "strings": ["x" * n for n in (0, 31, 32, 63, 64, 65, 255, 256, 65_535, 65_536)],
    },
    "no operation": {"key": 1},
    "an empty message": {},
}

TASKS: dict[str, Any] = {
    "compute-task": compute_task(),
    "compute-task with dependencies": with_dependencies(),
    "compute-task with buffers": with_buffers(),
    "compute-task without a run_spec": compute_task(run_spec=None),
    "compute-task with a plain run_spec": compute_task(run_spec=(1, {"a": 2})),
    "compute-task with a serialized run_spec": compute_task(run_spec=to_serialize(np.arange(9))),
    "compute-task, pickle of some size": compute_task(run_spec=ToPickle("x" * 10_000)),
    "compute-task with a long key": compute_task("k" * 300),
    "compute-task with an umlaut": compute_task("schlüssel", span_id="ä" * 20),
    "free-keys": free_keys("x", ("y", 1), b"z", 4, 1.5),
    "free-keys of none": free_keys(),
}

ODD_TASKS: dict[str, Any] = {
    "an unknown field": compute_task(unknown={"a": 1}),
    "a marker beside": compute_task(__Pickled__=0),
    "no priority": {k: v for k, v in compute_task().items() if k != "priority"},
    "nothing": {"op": "compute-task"},
    "a dict for a key": compute_task(key={"a": 1}, run_spec=None),
    "a dict in a key": compute_task(key=("a", {"b": 1}), run_spec=None),
    "a list for who_has": compute_task(who_has=["x"]),
    "None for who_has": compute_task(who_has=None),
    "a string for workers": compute_task(who_has={"x": "tcp://127.0.0.1:1"}),
    "None for nbytes": compute_task(nbytes=None),
    "text for nbytes": compute_task(nbytes={"x": "many"}),
    "a float for run_id": compute_task(run_id=1.5),
    "text for priority": compute_task(priority="high"),
    "1 for actor": compute_task(actor=1),
    "a list for annotations": compute_task(annotations=[1]),
    "a number for span_id": compute_task(span_id=5),
    "None for stimulus_id": compute_task(stimulus_id=None),
    "text for resources": compute_task(resource_restrictions="GPU"),
    "free-keys with more": {**free_keys("x"), "more": 1},
    "free-keys with text": {"op": "free-keys", "keys": "xyz", "stimulus_id": "s"},
    "free-keys without an id": {"op": "free-keys", "keys": ("x",)},
    "free-keys with a number": {"op": "free-keys", "keys": ("x",), "stimulus_id": 1},
    "free-keys the other way round": {"op": "free-keys", "stimulus_id": "s", "keys": ("x",)},
    "free-keys with nothing": {"op": "free-keys"},
}


def frames_of(message: Any, **options: Any) -> list[memoryview]:
    """As they come off a stream: each the size that it has on the wire."""
    return [memoryview(bytes(frame)) for frame in dumps(message, **options)]


def stock(frames: Any) -> list[Any]:
    """What ``distributed.protocol.loads`` makes of them, one entry a message."""
    messages = distributed.protocol.loads(frames)
    return list(messages) if isinstance(messages, (tuple, list)) else [messages]


def as_stock(message: Any) -> Any:
    return message.to_dict() if isinstance(message, (ComputeTask, FreeKeys)) else message


def same(a: Any, b: Any) -> bool:
    """Whether both are the same in type and value, all the way down."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(
            same(x, y) and same(a[x], b[y]) for x, y in zip(a, b, strict=True)
        )
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    if isinstance(a, np.ndarray):
        return (
            a.dtype == b.dtype and a.flags.writeable == b.flags.writeable and np.array_equal(a, b)
        )
    if isinstance(a, functools.partial):
        return same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    if isinstance(a, Task):
        return same((a.key, a.func, a.args, a.kwargs), (b.key, b.func, b.args, b.kwargs))
    return bool(a == b)
