"""The worker's messages to the scheduler: which thread sends them, when, and through what.

`Collector` defines which thread may do what. Everything here belongs to the event loop's thread
unless a comment says otherwise.
"""

from fastworker.link.batch cimport OutgoingBatch
from fastworker.link.collector cimport Collector
from fastworker.link.transport cimport Transport


cdef class Outbox(Collector):
    cdef object __weakref__

    # Set on the event loop, read by any thread
    cdef Transport transport  # None before `start`
    cdef unsigned long loop_thread  # 0 before `start`
    cdef readonly bint please_stop

    cdef readonly object loop  # tornado's
    cdef object aio  # asyncio's
    cdef readonly object serializers
    cdef object timer  # the handle of `_on_timer`
    cdef list waiters  # futures, done when everything was sent
    cdef set closings  # tasks of `close`
    cdef object writing  # the task of a comm.write
    cdef object log  # packed batches; the sender's, under the GIL
    cdef Py_ssize_t log_bytes  # the same
    cdef object departing  # what the log is to get of the batch that is being sent; the sender's
    cdef size_t departing_size  # and its bytes on the wire

    # ------------------------------------------------------ any thread, outside the core's lock

    # After records were added: send if the caller is idle or the batch due, else set a timer.
    cpdef int send_soon(self, bint idle) except -1
    cpdef int push(self) except -1

    # ------------------------------------------------------------------- the event loop's thread

    cpdef int flush(self) except -1
    cpdef int flush_soon(self) except -1

    # ------------------------------------------------------------------------------- any thread

    cdef bint on_loop(self) noexcept
    cdef int arm(self) except -1
    cdef int wake(self) except -1
    cdef int call_loop(self, object callback, tuple args) except -1
    cdef int send_all(self) except -1
    cdef int fail(self, object error) except -1
    cdef int end(self) except -1

    # ------------------------------------------------------------------------------- the sender

    cdef int dispatch(self, OutgoingBatch batch) except -1
    cdef int send_packed(self, Transport transport, OutgoingBatch batch) except -1
    cdef int send_buffers(self, Transport transport, OutgoingBatch batch, list buffers) except -1
    cdef int leave_to_loop(self, Transport transport, OutgoingBatch batch, list buffers) except -1
    cdef int release(self, OutgoingBatch batch) except -1
    cdef int keep_in_log(self, object packed, size_t size) except -1
    cdef int make_room_in_log(self) except -1
    cdef int forget_oldest(self) except -1
