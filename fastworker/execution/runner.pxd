"""What one thread does with one plain task after the other."""

from fastworker.core.records cimport Run
from fastworker.core.worker_state cimport WorkerState
from fastworker.core.task cimport TaskState
from fastworker.execution.engine cimport Engine
from fastworker.execution.timings cimport ExecuteMetrics, Outcome, Sample


cdef class Runner:
    # Of one thread, and touched by no other
    cdef Engine engine
    cdef WorkerState state
    cdef object pool
    cdef object ident  # of the thread
    cdef dict thread_state  # distributed's thread-local variables of the task
    cdef dict pool_state  # and of the thread pool
    cdef object contexts  # Contexts: where tasks run
    cdef object base  # a contextvars.Context that tasks of no span get a copy of
    cdef object home  # Context: where results are stored
    cdef ExecuteMetrics metrics
    cdef list extras  # (label, value, unit) reported with context_meter for the task in hand
    cdef dict active_threads
    cdef object active_keys  # a subclass of set
    cdef dict threads

    # The task in hand, as of when it was taken
    cdef TaskState ts
    cdef object key, run_id, run_spec, span_id, span, prefix
    cdef object concerned  # its key from the begin of the run until the core knows how it ended
    cdef dict inputs
    cdef list absent  # keys of inputs that are not in memory
    cdef object value, nbytes  # what it returned, until that is dealt with, and its size
    cdef bint ran  # its code has been called
    # Seconds since the epoch: when it could run, was begun, was called, returned, was left
    cdef double when, began, start, stop, left
    cdef double processor  # what the processor clock of the thread said last, in seconds
    cdef double cpu  # seconds on the processor in the call
    cdef double reported, around  # seconds in `extras`: from inside the call, from before and after
    cdef Sample sample  # what has been read of the inputs

    cdef int take(self, Run run) except -1
    cdef int read_processor(self) noexcept
    cdef int read_absent(self) except -1
    cdef int measure(self, Outcome how) except -1
    cdef bint run_one(self) except -1
    cdef int compute(self) except -1
    cdef bint succeed(self) except -1
    cdef int make_room(self) except -1
    cdef int spill(self, object span_id, object prefix, object room) except -1
    cdef bint fail(self, object error) except -1
    cdef bint end(self, object event) except -1
    cdef bint settle(self, list records, list others) except -1
    cdef tuple drop(self)
    cdef int break_down(self, object error) except -1
