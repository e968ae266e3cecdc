"""The engine of a worker whose tasks all go the way of stock, and the choice between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.threadpoolexecutor import ThreadPoolExecutor
from distributed.worker_state_machine import StateMachineEvent

from fastworker.core import WorkerState
from fastworker.data.store import Store
from fastworker.execution.engine import Engine
from fastworker.execution.instructions import carry_out
from fastworker.execution.pool import ActiveKeys, PullThreadPoolExecutor

if TYPE_CHECKING:
    pass


class StockEngine:
    """Leaves every task to distributed's ``Worker.execute``, on the event loop."""

    #: Messages go through the worker's ``stream_handlers``.
    replaced = True

    #: As of `Engine`; every run is an asyncio task, which has its end itself.
    finished: Callable[[StateMachineEvent], None] | None = None

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """As of `Engine`; there is nothing to start."""

    def look_at_methods(self) -> None:
        """As of `Engine`; all methods are called anyway."""

    def handle(self, *stims: StateMachineEvent) -> None:
        """Let the state machine handle events, and carry out what it decides."""
        worker = self.worker
        carry_out(worker, worker.state.handle_stimulus(*stims))
        worker.batched_stream.send_soon(len(worker.state.executing) < worker.state.nthreads)


def make_engine(worker: Any, overrides: bool) -> Engine | StockEngine:
    """What runs the tasks of a worker; plain ones without the event loop, in threads of its own.

    Everything goes the way of stock with a state machine, a default executor or a mapping for
    results of the user's, or if the worker's class ``overrides`` a method that the engine would not
    call. A state machine derived from ours is the user's too. What is the user's may have been
    written for the thread of the event loop, and no other.
    """
    pool = worker.executors["default"]
    if (
        type(worker.state) is not WorkerState
        or type(worker.data) not in (Store, dict)
        or type(pool) is not ThreadPoolExecutor
        or overrides
    ):
        return StockEngine(worker)
    # Nothing has been submitted yet, so that the pool it replaces has no threads
    pull_pool = PullThreadPoolExecutor(
        pool._max_workers, thread_name_prefix=pool._thread_name_prefix
    )
    worker.executors["default"] = pull_pool
    worker.active_keys = ActiveKeys()
    engine = pull_pool.engine = Engine(worker, worker.state, pull_pool)
    return engine
