"""Messages that wait to be sent, in order: bytes where possible, objects for the rest."""

from fastworker.wire.encode cimport Bytes


cdef enum:
    HEADROOM = 32  # bytes in front of the messages: lengths, and the head of the array
    MAX_SPARE = 1 << 20  # bytes of memory that an empty batch keeps


cdef class OutgoingBatch:
    cdef Bytes packed  # HEADROOM, then one msgpack value for each message that is bytes
    cdef Py_ssize_t count  # messages, bytes and objects
    cdef list kept  # the objects: messages, and records of the core
    cdef size_t* places  # for each object, the size of `packed` when it came
    cdef Py_ssize_t places_capacity

    # For the thread that holds the outbox's lock. No Python code runs; False: out of memory.
    cdef bint add_packed(self, const Bytes* message) noexcept
    cdef bint add_object(self, object message) noexcept
    cdef bint copy_from(self, OutgoingBatch other, list kept) noexcept

    # For the sender: the thread that has taken the batch out of the outbox.
    cdef unsigned char* framed(self, size_t* size) noexcept  # only without objects
    cdef tuple encoded(self, object packer)
    cdef list messages(self)
    cdef bytes body(self)
    cdef int clear(self) except -1


cdef list unpacked(const unsigned char* data, size_t size)
cdef object as_message(object kept)
