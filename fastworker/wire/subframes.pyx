"""Objects that arrive in frames of their own, beside the message that refers to them.

The message has the number of a frame. That frame is a header in MessagePack; it says how many
frames follow it and how each is compressed. A pickle is in the header itself and the frames are
its out-of-band buffers; anything else that was serialized is in the frames.
"""

from libc.stdint cimport uint8_t

from fastworker.wire.unpack cimport Unpacker

import logging

from distributed.protocol.compression import decompress
from distributed.protocol.serialize import merge_and_deserialize

from fastworker.wire.claims import check_claims
from fastworker.wire.pickles import loads

cdef enum:
    COPIED = 4096  # bytes of a pickle up to which a copy is cheaper than a view
    LOGGED = 10_000  # bytes of a pickle that are logged if it cannot be loaded

# The logger that distributed uses for the same error
logger = logging.getLogger("distributed.protocol.pickle")


cdef class PickledHeader(Unpacker):
    """The header of a pickle."""

    def __cinit__(self):
        self.only_names = True

    cdef object revive(self, dict marked):
        return marked

    cdef int read(self) except -1:
        """Read it all; raises WireError if anything is missing or of the wrong type."""
        cdef Py_ssize_t n = self.map_header()
        if n < 0:
            raise self.error("the header of a pickle has to be a map")
        for _ in range(n):
            self.owed -= 2
            if self.consume_if(b"\xabpickled-obj", 12):
                self.field("pickled-obj")
            elif self.consume_if(b"\xabcompression", 12):
                self.field("compression")
            elif self.consume_if(b"\xaenum-sub-frames", 15):
                self.field("num-sub-frames")
            else:
                name = self.value()
                if type(name) is not str and type(name) is not bytes:
                    raise self.error(f"a name has to be str or bytes, not {type(name).__name__}")
                self.field(name)
        self.leave()
        if self.pos != self.end:
            raise self.error(f"{self.end - self.pos} bytes follow the header of a pickle")
        if self.pickled is None:
            raise self.error("the header of a pickle has no 'pickled-obj'")
        return 0

    cdef int field(self, object name) except -1:
        """Read the value of one field; unknown fields are ignored."""
        if name == "pickled-obj":
            self.pickled = self.pickle_bytes()
            return 0
        value = self.value()
        if name == "compression":
            if type(value) is not tuple:
                raise self.error(f"'compression' has to be an array, not {value!r}")
            self.compression = value
        elif name == "num-sub-frames":
            self.count = value
        return 0

    cdef object pickle_bytes(self):
        """The bytes of the pickle, a view of the frame where they are many."""
        cdef uint8_t kind
        cdef Py_ssize_t n, start
        self.need(1)
        kind = self.pos[0]
        if not 0xC4 <= kind <= 0xC6:
            raise self.error("'pickled-obj' has to be bytes")
        self.pos += 1
        n = self.size(1 << (kind - 0xC4))
        self.need(n)
        start = self.pos - self.start
        self.pos += n
        if n > COPIED:
            return memoryview(self.frames.frame(self.frame)).cast("B")[start:start + n]
        return self.start[start:start + n]


cdef list body_of(Unpacker header, object count, object compression):
    """The `count` frames after that of `header`, without their compression.

    `compression` is a tuple of names, or None if the header does not speak of it. Raises WireError
    if the frames are not there or not compressed as the header says.
    """
    cdef Py_ssize_t following = header.frames.count - header.frame - 1
    cdef list body
    if type(count) is not int:
        raise header.error(f"'num-sub-frames' has to be a number, not {count!r}")
    if not 0 <= count <= following:
        raise header.error(f"'num-sub-frames' is {count}, and {following} frames follow")
    if count == 0:
        return []
    body = header.frames.section(header.frame + 1, count)
    if compression is None:
        return body
    if len(<tuple>compression) < count:
        raise header.error(f"'compression' has {len(<tuple>compression)} names for {count} frames")
    try:
        check_claims(compression, body)
        return decompress({"compression": compression}, body)
    except Exception as error:
        raise header.error(
            f"the {count} frames that follow are not compressed as {compression!r}: {error!r}"
        ) from error


cdef object unpickle(object pickled, list buffers):
    """As distributed's ``pickle.loads``, down to the log."""
    try:
        return loads(pickled, buffers=buffers) if buffers else loads(pickled)
    except Exception:
        logger.info("Failed to deserialize %s", bytes(pickled[:LOGGED]), exc_info=True)
        raise


cdef inline bint is_positive(object offset) except -1:
    """Whether a marker has the number of a frame; the first frame is the message itself."""
    return type(offset) is not int or offset > 0


cdef class MessageUnpacker(Unpacker):
    """Reads a message, or several, with what they refer to in other frames."""

    cdef object revive(self, dict marked):
        offset = marked.get("__Serialized__", 0)
        if is_positive(offset):
            return self.serialized(self.frame_number(offset))
        offset = marked.get("__Pickled__", 0)
        if is_positive(offset):
            return self.pickled(self.frame_number(offset))
        return Unpacker.revive(self, marked)

    cdef object revive_pickled(self, object offset):
        """The same for a map that has but this one name."""
        if is_positive(offset):
            return self.pickled(self.frame_number(offset))
        return {"__Pickled__": offset}

    cdef Py_ssize_t frame_number(self, object offset) except -1:
        """The number of a frame beside the first one, as a message gives it."""
        if type(offset) is not int:
            raise self.error(f"the number of a frame has to be an int, not {offset!r}")
        if not 0 < offset < self.frames.count:
            raise self.error(f"there is no frame {offset}: the message has {self.frames.count}")
        return offset

    cdef object serialized(self, Py_ssize_t at):
        """What was serialized into the frames after number `at`, which is its header.

        Raises WireError for a bad header, and what deserializing raises.
        """
        cdef Unpacker unpacker = Unpacker()
        unpacker.message = self.message
        unpacker.read_frame(self.frames, at)
        header = unpacker.whole()
        if type(header) is not dict:
            raise unpacker.error("the header of a serialized object has to be a map")
        compression = header.get("compression", ())
        if type(compression) is not tuple:
            raise unpacker.error(f"'compression' has to be an array, not {compression!r}")
        if "compression" not in header:
            compression = None
        body = body_of(unpacker, header.get("num-sub-frames"), compression)
        return merge_and_deserialize(header, body)

    cdef object pickled(self, Py_ssize_t at):
        """The object whose pickle has its header in frame `at`."""
        cdef PickledHeader header = PickledHeader.__new__(PickledHeader)
        cdef list body
        header.message = self.message
        header.read_frame(self.frames, at)
        header.read()
        body = body_of(header, header.count, header.compression)
        return self.load(header.pickled, body)

    cdef object load(self, object pickled, list buffers):
        """The object of a pickle, whose out-of-band buffers these are."""
        return unpickle(pickled, buffers)
