"""What happened to which task: a ring of plain records, made into tuples and events when read."""

from fastworker.core.lock cimport Lock
from fastworker.core.messages cimport ComputeTask, FreeKeys, Success

cdef enum Kind:
    # What a record says, and with it the shape of the tuple that it becomes
    TRANSITION
    COMPUTE_TASK
    ENSURE_TASK_EXISTS
    RECEIVE_FROM_SCATTER
    PUT_IN_MEMORY
    MISSING_DEP
    REMOVE_REPLICA
    CANCEL_COMPUTE
    FREE_KEYS
    GATHER_DEPENDENCIES
    OPAQUE

cdef struct Record:
    void* subject  # owned: the key; keys for FREE_KEYS; the address for GATHER_DEPENDENCIES
    void* detail  # owned or NULL: recommendations; keys for GATHER_DEPENDENCIES; an OPAQUE tuple
    void* stimulus_id  # owned or NULL
    double when
    int kind
    int start
    int finish
    int final
    int recommended  # TRANSITION with one recommendation: its state; detail is the key


cdef class Log:
    # Of the core that writes to the log: guards all that a log holds
    cdef Lock lock


cdef class TransitionLog(Log):
    # References are dropped only after the record
    # that held them has been overwritten, since dropping one can run anything.
    cdef Record* ring
    cdef Py_ssize_t limit  # -1: none
    cdef Py_ssize_t capacity
    cdef Py_ssize_t start
    cdef Py_ssize_t count

    cdef int write(
        self, Kind kind, object subject, object detail, object stimulus_id, double when,
        int start=*, int finish=*, int final=*, int recommended=*,
    ) except -1
    cdef int grow(self) except -1
    cdef object read(self, Py_ssize_t i)


cdef class StimulusLog(Log):
    # A deque of events, or of tuples (class, handled, stimulus_id, *fields) for the events that
    # would keep a run_spec or a value alive, see EVENT_FIELDS.
    cdef object entries

    cdef int write_compute_task(self, ComputeTask task, double now) except -1
    cdef int write_success(self, Success message, double now) except -1
    cdef int write_free_keys(self, FreeKeys message, double now) except -1
    cdef int write_event(self, object event, double now) except -1
