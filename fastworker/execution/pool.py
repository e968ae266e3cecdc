"""The thread pool whose threads fetch their own work, and the keys of what runs."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from dask.typing import Key
from distributed.threadpoolexecutor import ThreadPoolExecutor, thread_state

from fastworker.core.records import Run
from fastworker.execution.runner import Runner

if TYPE_CHECKING:
    from fastworker.execution.engine import Engine

logger = logging.getLogger("distributed.threadpoolexecutor")


class WorkQueue(SimpleQueue[Any]):
    """What the threads of the pool wait for: plain tasks, submitted calls, or None, which has a
    thread look at the pool's state.

    ``SimpleQueue`` guards itself. `queue` and `clear` are how distributed empties a pool's queue.
    """

    @property
    def queue(self) -> WorkQueue:
        return self

    def clear(self) -> None:
        try:
            while True:
                self.get_nowait()
        except Empty:
            pass


class PullThreadPoolExecutor(ThreadPoolExecutor):
    """distributed's pool, with `secede`, `rejoin` and `submit`, for the plain tasks of an engine.

    A thread that has run a plain task goes on with the next one that the core has for it, without
    a look at the queue.
    """

    #: Whose tasks the threads run. Set before the first one is put into the queue.
    engine: Engine | None = None

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        super().__init__(max_workers, thread_name_prefix=thread_name_prefix)
        self._work_queue = WorkQueue()
        # Guards `_threads`, but for the `remove` of distributed's `secede`. A thread that submits,
        # secedes or finds more tasks than it can run itself adds threads, under another lock or
        # none. Reentrant: making a thread may run the garbage collector. A thread that starts needs
        # nothing that is held here, so this lock may be taken under any other but the core's: a
        # finalizer may want that one in a thread that starts.
        self._threads_lock = threading.RLock()

    def _adjust_thread_count(self) -> None:
        """Start a thread unless there are enough; none once the pool has been shut down.

        Raises RuntimeError if the system has no more threads.
        """
        if self._shutdown or len(self._threads) >= self._max_workers:
            return
        thread = threading.Thread(
            target=pull,
            name=f"{self._thread_name_prefix}-{os.getpid()}-{next(self._counter)}",
            args=(self,),
            daemon=True,
        )
        with self._threads_lock:
            if self._shutdown or len(self._threads) >= self._max_workers:
                return
            self._threads.add(thread)
            try:
                thread.start()
            except BaseException:
                self._threads.discard(thread)
                raise

    def shutdown(
        self, wait: bool = True, timeout: float | None = None, *, cancel_futures: bool = False
    ) -> None:
        """Accept nothing more; the threads end when they have done what is in the queue.

        Parameters
        ----------
        wait, timeout
            Whether to wait for the threads of the pool, and for how many seconds in all. Threads
            that have seceded are not waited for.
        cancel_futures
            Do not begin what is in the queue.
        """
        with self._shutdown_lock, self._threads_lock:
            self._shutdown = True
            threads = list(self._threads)
        if cancel_futures:
            while not self._work_queue.empty():
                with suppress(Empty):
                    item = self._work_queue.get_nowait()
                    if item is not None and type(item) is not Run:
                        item.future.cancel()
        self._work_queue.put(None)
        deadline = None if timeout is None else monotonic() + timeout
        for thread in threads if wait else ():
            thread.join(None if deadline is None else max(0.0, deadline - monotonic()))


class ActiveKeys(set[Key]):
    """The keys of the tasks that run, which any thread may add to or take from at any time.

    Iteration goes over a copy, made in one operation.
    """

    def __iter__(self) -> Iterator[Key]:
        return iter(list(super().copy()))


def pull(pool: PullThreadPoolExecutor) -> None:
    """What a thread of the pool does. Profiles and call stacks begin above this frame."""
    thread_state.proceed = True
    thread_state.executor = pool
    queue = pool._work_queue
    runner: Runner | None = None
    try:
        while thread_state.proceed and not _make_room(pool):
            item = queue.get()
            if item is None:
                if pool._shutdown:
                    queue.put(None)
                    break
            elif type(item) is Run:
                if runner is None:
                    assert pool.engine is not None
                    runner = Runner(pool.engine)
                begun = runner.begin(item)
                item = None  # `run` goes on with other tasks, and must not keep this one alive
                if begun:
                    runner.run()
            else:
                item.run()
            item = None
    except BaseException:
        logger.critical("Exception in worker", exc_info=True)
        raise
    finally:
        if runner is not None:
            runner.close()
        del thread_state.proceed
        del thread_state.executor


def _make_room(pool: PullThreadPoolExecutor) -> bool:
    """Leave the pool in favour of a thread that had seceded and wants to be back in."""
    if not pool._rejoin_list:
        return False
    with pool._rejoin_lock:
        if not pool._rejoin_list:
            return False
        thread, event = pool._rejoin_list.pop()
        with pool._threads_lock:
            pool._threads.add(thread)
            pool._threads.remove(threading.current_thread())
        event.set()
    return True
