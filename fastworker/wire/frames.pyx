"""The frames of one message, and direct access to their bytes."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint8_t


cdef class Frames:
    """The frames of one message.

    Parameters
    ----------
    frames: iterable of bytes-like
        This object keeps them; the caller must not change them while it lives.
    """

    def __cinit__(self):
        self.objects = []

    def __init__(self, frames=()):
        for frame in frames:
            self.append(frame)

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)
        PyMem_Free(self.spans)

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t i):
        """Frame `i` as it was given."""
        if not 0 <= i < self.count:
            raise IndexError(f"there is no frame {i}: the message has {self.count}")
        return self.frame(i)

    @property
    def total_bytes(self):
        """Bytes of all frames together."""
        cdef Py_ssize_t i, total = 0
        for i in range(self.count):
            total += self.spans[i].size
        return total

    cdef int make_room(self, Py_ssize_t n) except -1:
        """Make room for `n` frames."""
        cdef void* memory
        if n <= self.room:
            return 0
        n = max(n, 2 * self.room, 4)
        memory = PyMem_Realloc(self.spans, n * sizeof(Span))
        if memory is NULL:
            raise MemoryError
        self.spans = <Span*>memory
        memory = PyMem_Realloc(self.views, n * sizeof(Py_buffer))
        if memory is NULL:
            raise MemoryError
        self.views = <Py_buffer*>memory
        self.room = n
        return 0

    cdef int append(self, object frame) except -1:
        cdef Py_buffer* view
        self.make_room(self.count + 1)
        view = &self.views[self.count]
        PyObject_GetBuffer(frame, view, PyBUF_SIMPLE)
        self.spans[self.count].data = <const uint8_t*>view.buf
        self.spans[self.count].size = view.len
        self.count += 1
        self.objects.append(frame)
        return 0

    cdef object frame(self, Py_ssize_t i):
        """Frame `i`, which there must be, as it was given."""
        return self.objects[i]

    cdef list section(self, Py_ssize_t start, Py_ssize_t n):
        """The `n` frames from `start` on, which there must be."""
        return self.objects[start:start + n]


cdef Frames frames_of(object sequence):
    """`sequence` itself if it is Frames, else the Frames of it."""
    if isinstance(sequence, Frames):
        return <Frames>sequence
    return Frames(sequence)
