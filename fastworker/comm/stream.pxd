"""One connection: messages in and out of a socket, with or without TLS."""

from libc.stdint cimport uint64_t

from fastworker.comm.arena cimport Block
from fastworker.comm.outgoing cimport Outgoing
from fastworker.comm.parser cimport Parser


cdef struct Patience:  # with the other end, in one turn
    Py_ssize_t seen  # bytes received, or sent, before the last wait
    int times


cdef class Stream:
    # Belongs to the thread of the event loop. Other threads may call `abort`, and only that: it
    # sets `is_closed`, which is read under the GIL, and leaves the rest to the loop.
    cdef readonly object loop
    cdef readonly object socket
    cdef readonly str peer  # address, for the log
    cdef int fd
    cdef object tls_read, tls_write, tls_pending  # methods of the socket, if it is one of TLS
    cdef public object before_close  # called just before the file is closed
    cdef unsigned long thread
    cdef bint is_closed  # nothing can be read or written any more
    cdef bint is_disposed  # the socket is closed too
    cdef readonly object error  # what closed it; None: the peer did, or `close` or `abort`

    cdef Parser parser
    cdef object reader  # the future that waits for a message, or None
    cdef bint reading  # whether the loop says when there is something to read
    cdef bint read_wants_write  # TLS only

    cdef double stall_timeout  # seconds; 0: wait for ever
    cdef object stall_timer  # while a message is incomplete
    cdef uint64_t stall_received  # bytes received at the last check ...
    cdef double stall_since  # ... by the clock of the loop

    cdef Outgoing outgoing
    cdef bint writing  # whether the loop says when there is room to write
    cdef bint write_wants_read  # TLS only
    cdef list drains  # (bytes, future): wake up when no more than these are left to send

    cdef int receive(self) except -1
    cdef int receive_plain(self, Block scratch) except -1
    cdef bint soon(
        self, short what, Py_ssize_t left, Py_ssize_t total, Patience* patience
    ) except -1
    cdef int receive_tls(self, Block scratch) except -1
    cdef bint full(self) noexcept
    cdef int arrived(self) except -1
    cdef int watch_for_stall(self) except -1
    cdef int set_reading(self, bint reading) except -1
    cdef int set_writing(self, bint writing) except -1
    cdef Py_ssize_t send_plain(self, const char* data, Py_ssize_t n) except -1
    cdef Py_ssize_t send_tls(self, const char* data, Py_ssize_t n) except -1
    cdef int flush(self) except -1
    cdef int wake_writers(self) except -1
    cdef int fail(self, object error) except -1
    cdef int dispose(self) except -1
