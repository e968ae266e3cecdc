"""MessagePack to Python objects, with a check before every byte.

It gives what ``msgpack.loads`` gives with the options that Dask reads messages with: tuples for
arrays, str for strings, any hashable key in a map, and a hook for maps. The hook is asked only
for maps that have one of the names it knows.

A message's size bounds the memory that it can make the reader allocate: every array and map states
how many items follow, each item takes at least a byte, and all items still to come of all open
arrays and maps must fit into the bytes that are left.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.dict cimport PyDict_SetItem
from cpython.float cimport PyFloat_FromDouble
from cpython.long cimport (
    PyLong_FromLong,
    PyLong_FromLongLong,
    PyLong_FromUnsignedLong,
    PyLong_FromUnsignedLongLong,
)
from cpython.object cimport PyObject_Hash
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy

from fastworker.wire.bigendian cimport load16, load32, load64, load_double
from fastworker.wire.frames cimport Frames
from fastworker.wire.strings cimport SHORT, short_string

from distributed.protocol.serialize import msgpack_decode_default
from msgpack import ExtType, Timestamp

from fastworker.wire.errors import WireError

cdef extern from "Python.h":
    object PyUnicode_DecodeUTF8(const char* text, Py_ssize_t n, const char* errors)

cdef enum:
    TIMESTAMP = -1  # the extension type that MessagePack itself defines


cdef bint is_marker(const uint8_t* name, Py_ssize_t n) noexcept nogil:
    """Whether a map that has this name stands for another object."""
    if n < 7 or name[0] != b"_" or name[1] != b"_":
        return False
    return (
        (n == 7 and memcmp(name, b"__Set__", 7) == 0)
        or (n == 8 and memcmp(name, b"__Enum__", 8) == 0)
        or (n == 11 and memcmp(name, b"__Pickled__", 11) == 0)
        or (n == 14 and memcmp(name, b"__Serialized__", 14) == 0)
    )


cdef class Unpacker:
    """Reads the values of one frame.

    Where Dask's own types appear (enums, sets, and what was serialized within the frame), they
    are made from the maps that stand for them.
    """

    def __cinit__(self):
        self.message = -1

    cdef int read_frame(self, Frames frames, Py_ssize_t i) except -1:
        """To be called first: what to read from."""
        self.frames = frames
        self.frame = i
        self.start = self.pos = frames.spans[i].data
        self.end = self.start + frames.spans[i].size
        return 0

    cdef object whole(self):
        """The one value that the frame consists of."""
        cdef object found = self.value()
        if self.pos != self.end:
            raise self.error(f"{self.end - self.pos} bytes follow the message")
        return found

    cdef object error(self, str problem):
        """A WireError with the current position."""
        return WireError(
            problem,
            message=None if self.message < 0 else self.message,
            frame=self.frame,
            offset=self.pos - self.start,
        )

    cdef int need(self, Py_ssize_t n) except -1:
        """There must be `n` more bytes beside those that other items need."""
        if n > self.end - self.pos - self.owed:
            raise self.error(
                f"{n} more bytes needed and {self.end - self.pos} there"
                + (f", of which {self.owed} are other items' at least" if self.owed else "")
            )
        return 0

    cdef Py_ssize_t size(self, int width) except -1:
        """Read a size of `width` bytes."""
        cdef Py_ssize_t n
        self.need(width)
        if width == 1:
            n = self.pos[0]
        elif width == 2:
            n = load16(self.pos)
        else:
            n = load32(self.pos)
        self.pos += width
        return n

    cdef object value(self):
        """Read a value of any type."""
        cdef uint8_t kind
        cdef const uint8_t* p
        cdef uint32_t bits32
        cdef float single
        self.need(1)
        kind = self.pos[0]
        self.pos += 1
        if kind < 0x80:
            return PyLong_FromLong(kind)
        if kind < 0x90:
            return self.map(kind & 0x0F)
        if kind < 0xA0:
            return self.array(kind & 0x0F)
        if kind < 0xC0:
            return self.string(kind & 0x1F)
        if kind >= 0xE0:
            return PyLong_FromLong(<int8_t>kind)
        if kind == 0xC0:
            return None
        if kind == 0xC2:
            return False
        if kind == 0xC3:
            return True
        if kind <= 0xC6:
            if kind == 0xC1:
                self.pos -= 1
                raise self.error("0xc1 begins no value")
            return self.binary(self.size(1 << (kind - 0xC4)))
        if kind <= 0xC9:
            return self.extension(self.size(1 << (kind - 0xC7)))
        if kind <= 0xD3:
            p = self.pos
            if kind == 0xCA:
                self.need(4)
                self.pos += 4
                bits32 = load32(p)
                memcpy(&single, &bits32, 4)
                return PyFloat_FromDouble(single)
            if kind == 0xCB:
                self.need(8)
                self.pos += 8
                return PyFloat_FromDouble(load_double(p))
            if kind == 0xCC or kind == 0xD0:
                self.need(1)
                self.pos += 1
                if kind == 0xCC:
                    return PyLong_FromLong(p[0])
                return PyLong_FromLong(<int8_t>p[0])
            if kind == 0xCD or kind == 0xD1:
                self.need(2)
                self.pos += 2
                if kind == 0xCD:
                    return PyLong_FromLong(load16(p))
                return PyLong_FromLong(<int16_t>load16(p))
            if kind == 0xCE or kind == 0xD2:
                self.need(4)
                self.pos += 4
                if kind == 0xCE:
                    return PyLong_FromUnsignedLong(load32(p))
                return PyLong_FromLong(<int32_t>load32(p))
            self.need(8)
            self.pos += 8
            if kind == 0xCF:
                return PyLong_FromUnsignedLongLong(load64(p))
            return PyLong_FromLongLong(<int64_t>load64(p))
        if kind <= 0xD8:
            return self.extension(1 << (kind - 0xD4))
        if kind <= 0xDB:
            return self.string(self.size(1 << (kind - 0xD9)))
        if kind <= 0xDD:
            return self.array(self.size(2 << (kind - 0xDC)))
        return self.map(self.size(2 << (kind - 0xDE)))

    cdef object string(self, Py_ssize_t n):
        """Read a str of `n` bytes."""
        cdef const uint8_t* text = self.pos
        self.need(n)
        try:
            if self.repeated and n <= SHORT:
                found = short_string(text, n)
            else:
                found = PyUnicode_DecodeUTF8(<const char*>text, n, NULL)
        except UnicodeDecodeError as error:
            raise self.error(f"a string that is not UTF-8: {error.reason}") from error
        self.pos += n
        return found

    cdef bytes binary(self, Py_ssize_t n):
        """Read `n` bytes."""
        cdef const uint8_t* data = self.pos
        self.need(n)
        self.pos += n
        return PyBytes_FromStringAndSize(<const char*>data, n)

    cdef int enter(self, Py_ssize_t items) except -1:
        """Begin an array or map of so many items; `leave` ends it."""
        self.need(items)
        if self.depth == MAX_DEPTH:
            raise self.error(f"arrays and maps nested more than {MAX_DEPTH} deep")
        self.depth += 1
        self.owed += items
        return 0

    cdef void leave(self) noexcept:
        self.depth -= 1

    cdef tuple array(self, Py_ssize_t n):
        """Read the `n` items of an array."""
        cdef Py_ssize_t i
        cdef tuple out
        self.enter(n)
        out = PyTuple_New(n)
        for i in range(n):
            self.owed -= 1
            item = self.value()
            Py_INCREF(item)
            PyTuple_SET_ITEM(out, i, item)
        self.leave()
        return out

    cdef object map(self, Py_ssize_t n):
        """Read the `n` pairs of a map: a dict, or what it stands for."""
        self.enter(2 * n)
        return self.map_rest({}, n)

    cdef object map_rest(self, dict out, Py_ssize_t n):
        """Read the last `n` pairs of a map; `out` has the pairs before them."""
        cdef bint marked = False
        cdef Py_ssize_t length
        cdef const uint8_t* at
        for _ in range(n):
            self.owed -= 1
            self.need(1)
            at = self.pos
            length = at[0] - 0xA0
            if 0 <= length < 0x20:
                self.pos += 1
                self.need(length)
                if is_marker(self.pos, length):
                    marked = True
                key = self.name(length)
            else:
                key = self.value()
                if type(key) is str:
                    # A short name, written long
                    if key in MARKERS:
                        marked = True
                elif self.only_names and type(key) is not bytes:
                    self.pos = at
                    raise self.error(f"a name has to be str or bytes, not {type(key).__name__}")
                else:
                    self.check_hashable(key, at)
            self.owed -= 1
            item = self.value()
            PyDict_SetItem(out, key, item)
        self.leave()
        if marked:
            return self.revive(out)
        return out

    cdef object name(self, Py_ssize_t n):
        """Read a short name."""
        cdef const uint8_t* text = self.pos
        try:
            found = short_string(text, n)
        except UnicodeDecodeError as error:
            raise self.error(f"a string that is not UTF-8: {error.reason}") from error
        self.pos += n
        return found

    cdef int check_hashable(self, object key, const uint8_t* at) except -1:
        try:
            PyObject_Hash(key)
        except TypeError as error:
            self.pos = at
            raise self.error(f"a {type(key).__name__} cannot be a key of a map") from error
        return 0

    cdef object extension(self, Py_ssize_t n):
        """Read an extension value of `n` bytes: msgpack.Timestamp or msgpack.ExtType."""
        cdef const uint8_t* at = self.pos
        cdef int8_t code
        self.need(n + 1)
        code = <int8_t>at[0]
        self.pos += 1
        data = self.binary(n)
        try:
            return Timestamp.from_bytes(data) if code == TIMESTAMP else ExtType(code, data)
        except ValueError as error:
            self.pos = at
            raise self.error(f"extension type {code} of {n} bytes: {error}") from error

    cdef object revive(self, dict marked):
        """What a map stands for that has one of the names in MARKERS."""
        try:
            return msgpack_decode_default(marked)
        except Exception as error:
            raise self.error(f"a {sorted(MARKERS & marked.keys())} that cannot be made") from error

    # Headers, for callers that know what to expect

    cdef bint consume_if(self, const char* literal, Py_ssize_t n) noexcept:
        """Read the next bytes if they are `literal`; whether they were."""
        if n <= self.end - self.pos and memcmp(self.pos, literal, n) == 0:
            self.pos += n
            return True
        return False

    cdef Py_ssize_t array_header(self) except? -1:
        """Read the beginning of an array and enter it: its length. -1, and nothing read, if
        something else comes.
        """
        cdef Py_ssize_t n
        cdef uint8_t kind
        self.need(1)
        kind = self.pos[0]
        if 0x90 <= kind < 0xA0:
            self.pos += 1
            n = kind & 0x0F
        elif kind == 0xDC or kind == 0xDD:
            self.pos += 1
            n = self.size(2 << (kind - 0xDC))
        else:
            return -1
        self.enter(n)
        return n

    cdef Py_ssize_t map_header(self) except? -1:
        """The same of a map: the number of its pairs."""
        cdef Py_ssize_t n
        cdef uint8_t kind
        self.need(1)
        kind = self.pos[0]
        if 0x80 <= kind < 0x90:
            self.pos += 1
            n = kind & 0x0F
        elif kind == 0xDE or kind == 0xDF:
            self.pos += 1
            n = self.size(2 << (kind - 0xDE))
        else:
            return -1
        self.enter(2 * n)
        return n


cdef frozenset MARKERS = frozenset(("__Set__", "__Enum__", "__Pickled__", "__Serialized__"))
