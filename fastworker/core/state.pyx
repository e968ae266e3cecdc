"""The worker's state: the books on every task and every peer, limits, and the lock."""

import logging
import math
import random
from collections import defaultdict

from fastworker.core.clock cimport wall_clock
from fastworker.core.counters cimport TaskCounter
from fastworker.core.lock cimport Lock
from fastworker.core.log cimport ENSURE_TASK_EXISTS, StimulusLog, TransitionLog
from fastworker.core.ready cimport ReadyQueue
from fastworker.core.recommendations cimport Recs
from fastworker.core.states cimport FETCH, MEMORY, NONE
from fastworker.core.task cimport (
    NO_NBYTES, TaskState, clear_error, need, new_task, set_priority,
)
from fastworker.core.storage cimport MISSING, Storage

import dask

logger = logging.getLogger("distributed.worker.state_machine")

cdef double SLOW_WRITE = 0.005  # seconds; a mapping that takes longer has written to disk


cdef int expect(bint ok, object what) except -1:
    """An invariant of distributed's machine too. AssertionError, also under ``python -O``."""
    if not ok:
        raise AssertionError(what)
    return 0


class PeerQueues(dict):
    """{address: ReadyQueue}; asking for an unknown peer makes an empty queue."""

    __slots__ = ()

    def __missing__(self, address):
        queue = self[address] = ReadyQueue()
        return queue


