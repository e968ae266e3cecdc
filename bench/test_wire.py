"""The scheduler's stream: bytes to messages, beside ``distributed.protocol.loads``.

Batches of 100, as a busy scheduler sends them. Both sides start from the frames of the message as
they come off the socket and end with the messages; on both the tasks are unpickled, by the same
``pickle.loads``, which is most of what is left. ``bare`` has tasks without a pickle in them: the
decoding alone.
"""

from __future__ import annotations

import sys
from typing import Any

from dask._task_spec import Task, TaskRef
from dask.utils_test import inc
from distributed.protocol import dumps, loads
from distributed.protocol.serialize import ToPickle
from distributed.protocol.utils import pack_frames, unpack_frames

from fastworker.comm.parser import Parser
from fastworker.core.messages import ComputeTask, FreeKeys
from fastworker.link.decode import decode
from support.wire import messages
from versus import Side, Versus

N = 100
BATCHES = 10
ADDRESSES = tuple(f"tcp://10.0.0.{i}:40331" for i in range(1, 5))


def compute_task(i: int, deps: int = 0, **fields: Any) -> dict[str, Any]:
    key = f"inc-{i * 0x9E3779B97F4A7C15 % 2**128:032x}"
    names = [f"load-{(i + j) * 0xC2B2AE3D27D4EB4F % 2**128:032x}" for j in range(deps)]
    task = Task(key, inc, *map(TaskRef, names)) if deps else Task(key, inc, i)
    mine = {
        "run_id": 1_000_000 + i,
        "who_has": dict.fromkeys(names, ADDRESSES[i % 3 : i % 3 + 2]),
        "nbytes": dict.fromkeys(names, 1000 * i),
        "run_spec": ToPickle(task),
    }
    return messages.compute_task(key, i, **{**mine, **fields})


def compare(versus: Versus, name: str, batch: list[Any], kind: type, **targets: float) -> None:
    head = pack_frames(dumps(batch))
    message = len(head).to_bytes(8, sys.byteorder) + head
    parser = Parser(1 << 20, 1 << 30)

    def read() -> list[Any]:
        parser.feed(message)
        frames = parser.next_message()
        assert frames is not None
        return decode(frames)

    assert all(type(made) is kind for made in read())

    def stock() -> None:
        for _ in range(BATCHES):
            loads(unpack_frames(head, partial=True)[0])

    def ours() -> None:
        for _ in range(BATCHES):
            read()

    versus(
        f"wire/{name}",
        stock=Side(tuple, stock),
        ours=Side(tuple, ours),
        per=len(batch) * BATCHES,
        **targets,
    )


def test_compute_task(versus: Versus) -> None:
    compare(versus, "compute-task", [*map(compute_task, range(N))], ComputeTask, at_most=3.5)


def test_bare_compute_task(versus: Versus) -> None:
    batch = [compute_task(i, run_spec=None) for i in range(N)]
    compare(versus, "compute-task/bare", batch, ComputeTask, at_most=1)


def test_compute_task_with_dependencies(versus: Versus) -> None:
    batch = [compute_task(i, deps=4) for i in range(N)]
    compare(versus, "compute-task/4 dependencies", batch, ComputeTask)


def test_free_keys(versus: Versus) -> None:
    batch = [
        {"op": "free-keys", "keys": (compute_task(i)["key"],), "stimulus_id": f"task-finished-{i}"}
        for i in range(N)
    ]
    compare(versus, "free-keys", batch, FreeKeys)


def test_other_messages(versus: Versus) -> None:
    """What becomes a dict here too."""
    batch = [
        {
            "op": "acquire-replicas",
            "who_has": {compute_task(i)["key"]: ADDRESSES[:2]},
            "nbytes": {compute_task(i)["key"]: 1_000},
            "stimulus_id": f"active-memory-manager-{i}",
        }
        for i in range(N)
    ]
    compare(versus, "other", batch, dict)
