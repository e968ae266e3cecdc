"""The engine of a worker whose event loop executes all tasks, and the choice between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from distributed.threadpoolexecutor import ThreadPoolExecutor
from distributed.worker_state_machine import Instruction, StateMachineEvent

from fastworker.core import WorkerState
from fastworker.data.store import Store
from fastworker.execution.engine import Engine
from fastworker.execution.instructions import carry_out
from fastworker.execution.pool import ActiveKeys, PullThreadPoolExecutor


class StockEngine:
    """Leaves every task to distributed's ``Worker.execute``, on the event loop."""

    #: Messages go through the worker's ``stream_handlers``.
    replaced = True

    #: As of `Engine`, and never called: every run is an asyncio task, to be awaited itself.
    finished: Callable[[StateMachineEvent], None] | None = None

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        #: As of `Engine`.
        self.decided: list[Instruction] = []

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """As of `Engine`; there is nothing to start."""

    def look_at_methods(self) -> None:
        """As of `Engine`; all methods are called anyway."""

    def handle(self, *stims: StateMachineEvent) -> None:
        """Let the state machine handle events, and carry out what it decides."""
        # A plugin may call the worker meanwhile, which replaces `decided`
        instructions = self.worker.state.handle_stimulus(*stims)
        self.decided += instructions
        self.follow()

    def carry_out(self, instructions: list[Instruction]) -> None:
        """Carry out instructions that the state machine, or a call by hand, has given."""
        self.decided += instructions
        self.follow()

    def follow(self) -> None:
        """As of `Engine`. A state machine that is not fastworker's has no lock."""
        worker = self.worker
        if getattr(getattr(worker.state, "lock", None), "held", False):
            return
        decided, self.decided = self.decided, []
        carry_out(worker, decided)
        worker.batched_stream.send_soon(len(worker.state.executing) < worker.state.nthreads)


def make_engine(worker: Any, overrides: bool) -> Engine | StockEngine:
    """What runs the tasks of a worker: an `Engine`, with threads of its own, where that is right.

    It is a `StockEngine` if the state machine, the default executor or the mapping of results is
    the user's, or if the worker's class ``overrides`` a method that an `Engine` would not call:
    such code may have been written for the event loop's thread alone. A subclass of fastworker's
    `WorkerState` counts as the user's.
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
