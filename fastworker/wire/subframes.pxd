"""Objects that arrive in frames of their own, beside the message that refers to them."""

from fastworker.wire.unpack cimport Unpacker


cdef class PickledHeader(Unpacker):
    cdef object pickled  # bytes or memoryview
    cdef object compression  # tuple of a name or None for each frame; None if there is none at all
    cdef object count  # of frames that follow

    cdef int read(self) except -1
    cdef int field(self, object name) except -1
    cdef object pickle_bytes(self)


cdef class MessageUnpacker(Unpacker):
    cdef object serialized(self, Py_ssize_t at)
    cdef object pickled(self, Py_ssize_t at)
    cdef object load(self, object pickled, list buffers)
    cdef object revive_pickled(self, object offset)
    cdef Py_ssize_t frame_number(self, object offset) except -1


cdef list body_of(Unpacker header, object count, object compression)
cdef object unpickle(object pickled, list buffers)
