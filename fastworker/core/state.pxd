"""The worker's state: the books on every task and every peer, limits, and the lock."""

from fastworker.core.counters cimport TaskCounter
from fastworker.core.lock cimport Lock
from fastworker.core.log cimport StimulusLog, TransitionLog
from fastworker.core.ready cimport ReadyQueue
from fastworker.core.recommendations cimport Recs
from fastworker.core.task cimport TaskState
from fastworker.core.storage cimport Storage


cdef class State:
    # All of it is guarded by `lock`, taken by every stimulus. Single attributes and items may be
    # read without it, by any thread that has the GIL; a thread that iterates must hold it.
    cdef readonly Lock lock
    cdef object __weakref__
    cdef object address_
    cdef dict remote  # {address of a peer: whether it is on another host}, as far as asked for

    # Shared with the worker
    cdef object data_  # MutableMapping, may run user code
    cdef Storage values  # what it has in memory, where compiled code can reach it; or None
    cdef dict plain_data  # it itself, if it is a dict and no subclass; or None
    cdef public dict threads
    cdef public dict plugins
    cdef public dict actors

    # Tasks
    cdef public dict tasks
    cdef readonly ReadyQueue ready
    cdef readonly ReadyQueue constrained
    cdef readonly set waiting
    cdef readonly set executing
    cdef readonly set long_running
    cdef readonly set missing_dep_flight
    cdef readonly set in_flight_tasks

    # Peers
    cdef readonly object has_what  # defaultdict {address: {key}}
    cdef readonly object data_needed  # PeerQueues {address: ReadyQueue}
    cdef readonly dict in_flight_workers  # {address: {key}}
    cdef readonly set busy_workers

    # Limits
    cdef public Py_ssize_t nthreads
    cdef public bint running
    cdef public object transfer_incoming_count_limit
    cdef public object transfer_incoming_bytes_limit
    cdef public object transfer_incoming_bytes_throttle_threshold
    cdef public object transfer_message_bytes_limit
    cdef public dict total_resources
    cdef public dict available_resources

    # Counts
    cdef public long long fetch_count
    cdef public long long transfer_incoming_count_total
    cdef public long long transfer_incoming_bytes
    cdef public long long generation
    cdef public long long executed_count
    cdef public long long nbytes
    cdef public long long transition_counter
    cdef public object transition_counter_max

    # Diagnostics
    cdef public bint validate
    cdef readonly TransitionLog log
    cdef readonly StimulusLog stimulus_log
    cdef readonly TaskCounter task_counter
    cdef public object rng

    # Of the event that is being handled
    cdef double now  # seconds since the epoch
    cdef Recs touched  # tasks to be counted again when it is done; no state is recommended
    cdef list hooks  # `transition` methods of plugins, or None
    cdef Recs spare, other_spare  # empty ones that have memory; None while in use
    cdef bint overridden  # a subclass in Python has a `_transition` of its own

    cdef int discard_error(self, TaskState ts) except -1
    cdef TaskState create_task(self, object key)
    cdef int touch(self, TaskState ts) except -1
    cdef TaskState ensure_task_exists(self, object key, TaskState like, object stimulus_id)
    cdef int update_who_has(self, object who_has) except -1
    cdef int forget_holder(self, object worker, list missing) except -1
    cdef int purge(self, TaskState ts) except -1
    cdef int put_in_queues(self, TaskState ts) except -1
    cdef int store(self, TaskState ts, object value) except -1
    cdef object look(self, object key)
    cdef int release(self, object key) except -1
    cdef bint holds(self, object key) except -1
    cdef int take_resources(self, TaskState ts, int sign) except -1
    cdef bint resources_suffice(self, TaskState ts) except -1

cdef int expect(bint ok, object what) except -1
