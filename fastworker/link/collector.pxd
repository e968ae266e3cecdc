"""Messages from any thread, in order, and whose turn it is to send them.

Threads and locks
-----------------
`lock` guards what is named below it; all of that is written with both it and the GIL held, so that
a single field may be read with either. It is held for a few instructions of C at a time, which
neither let go of the GIL nor call Python code nor free an object of the user's. So it may be taken
by whoever holds the core's lock, and by a finalizer in the middle of anything.

Whoever sets `claimed` is the one sender until it is cleared: a thread, or the event loop (on whose
behalf tornado may go on writing in between). Packing users' objects and writing happen under the
claim and outside the lock. Who finds the outbox claimed sets `wanted` and goes its way: the sender
looks again before it is done. So nobody ever waits for a writer, and no two write at a time.
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
    cdef OutgoingBatch spare  # an empty one; None while claimed
    cdef bint claimed
    cdef bint wanted  # somebody asked for more to be sent while it was claimed
    cdef bint soon  # the event loop has been asked to flush in its next round
    cdef bint armed  # the event loop has been asked to look when the interval is over
    cdef bint closing  # the next batch to be taken is the last
    cdef bint ended  # nothing is taken any more
    cdef double last_taken  # monotonic seconds: when a batch was last taken to be sent
    cdef Counts counts  # but `sent`, `from_threads` and `socket_full`: the sender's, under the GIL

    # -------------------------------------------------- any thread, also under the core's lock

    # 1: taken; 0: not a message to the scheduler. Raises only MemoryError. Runs no user code.
    cpdef int add_record(self, object record) except -1
    # Whether the batch should leave although nobody is idle; `now` is core.clock.monotonic().
    cpdef bint due(self, double now) noexcept

    # ------------------------------------------------------ any thread, outside the core's lock

    cdef int add_message(self, object message) except -1
    cdef OutgoingBatch snapshot(self)  # a copy of what waits

    # ------------------------------------------------------------------------------- the sender

    cdef OutgoingBatch claim(self)
    cdef int give_up(self, OutgoingBatch batch) except -1
    cdef Py_ssize_t shut(self) except -1

    cdef int add(self, const Bytes* packed, object kept) except -1
