"""Messages that wait to be sent, in order: bytes where possible, objects for the rest.

Over TCP a batch is one message of distributed's protocol (``wire/head.pxd`` has its layout). The
first frame holds the messages as one msgpack array; the messages refer to the other frames by
number.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

import msgpack

from distributed.protocol.utils import msgpack_opts
from distributed.worker_state_machine import SendMessageToScheduler

from fastworker.core.records cimport Dropped, Finished, Held
from fastworker.wire.encode cimport append, array_header, give_back, grow
from fastworker.wire.head cimport WORD, begin_head, head_size, put_word

cdef extern from "Python.h":
    int PyList_Append(object items, object item)  # below 0: error set
    void PyErr_Clear()


cdef class OutgoingBatch:
    """The messages that leave together. Not thread-safe by itself.

    While the batch is in the outbox, the outbox's lock guards it. A batch that was taken out
    belongs to the sender.
    """

    def __cinit__(self):
        self.kept = []
        if not grow(&self.packed, 4096):
            raise MemoryError("no memory for messages to the scheduler")
        self.packed.size = HEADROOM

    def __dealloc__(self):
        give_back(&self.packed)
        free(self.places)

    cdef bint add_packed(self, const Bytes* message) noexcept:
        if not append(&self.packed, message.data, message.size):
            return False
        self.count += 1
        return True

    cdef bint add_object(self, object message) noexcept:
        cdef Py_ssize_t n = PyList_GET_SIZE(self.kept)
        cdef Py_ssize_t capacity
        cdef void* places
        if n == self.places_capacity:
            capacity = 2 * n if n else 8
            places = realloc(self.places, capacity * sizeof(size_t))
            if places == NULL:
                return False
            self.places = <size_t*>places
            self.places_capacity = capacity
        if PyList_Append(self.kept, message) < 0:
            PyErr_Clear()
            return False
        self.places[n] = self.packed.size
        self.count += 1
        return True

    cdef bint copy_from(self, OutgoingBatch other, list kept) noexcept:
        """Become a copy of another batch. ``kept`` is a list of None for each of its objects."""
        cdef Py_ssize_t i, n = PyList_GET_SIZE(kept)
        cdef void* places = realloc(self.places, (n + 1) * sizeof(size_t))
        if places == NULL:
            return False
        self.places = <size_t*>places
        self.places_capacity = n + 1
        self.packed.size = 0
        if not append(&self.packed, other.packed.data, other.packed.size):
            self.packed.size = HEADROOM
            return False
        for i in range(n):
            kept[i] = other.kept[i]
            self.places[i] = other.places[i]
        self.kept = kept
        self.count = other.count
        return True

    cdef unsigned char* framed(self, size_t* size) noexcept:
        """The whole TCP message in place, for a batch without objects: lengths, then one frame."""
        cdef unsigned char head[5]
        cdef size_t n_head = array_header(head, <uint64_t>self.count)
        cdef size_t n_before = head_size(1)
        cdef unsigned char* start = self.packed.data + HEADROOM - n_head - n_before
        cdef uint64_t length = n_head + self.packed.size - HEADROOM
        put_word(begin_head(<char*>start, 1, length), length)
        memcpy(start + n_before, head, n_head)
        size[0] = n_before + length
        return start

    cdef tuple encoded(self, object packer):
        """The packed messages, objects among them, and the whole TCP message as buffers.

        Objects are packed by a `ReportPacker`, which runs user code. What can go into the first
        buffer without a copy of user data does.
        """
        cdef list parts = []
        cdef Py_ssize_t i, lost = 0
        cdef size_t at = HEADROOM
        cdef unsigned char head[5]
        for i, kept in enumerate(self.kept):
            parts.append(PyBytes_FromStringAndSize(
                <char*>self.packed.data + at, self.places[i] - at
            ))
            at = self.places[i]
            message = packer.pack_surely(as_message(kept))
            if message is None:
                lost += 1
            else:
                parts.append(message)
        parts.append(PyBytes_FromStringAndSize(<char*>self.packed.data + at, self.packed.size - at))
        n_head = array_header(head, <uint64_t>(self.count - lost))
        body = b"".join(parts)
        first = PyBytes_FromStringAndSize(<char*>head, n_head) + body
        frames = [first, *packer.frames]
        lengths = [memoryview(frame).nbytes for frame in frames]
        # The head holds what is bytes; the scheduler reads larger buffers into memory of their own
        n_together = 0
        while n_together < len(frames) and isinstance(frames[n_together], bytes):
            n_together += 1
        buffers = [b"".join([head_of(lengths, sum(lengths[:n_together])), *frames[:n_together]])]
        buffers += frames[n_together:]
        return body, buffers

    cdef list messages(self):
        """The messages as objects: for transports that take objects, and for inspection."""
        cdef list out = []
        cdef Py_ssize_t i
        cdef size_t at = HEADROOM
        for i, kept in enumerate(self.kept):
            out += unpacked(self.packed.data + at, self.places[i] - at)
            at = self.places[i]
            out.append(as_message(kept))
        out += unpacked(self.packed.data + at, self.packed.size - at)
        return out

    cdef bytes body(self):
        """The messages that are bytes."""
        return PyBytes_FromStringAndSize(
            <char*>self.packed.data + HEADROOM, self.packed.size - HEADROOM
        )

    cdef int clear(self) except -1:
        """Empty the batch. Dropping the objects may run user code."""
        cdef list kept = self.kept
        self.kept = []
        self.count = 0
        self.packed.size = HEADROOM
        if self.packed.capacity > MAX_SPARE:
            give_back(&self.packed)
            if not grow(&self.packed, 4096):
                raise MemoryError("no memory for messages to the scheduler")
            self.packed.size = HEADROOM
        if kept:
            kept.clear()
        return 0


cdef bytes head_of(list lengths, uint64_t in_head):
    """The numbers before the frames of a message."""
    cdef bytes head = PyBytes_FromStringAndSize(NULL, head_size(len(lengths)))
    cdef char* at = begin_head(PyBytes_AS_STRING(head), len(lengths), in_head)
    for length in lengths:
        put_word(at, length)
        at += WORD
    return head


cdef list unpacked(const unsigned char* data, size_t size):
    """Packed messages as objects, lists as tuples, as the scheduler sees them."""
    if not size:
        return []
    packed = PyBytes_FromStringAndSize(<char*>data, size)
    unpacker = msgpack.Unpacker(use_list=False, max_buffer_size=size, **msgpack_opts)
    unpacker.feed(packed)
    return list(unpacker)


cdef object as_message(object kept):
    """The message that a kept object stands for."""
    if isinstance(kept, (Finished, Held, Dropped)):
        kept = kept.to_instruction()
    if isinstance(kept, SendMessageToScheduler):
        return kept.to_dict()
    return kept
