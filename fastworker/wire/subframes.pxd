"""Objects that come in frames of their own, beside the message that they belong to."""

from fastworker.wire.frames cimport Frames
from fastworker.wire.unpack cimport Unpacker


cdef class PickledHeader(Unpacker):
    cdef object pickled  # bytes or memoryview
    cdef object compression  # tuple of a name or None for each frame; None if there is none at all
    cdef object count  # of frames that follow

    cdef int read(self) except -1
    cdef int field(self, object name) except -1
    cdef object pickle_bytes(self)


cdef list body_of(Unpacker header, object count, object compression)
cdef object unpickle(object pickled, list buffers)
cdef object deserialized(Frames frames, Py_ssize_t at, Py_ssize_t message)
