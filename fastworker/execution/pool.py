"""The thread pool whose threads fetch their own work."""

from __future__ import annotations

import logging
import os
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from distributed.threadpoolexecutor import ThreadPoolExecutor, thread_state

from fastworker.core.records import Run
from fastworker.execution.run import Runner

if TYPE_CHECKING:
    from fastworker.execution.engine import Engine

logger = logging.getLogger("distributed.threadpoolexecutor")


class WorkQueue(SimpleQueue[Any]):
    """What the threads of the pool wait for: plain tasks, submitted calls, or None to look around.

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
        # So that two that find a thread missing do not both add one. The engine comes here with the
        # core's lock, `submit` and `secede` with locks of their own. Reentrant, since an object
        # that is let go on the way may submit something.
        self._adjust_lock = threading.RLock()

    def _adjust_thread_count(self) -> None:
        with self._adjust_lock:
            if len(self._threads) < self._max_workers:
                thread = threading.Thread(
                    target=pull,
                    name=f"{self._thread_name_prefix}-{os.getpid()}-{next(self._counter)}",
                    args=(self,),
                    daemon=True,
                )
                self._threads.add(thread)
                thread.start()


def pull(pool: PullThreadPoolExecutor) -> None:
    """What a thread of the pool does. Below its frame, a thread's stack is of no interest."""
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
                runner.run(item)
            else:
                item.run()
            del item
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
        pool._threads.add(thread)
        pool._threads.remove(threading.current_thread())
        event.set()
    return True
