"""What reaches the core, where its answers go, and which thread runs a task."""

from fastworker.link.outbox cimport Outbox
from fastworker.core.records cimport Run
from fastworker.core.worker_state cimport WorkerState
from fastworker.core.task cimport TaskState
from fastworker.data.lru cimport ResultLRU


cdef class Engine:
    # Set before the first task and not changed afterwards
    cdef object __weakref__
    cdef readonly object worker
    cdef readonly WorkerState state
    cdef Outbox outbox
    cdef object pool  # the PullThreadPoolExecutor whose threads run plain tasks
    cdef object put  # its queue's `put`
    cdef dict worker_vars, executors
    cdef object execution_state
    cdef ResultLRU memory  # of the worker's data; None if that is not a Store

    cdef readonly object loop  # asyncio's
    cdef readonly object context  # contextvars.Context that every plain task gets a copy of

    # Of the event loop's thread: the key of the message that `take_on` failed with, if it has one
    cdef readonly tuple broken_by
    # The same thread's: what the core has decided since `follow` last carried it out
    cdef list decided

    # Written by the event loop's thread. Other threads read them without a lock: a change that they
    # miss holds from their next task on
    cdef readonly bint replaced  # a method of `NOT_CALLED` is the user's
    cdef bint sends  # `batched_send` is the worker's own

    # Guarded by state.lock
    # None, or called with each event that has ended a run in a pull thread, in that thread and
    # with the lock held: must not wait
    cdef public object finished
    # How many tasks were put into the queue since `add_threads` last started threads for them.
    # Added to under the lock; read and set back under the GIL, without a switch in between
    cdef Py_ssize_t n_put

    cdef bint running(self) except -1
    cdef bint is_plain(self, TaskState ts) except -1
    cdef Run route(self, list records, bint take, list others)
    cdef int add_threads(self) except -1
    cdef int call_loop(self, object callback, object arg) except -1
    cdef bint is_late(self, tuple stims) except -1
    cdef int leave_to_loop(self, object event) except -1
    cdef int end_loop(self, object key, object error) except -1
    cdef int after(self, list others, bint idle) except -1
    cpdef int follow(self) except -1
    cpdef take_on(self, list messages)
