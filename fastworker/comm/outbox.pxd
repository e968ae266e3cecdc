"""The worker's messages to the scheduler: collected by any thread, sent by one at a time.

Threads and locks
-----------------
`lock` guards the fields below it. It is held for a few instructions of C at a time, which neither
let go of the GIL nor call Python code nor free an object; so it may be taken with the GIL held, by
whoever holds the core's lock, and by a finalizer in the middle of anything.

Whoever sets `claimed` is the one sender until it is cleared: a thread, or the event loop (on whose
behalf tornado may go on writing in between). Packing users' objects and writing happen under the
claim and outside the lock. Who finds the outbox claimed sets `wanted` and goes its way: the sender
looks again before it is done. So nobody ever waits for a writer, and no two write at a time.

The rest belongs to the event loop's thread.
"""

from fastworker.comm.batch cimport Batch
from fastworker.comm.counts cimport Counts
from fastworker.comm.mutex cimport pthread_mutex_t
from fastworker.comm.transport cimport Transport
from fastworker.wire.encode cimport Bytes


cdef class Outbox:
    cdef object __weakref__

    cdef pthread_mutex_t lock
    cdef Batch waiting
    cdef Batch spare  # an empty one; None while the claim is taken
    cdef bint claimed
    cdef bint wanted  # somebody asked for more to be sent while it was claimed
    cdef bint soon  # the event loop has been asked to flush in its next round
    cdef bint armed  # the event loop has been asked to look when the interval is over
    cdef bint ended  # nothing is taken any more
    cdef double last_taken  # monotonic seconds: when a batch was last taken to be sent
    cdef Counts counts  # `sent`, `from_threads` and `socket_full` are the sender's

    # Set on the event loop, read by any thread
    cdef Transport transport  # None before `start`
    cdef bint native  # messages are packed as they come
    cdef unsigned long loop_thread
    cdef readonly bint please_stop
    cdef double interval_  # seconds

    cdef readonly object loop  # tornado's
    cdef object aio  # asyncio's
    cdef readonly object serializers
    cdef list waiters  # futures of those who wait for everything to be sent
    cdef object writing  # the task of a comm.write
    cdef set closings  # tasks of `close`
    cdef object log  # of packed batches, by the sender
    cdef Py_ssize_t log_bytes

    # -------------------------------------------------- any thread, also under the core's lock

    # 1: taken; 0: not a message to the scheduler. Raises only MemoryError. Runs no user code.
    cpdef int add_record(self, object record) except -1
    # Whether the batch should leave although nobody is idle; `now` is core.clock.monotonic().
    cpdef bint due(self, double now) noexcept

    # ------------------------------------------------------ any thread, outside the core's lock

    cdef int add_message(self, object message) except -1
    # After records were added: send if the caller is idle or the batch due, else see to a timer.
    cpdef int settle(self, bint idle) except -1
    cpdef int push(self) except -1

    # ------------------------------------------------------------------- the event loop's thread

    cpdef int flush(self) except -1
    cpdef int flush_soon(self) except -1

    # -------------------------------------------------------------------------------- in between

    cdef int add(self, const Bytes* packed, object kept) except -1
    cdef bint on_loop(self) noexcept
    cdef int arm(self) except -1
    cdef int wake(self) except -1
    cdef int call_loop(self, object callback, tuple args) except -1
    cdef int send_all(self) except -1
    cdef Batch claim(self)
    cdef int release(self, Batch batch) except -1
    cdef int dispatch(self, Batch batch) except -1
    cdef int send_packed(self, Transport transport, Batch batch) except -1
    cdef int send_buffers(self, Transport transport, Batch batch, list buffers) except -1
    cdef int leave_to_loop(self, Transport transport, Batch batch, list buffers) except -1
    cdef int keep_in_log(self, object packed) except -1
    cdef int forget_oldest(self) except -1
    cdef int fail(self, object error) except -1
    cdef int end(self) except -1
    cdef Batch snapshot(self)
