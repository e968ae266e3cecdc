"""How a batch is written to each kind of connection: between the outbox and the sockets.

Plain TCP
    Any thread writes straight to the socket, as much as the socket takes at once. The comm's stream
    writes the rest on the event loop; no thread writes until that is done.
TLS, and both of distributed's comms (``fastworker.comm.transport: tornado``)
    The bytes are ours; the comm's stream writes them on the event loop.
Anything else (``inproc``, ``ws``, a comm of the user's)
    The event loop calls ``comm.write`` with the messages as objects.
"""

from libc.errno cimport EAGAIN, errno

import os
import ssl
import weakref
from functools import partial

from tornado.iostream import StreamClosedError

from distributed.comm import CommClosedError
from distributed.comm.tcp import TCP, TLS
from distributed.utils import ensure_memoryview

from fastworker.comm.socket cimport send_some
from fastworker.link.mutex cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)

from fastworker.comm.stream import Disconnected
from fastworker.comm.tcp import TCP as NativeTCP, TLS as NativeTLS

cdef enum:
    MAX_WRITE = 1 << 30  # bytes that ssl and some kernels take in one call


cdef class Transport:
    """Writes to one comm, for one sender at a time; the outbox sees to that."""

    cdef Py_ssize_t write_now(self, const unsigned char* data, size_t size) except -1:
        """Write what the socket takes at once, from any thread; returns the number of bytes.

        Raises OSError when the connection is broken.
        """
        return 0

    cpdef object write_later(self, list buffers):
        """Write all of it, on the event loop; None when done, or a future to wait for.

        Raises CommClosedError.
        """
        raise NotImplementedError(f"{self!r} takes no bytes")

    cpdef object write_messages(self, list messages, object serializers):
        """An awaitable that writes messages as one batch; its result is a number of bytes."""
        raise NotImplementedError(f"{self!r} takes no messages")

    cpdef int detach(self) except -1:
        """Stop writing from threads; `write_later` still works. Call it on the event loop."""
        return 0

    def __repr__(self):
        return f"<{type(self).__name__} {self.comm!r}>"


cdef class StreamTransport(Transport):
    """Bytes through distributed's own TCP and TLS comms: tornado's stream writes them."""

    def __init__(self, comm):
        self.comm = comm
        self.takes_bytes = True

    cpdef object write_later(self, list buffers):
        stream = self.comm.stream
        if stream is None or stream.closed():
            raise CommClosedError(f"in {self.comm!r}: the stream is closed")
        future = None
        try:
            for buffer in buffers:
                view = ensure_memoryview(buffer)
                for start in range(0, view.nbytes, MAX_WRITE):
                    future = stream.write(view[start:start + MAX_WRITE])
        except (StreamClosedError, ssl.SSLError) as error:
            raise CommClosedError(f"in {self.comm!r}: {error}") from error
        if stream.closed():
            raise CommClosedError(f"in {self.comm!r}: {stream.error!r}") from stream.error
        return future if stream.writing() else None


cdef class NativeTransport(Transport):
    """Bytes through our own TCP and TLS comms.

    The number of a closed file may belong to another one the next moment. So the mutex is held
    around every write to it from a thread, and the stream has `before_close` called, on the event
    loop, before it closes the file.
    """

    def __cinit__(self):
        self.fd = -1
        if pthread_mutex_init(&self.mutex, NULL):
            raise MemoryError("no mutex for a connection")

    def __init__(self, comm):
        self.comm = comm
        self.takes_bytes = True
        stream = comm.stream
        if type(comm) is NativeTCP and not comm.closed():
            self.stream = stream
            stream.before_close = partial(before_close, weakref.ref(self))
            # Not `direct` before the stream has written what it may have from before
            self.fd = stream.socket.fileno()

    def __dealloc__(self):
        pthread_mutex_destroy(&self.mutex)

    cdef Py_ssize_t write_now(self, const unsigned char* data, size_t size) except -1:
        cdef size_t done = 0
        cdef ssize_t n = 0
        cdef int error = 0
        with nogil:
            # Taken and given back without the GIL: the event loop may wait for it with the GIL
            pthread_mutex_lock(&self.mutex)
            while self.fd >= 0 and done < size:
                n = send_some(self.fd, data + done, size - done)
                if n < 0:
                    error = errno
                    break
                done += <size_t>n
            pthread_mutex_unlock(&self.mutex)
        if error and error != EAGAIN:
            raise OSError(error, os.strerror(error))
        return <Py_ssize_t>done

    cpdef object write_later(self, list buffers):
        stream = self.comm.stream
        if stream is None:
            raise CommClosedError(f"in {self.comm!r}: the stream is closed")
        self.direct = False
        try:
            stream.send_bytes(buffers)
        except Disconnected as error:
            raise CommClosedError(f"in {self.comm!r}: {error}") from error
        future = stream.drained(0)
        if future is not None:
            future.add_done_callback(self._on_written)
            return future
        self.direct = self.fd >= 0
        return None

    def _on_written(self, future):
        if not future.cancelled() and future.exception() is None:
            self.direct = self.fd >= 0

    cpdef int detach(self) except -1:
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.fd = -1
            pthread_mutex_unlock(&self.mutex)
        self.direct = False
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.before_close = None
        return 0


def before_close(transport):
    """The stream is about to close its file. By weak reference, so that an abandoned comm goes at
    once."""
    mine = transport()
    if mine is not None:
        (<NativeTransport?>mine).detach()


cdef class MessageTransport(Transport):
    """Messages through the ``write`` of any comm."""

    def __init__(self, comm):
        self.comm = comm

    cpdef object write_messages(self, list messages, object serializers):
        return self.comm.write(messages, serializers=serializers, on_error="raise")


cpdef Transport find_transport(object comm):
    """The transport for a comm. To be called on the event loop.

    Only distributed's own TCP and TLS comms, and ours, are given bytes: a subclass may do
    anything in ``write``.
    """
    if type(comm) is NativeTCP or type(comm) is NativeTLS:
        return NativeTransport(comm)
    if type(comm) is TCP or type(comm) is TLS:
        return StreamTransport(comm)
    return MessageTransport(comm)
