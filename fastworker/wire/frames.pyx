"""The frames of one message, and direct access to their bytes.

On the wire a message is a head and the frames that did not fit into it. The head has the number
of all frames, the size of each (both uint64 in the byte order of the machine), and the bytes of
the first frames. Small frames, of which each task has two, become Python objects only when a
caller asks for one.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Free, PyMem_Realloc
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from fastworker.wire.errors import WireError

cdef enum:
    WORD = 8  # bytes of a number in the head
    LARGEST = 48  # bits of the size of a frame: what machines can address


cdef class Frames:
    """The frames of one message.

    Parameters
    ----------
    frames: iterable of bytes-like
        This object keeps them; the caller must not change them while it lives.
    """

    def __cinit__(self):
        self.objects = []
        self.missing = []

    def __init__(self, frames=()):
        for frame in frames:
            self.append(frame)

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])
        PyMem_Free(self.views)
        PyMem_Free(self.spans)

    def __len__(self):
        return self.count

    def __getitem__(self, Py_ssize_t i):
        """Frame `i` as it was given, or as a memoryview of the head."""
        if not 0 <= i < self.count:
            raise IndexError(f"there is no frame {i}: the message has {self.count}")
        return self.frame(i)

    @staticmethod
    def of_head(head):
        """The frames in the head of a message; `missing` says what has to be added to them.

        Raises WireError if the bytes are not a head.
        """
        cdef Frames self = Frames.__new__(Frames)
        cdef const uint8_t* data
        cdef uint64_t n, size
        cdef Py_ssize_t length, pos, i
        cdef Py_buffer* view
        self.make_room(1)
        view = self.hold(head)
        data = <const uint8_t*>view.buf
        length = view.len
        if length < WORD:
            raise WireError(f"the head of a message has at least {WORD} bytes, here {length}")
        memcpy(&n, data, WORD)
        if n > <uint64_t>((length - WORD) // WORD):
            raise WireError(f"a head of {length} bytes cannot have the sizes of {n} frames")
        self.make_room(<Py_ssize_t>n)
        self.head = memoryview(head).cast("B")
        self.head_data = data
        pos = WORD * (1 + <Py_ssize_t>n)
        for i in range(<Py_ssize_t>n):
            memcpy(&size, data + WORD * (1 + i), WORD)
            if size >> LARGEST:
                raise WireError(f"frame {i} cannot have {size} bytes")
            if self.missing or size > <uint64_t>(length - pos):
                self.missing.append(size)
                continue
            self.spans[self.count].data = data + pos
            self.spans[self.count].size = <Py_ssize_t>size
            self.objects.append(None)
            self.count += 1
            pos += <Py_ssize_t>size
        if pos != length:
            raise WireError(
                f"the head of a message has {length} bytes and its frames account for {pos}"
            )
        return self

    def add(self, frame not None):
        """The next frame of those that are missing; raises WireError if it has another size."""
        if not self.missing:
            raise WireError("no frame is missing", frame=self.count)
        self.append(frame)
        size = self.missing.pop(0)
        if self.spans[self.count - 1].size != size:
            raise WireError(
                f"{size} bytes announced, {self.spans[self.count - 1].size} received",
                frame=self.count - 1,
            )

    @property
    def total_bytes(self):
        """Bytes of all frames together, also of those that are missing."""
        cdef Py_ssize_t i
        cdef object total = sum(self.missing)
        for i in range(self.count):
            total += self.spans[i].size
        return total

    cdef int make_room(self, Py_ssize_t n) except -1:
        """Make room for `n` frames, each of which may come alone, and for the head."""
        cdef void* memory
        if n <= self.room:
            return 0
        n = max(n, 2 * self.room, 4)
        memory = PyMem_Realloc(self.spans, n * sizeof(Span))
        if memory is NULL:
            raise MemoryError
        self.spans = <Span*>memory
        memory = PyMem_Realloc(self.views, (n + 1) * sizeof(Py_buffer))
        if memory is NULL:
            raise MemoryError
        self.views = <Py_buffer*>memory
        self.room = n
        return 0

    cdef Py_buffer* hold(self, object given) except NULL:
        """The bytes of `given`, which stay where they are as long as this object lives."""
        cdef Py_buffer* view = &self.views[self.held]
        PyObject_GetBuffer(given, view, PyBUF_SIMPLE)
        self.held += 1
        return view

    cdef int append(self, object frame) except -1:
        cdef Py_buffer* view
        self.make_room(self.count + 1)
        view = self.hold(frame)
        self.objects.append(frame)
        self.spans[self.count].data = <const uint8_t*>view.buf
        self.spans[self.count].size = view.len
        self.count += 1
        return 0

    cdef object frame(self, Py_ssize_t i):
        """Frame `i`, which there must be, as an object: what was given, or a part of the head."""
        cdef Py_ssize_t start
        found = self.objects[i]
        if found is None:
            start = self.spans[i].data - self.head_data
            found = self.objects[i] = self.head[start:start + self.spans[i].size]
        return found

    cdef list section(self, Py_ssize_t start, Py_ssize_t n):
        """The `n` frames from `start` on, which there must be."""
        return [self.frame(i) for i in range(start, start + n)]


cdef Frames frames_of(object sequence):
    """`sequence` itself if it is Frames, else the Frames of it."""
    if isinstance(sequence, Frames):
        return <Frames>sequence
    return Frames(sequence)
