"""Collects messages from any thread, in order, and decides which thread sends them.

Threads and locks
-----------------
`lock` guards what is named below it; all of that is written with both it and the GIL held, so that
a single field may be read with either. It is held for a few instructions of C at a time, which
neither release the GIL nor call Python code nor free a user's object. So a thread that holds the
core's lock may take it, and so may a finalizer, wherever it runs.

The thread that sets `claimed` is the only sender until it clears `claimed`. The event loop can be
the sender too; tornado may then go on writing for it between two callbacks. The sender packs users'
objects and writes without the lock. A thread that finds the outbox claimed sets `wanted` and goes
on; the sender checks `wanted` before it gives up the claim. So no thread ever waits for a writer,
and no two threads write at a time.
"""

from fastworker.link.batch cimport OutgoingBatch
from fastworker.link.counts cimport Counts
from fastworker.link.mutex cimport pthread_mutex_t
from fastworker.wire.encode cimport Bytes


cdef class Collector:
    cdef bint native  # messages are packed as they come; set on the event loop
    cdef double interval_  # seconds; set on the event loop

    cdef pthread_mutex_t lock
    cdef OutgoingBatch waiting
    cdef OutgoingBatch spare  # an empty batch; None while claimed
    cdef bint claimed
    cdef bint wanted  # a thread asked for another batch to be sent while it was claimed
    cdef bint soon  # the event loop has been asked to flush in its next round
    cdef bint armed  # the event loop has been asked to look when the interval is over
    cdef bint closing  # the next batch to be taken is the last
    cdef bint ended  # messages are dropped from now on
    cdef double last_taken  # monotonic seconds: when a batch was last taken to be sent
    cdef Counts counts  # except `sent`, `from_threads`, `socket_full`: the sender's, under the GIL

    # -------------------------------------------------- any thread, also under the core's lock

    # 1: taken; 0: not a message to the scheduler. Raises only MemoryError. Runs no user code.
    cpdef int add_record(self, object record) except -1
    # Whether the batch should leave although no thread is idle; `now` is core.clock.monotonic().
    cpdef bint due(self, double now) noexcept

    # ------------------------------------------------------ any thread, outside the core's lock

    cdef int add_message(self, object message) except -1
    cdef OutgoingBatch snapshot(self)  # a copy of what waits

    # ------------------------------------------------------------------------------- the sender

    cdef OutgoingBatch claim(self)
    cdef int give_up(self, OutgoingBatch batch) except -1
    cdef Py_ssize_t shut(self) except -1

    cdef int add(self, const Bytes* packed, object kept) except -1
