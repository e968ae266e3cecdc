"""How a batch is written to each kind of connection: between the outbox and the sockets.

The outbox has one sender at a time and tells its transport what to write. A transport knows nothing
of messages and their order.
"""

from fastworker.link.mutex cimport pthread_mutex_t


cdef class Transport:
    cdef readonly object comm
    cdef readonly bint takes_bytes  # else it takes messages
    cdef readonly bint direct  # write_now is worth a try; changes, but only while claimed

    cdef Py_ssize_t write_now(self, const unsigned char* data, size_t size) except -1
    cpdef object write_later(self, list buffers)
    cpdef object write_messages(self, list messages, object serializers)
    cpdef int detach(self) except -1


cdef class StreamTransport(Transport):
    pass


cdef class NativeTransport(Transport):
    cdef object __weakref__
    cdef object stream  # None when it is closed, or not plain TCP
    cdef pthread_mutex_t mutex  # guards `fd`: no thread uses the number after its file was closed
    cdef int fd  # -1: closed


cdef class MessageTransport(Transport):
    pass


cpdef Transport find_transport(object comm)