cdef class State:
    """The books, and the helpers that keep them consistent.

    What happens to them is functions that take the state: `planning`, `transitions`, `machine`,
    `events`. Python code sees a `WorkerState`.
    """

    def __cinit__(self, *args, **kwargs):
        # What compiled code relies on exists before any __init__, a subclass's included
        self.lock = Lock()
        self.data = {}
        self.threads = {}
        self.plugins = {}
        self.actors = {}
        self.total_resources = {}
        self.available_resources = {}

        self.remote = {}
        self.tasks = {}
        self.ready = ReadyQueue()
        self.constrained = ReadyQueue()
        self.waiting = set()
        self.executing = set()
        self.long_running = set()
        self.missing_dep_flight = set()
        self.in_flight_tasks = set()

        self.has_what = defaultdict(set)
        self.data_needed = PeerQueues()
        self.in_flight_workers = {}
        self.busy_workers = set()

        maxlen = dask.config.get("distributed.admin.low-level-log-length")
        self.log = TransitionLog(maxlen)
        self.stimulus_log = StimulusLog(maxlen)
        self.log.lock = self.stimulus_log.lock = self.lock
        self.task_counter = TaskCounter()
        self.rng = random.Random(0)
        self.touched = Recs.__new__(Recs)

        self.running = True
        self.transfer_incoming_bytes_throttle_threshold = 10_000_000

    def __init__(
        self, *,
        nthreads=1,
        address=None,
        data=None,
        threads=None,
        plugins=None,
        resources=None,
        transfer_incoming_count_limit=9999,
        validate=True,
        transition_counter_max=False,
        transfer_incoming_bytes_limit=math.inf,
        transfer_message_bytes_limit=math.inf,
    ):
        self.nthreads = nthreads
        self.address_ = address or None
        # The worker passes these by reference; without a worker the state makes its own
        if data is not None:
            self.data = data
        if threads is not None:
            self.threads = threads
        if plugins is not None:
            self.plugins = plugins
        if resources is not None:
            self.total_resources = dict(resources)
            self.available_resources = dict(resources)
        self.transfer_incoming_count_limit = transfer_incoming_count_limit
        self.transfer_incoming_bytes_limit = transfer_incoming_bytes_limit
        self.transfer_message_bytes_limit = transfer_message_bytes_limit
        self.transition_counter_max = transition_counter_max
        self.validate = validate

    @property
    def address(self):
        """The worker's own address; AttributeError until it is known."""
        if self.address_ is None:
            raise AttributeError("the address of this worker is not known yet")
        return self.address_

    @address.setter
    def address(self, value):
        self.address_ = value
        self.remote.clear()

    cdef int discard_error(self, TaskState ts) except -1:
        if ts.extras is not None and ts.extras.exception is not None:
            self.lock.discard((ts.extras.exception, ts.extras.traceback))
        return 0

    @property
    def data(self):
        """{key: result}: what the worker has as ``Worker.data``."""
        return self.data_

    @data.setter
    def data(self, value):
        fast = getattr(value, "fast", None)
        with self.lock:
            former = self.data_  # dropped when the lock is free
            self.values = <Storage>fast if isinstance(fast, Storage) else None
            self.plain_data = <dict>value if type(value) is dict else None
            self.data_ = value
        del former

    cdef TaskState create_task(self, object key):
        cdef TaskState ts = new_task(key)
        ts.counts = self.task_counter.of_key(key)  # raises for what cannot be a key
        self.tasks[key] = ts
        self.touch(ts)
        return ts

    cdef int touch(self, TaskState ts) except -1:
        """Note that the task is to be counted again, and validated, at the end of this event."""
        if not ts.touched:
            ts.touched = True
            self.touched.put_new(ts)
        return 0

    cdef TaskState ensure_task_exists(self, object key, TaskState like, object stimulus_id):
        """The task with this key; one that has no priority yet gets that of `like`, or (1,).

        (1,) comes after all tasks that users did not explicitly put behind: what the scheduler
        wants replicated must not keep dependencies of running computations waiting.
        """
        cdef TaskState ts = self.tasks.get(key)
        if ts is None:
            ts = self.create_task(key)
        elif logger.isEnabledFor(logging.DEBUG):
            logger.debug("Data task %s already known (stimulus_id=%s)", ts, stimulus_id)
        if ts.prio.n == 0:
            if like is None:
                set_priority(ts, (1,))
            else:
                ts.prio = like.prio
                ts.unpacked_priority = like.unpacked_priority
        self.log.write(ENSURE_TASK_EXISTS, key, None, stimulus_id, self.now, ts.state_)
        return ts

    cdef int update_who_has(self, object who_has) except -1:
        """Replace the known holders of these keys. Unknown keys are skipped."""
        cdef TaskState ts
        cdef set old, new
        own = self.address
        for key, workers in who_has.items():
            ts = self.tasks.get(key)
            if ts is None:
                continue
            new = set(workers)
            if own in new:
                # The scheduler has not yet read this worker's release-worker-data message
                new.remove(own)
                if ts.state_ != MEMORY:
                    logger.debug(
                        "Scheduler says that %s holds %s, but it does not", own, ts
                    )
            old = need(ts.who_has_)
            if old == new:
                continue
            for worker in old - new:
                self.has_what[worker].remove(key)
                if ts.state_ == FETCH:
                    (<ReadyQueue?>self.data_needed[worker]).drop(ts)
            for worker in new - old:
                self.has_what[worker].add(key)
                if ts.state_ == FETCH:
                    (<ReadyQueue?>self.data_needed[worker]).push(ts)
            ts.who_has_ = new
        return 0

    cdef int forget_holder(self, object worker, list missing) except -1:
        """Forget a peer. Adds to `missing` the tasks that could be fetched from it alone."""
        cdef TaskState ts
        cdef ReadyQueue queue = self.data_needed.pop(worker, None)
        if queue is not None:
            for ts in queue:
                if self.validate:
                    expect(ts.state_ == FETCH and worker in need(ts.who_has_), ts)
                if len(need(ts.who_has_)) == 1 and worker in ts.who_has_:
                    missing.append(ts)
            queue.clear()
        for key in self.has_what.pop(worker, ()):
            ts = self.tasks[key]
            ts.who_has_.remove(worker)
        return 0

    cdef int purge(self, TaskState ts) except -1:
        """Drop the value and all that is noted of this task, here and in the collections."""
        cdef TaskState dep
        key = ts.key
        self.release(key)
        if self.actors:
            self.actors.pop(key, None)
        if self.threads:
            self.threads.pop(key, None)

        if ts.who_has_ is not None:
            for worker in ts.who_has_:
                self.has_what[worker].discard(key)
                (<ReadyQueue?>self.data_needed[worker]).drop(ts)
            ts.who_has_.clear()

        if ts.dependencies_ is not None:
            for dep in ts.dependencies_:
                if dep.waiters_ is not None:
                    dep.waiters_.discard(ts)
        ts.waiting_for_data_ = None
        ts.nbytes_ = NO_NBYTES
        ts.previous_ = NONE
        ts.next_ = NONE
        ts.done = False
        ts.coming_from = None
        self.discard_error(ts)
        clear_error(ts, False)

        if ts.n_slots:
            self.ready.drop(ts)
            self.constrained.drop(ts)
        # Mostly empty, all of them, and to see that is cheaper than to look a task up
        if self.executing:
            self.executing.discard(ts)
        if self.waiting:
            self.waiting.discard(ts)
        if self.missing_dep_flight:
            self.missing_dep_flight.discard(ts)
        if self.long_running:
            self.long_running.discard(ts)
        if self.in_flight_tasks:
            self.in_flight_tasks.discard(ts)
        return 0

    cdef int put_in_queues(self, TaskState ts) except -1:
        """Into the queue of every peer that holds it."""
        for worker in ts.who_has_:
            (<ReadyQueue?>self.data_needed[worker]).push(ts)
        return 0

    cdef int store(self, TaskState ts, object value) except -1:
        """Keep a task's value, of known size, in `data`. Raises what the mapping raises: it does
        not pickle, say.
        """
        cdef double start, stop
        key = ts.key
        if self.values is not None:
            if self.values.put(key, value, ts.nbytes_):
                return 0
        elif self.plain_data is not None:
            self.lock.discard(self.plain_data.get(key))
            self.plain_data[key] = value
            return 0
        start = wall_clock()
        self.data_[key] = value
        stop = wall_clock()
        if stop - start > SLOW_WRITE:
            ts.startstops.append({"action": "disk-write", "start": start, "stop": stop})
        return 0

    cdef object look(self, object key):
        """A value that is in memory, or MISSING: spilled, not here, or to be had by way of `data`
        alone.
        """
        if self.values is not None:
            return self.values.look(key)
        if self.plain_data is not None:
            return self.plain_data.get(key, MISSING)
        return MISSING

    cdef int release(self, object key) except -1:
        """Drop a value from `data`, if it is there."""
        if self.values is not None:
            value = self.values.take(key)
            if value is not MISSING:
                return self.lock.discard(value)
            if not self.values.holds(key):
                return 0
        elif self.plain_data is not None:
            value = self.plain_data.get(key, MISSING)
            if value is not MISSING:
                self.lock.discard(value)
                del self.plain_data[key]
            return 0
        elif key not in self.data_:
            return 0
        del self.data_[key]  # no pop(): that would read a spilled value back in
        return 0

    cdef bint holds(self, object key) except -1:
        cdef bint here
        if self.values is not None:
            here = self.values.holds(key)
        elif self.plain_data is not None:
            here = key in self.plain_data
        else:
            here = key in self.data_
        return here or key in self.actors

    cdef int take_resources(self, TaskState ts, int sign) except -1:
        """Take what the task needs (sign 1), or give it back (-1)."""
        if ts.resource_restrictions_:
            for resource, needed in ts.resource_restrictions_.items():
                self.available_resources[resource] -= sign * needed
        return 0

    cdef bint resources_suffice(self, TaskState ts) except -1:
        if ts.resource_restrictions_:
            for resource, needed in ts.resource_restrictions_.items():
                if self.available_resources[resource] < needed:
                    return False
        return True
