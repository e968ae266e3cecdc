"""Results to frames and back, for the most common types.

A result has a header in a frame of its own, which says how to restore it from the frames that
follow. distributed makes each header anew, with a dozen look-ups. But all arrays of one dtype,
shape and layout have the same header, and so have all pickles and all bytes: here distributed makes
such a header once, and it is read once.

This covers results of one frame that is neither compressed nor split. Other results are left to
distributed, and so are types that a user has registered functions for.
"""

from cpython.buffer cimport (
    PyBUF_ANY_CONTIGUOUS, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from fastworker.wire.frames cimport Frames
from fastworker.wire.subframes cimport unpickle
from fastworker.wire.unpack cimport Unpacker

import pickle
import sys

from dask.utils import typename
from distributed.protocol.serialize import (
    Serialize,
    dask_deserialize,
    dask_serialize,
    families,
    serialize_and_split,
)

from fastworker.wire.encode_objects import pack_header

cdef extern from "Python.h":
    Py_ssize_t PyUnicode_GET_LENGTH(object text)

cdef enum:
    # Kinds of recipes: how to restore a result
    UNKNOWN
    ARRAY
    PICKLE
    BYTES

cdef enum:
    # What is looked at to see that there are but builtins in a value: so many of them, of so many
    # bytes, so deep in each other
    CONTENTS = 1000
    CONTENTS_NBYTES = 64 << 10
    DEPTH = 16
    # Headers that are remembered, and how long one of them may be
    REMEMBERED = 1024
    LONGEST = 1024

# Frames from this size on are compressed where there is compression
cdef Py_ssize_t COMPRESSED_FROM = 10_000

# What distributed says of an array that is sent from where it is, and nothing beyond that
cdef frozenset ARRAY_FIELDS = frozenset(("dtype", "shape", "strides", "writeable"))

# Caches, guarded by the GIL: each look and each addition is one operation of a dict with keys that
# are not the user's. Two threads may make the same entry twice, which does no harm.
# (dtype, shape, strides, read-only) of arrays -> header; None if distributed packs them
cdef dict array_headers = {}
# Header -> recipe
cdef dict recipes = {}
# By type: the header of all values of it
cdef dict headers = {}


cdef int remember(dict cache, object key, object value) except -1:
    if len(cache) >= REMEMBERED:
        cache.clear()
    cache[key] = value
    return 0


cdef bint taken_by_distributed(object registry, type kind, str module) except -1:
    """Whether what is registered for a type is distributed's own.

    ``module`` is where distributed's function is; None if it registers nothing for the type.
    """
    try:
        function = registry.dispatch(kind)
    except TypeError:
        return module is None
    return module is not None and function.__module__ == module


cdef class ValuePacker:
    """Adds results to the frames of a message.

    Parameters
    ----------
    frames
        The list to add to.
    protocol
        Of pickles, None for the newest.
    compressing
        Whether the connection compresses what is large enough.
    shard
        Bytes at which distributed splits a frame.
    """

    def __cinit__(self, list frames, object protocol, bint compressing, Py_ssize_t shard):
        self.frames = frames
        self.protocol = protocol
        self.largest = min(shard, COMPRESSED_FROM - 1) if compressing else shard
        self.known = {}
        self.array_type = getattr(sys.modules.get("numpy"), "ndarray", None)

    cdef bint knows(self, type kind, str module) except -1:
        """`taken_by_distributed`, asked once a message."""
        found = self.known.get(kind)
        if found is None:
            found = self.known[kind] = taken_by_distributed(dask_serialize, kind, module)
        return found

    cdef int put(self, object value) except -1:
        if type(value) is self.array_type:
            return self.put_array(value)
        if type(value) is bytes:
            return self.put_bytes(<bytes>value)
        return self.put_pickle(value)

    cdef int put_array(self, object array) except -1:
        cdef Py_buffer view
        if not self.knows(self.array_type, "distributed.protocol.numpy"):
            return 0
        try:
            PyObject_GetBuffer(array, &view, PyBUF_ANY_CONTIGUOUS)
        except (BufferError, ValueError):
            return 0
        try:
            if view.len > self.largest:
                return 0
            key = (array.dtype, array.shape, array.strides, view.readonly)
            try:
                header = array_headers[key]
            except KeyError:
                header = header_of_array(array, &view)
                remember(array_headers, key, header)
        finally:
            PyBuffer_Release(&view)
        if header is None:
            return 0
        self.frames.append(header)
        self.frames.append(array)
        return 1

    cdef int put_bytes(self, bytes value) except -1:
        if PyBytes_GET_SIZE(value) > self.largest:
            return 0
        if not self.knows(bytes, "distributed.protocol.serialize"):
            return 0
        self.frames.append(header_of(b""))
        self.frames.append(value)
        return 1

    cdef int put_pickle(self, object value) except -1:
        cdef Py_ssize_t left = CONTENTS, nbytes
        cdef bytes pickled
        # The header is made with an int
        if not self.only_builtins(value, &left, DEPTH) or not self.only_pickled(int):
            return 0
        pickled = pickle.dumps(value, self.protocol)
        nbytes = PyBytes_GET_SIZE(pickled)
        if nbytes > self.largest:
            return 0
        self.frames.append(header_of(0))
        self.frames.append(pickled)
        return 1

    cdef bint only_pickled(self, type kind) except -1:
        """Whether nothing is registered for a type, so that distributed pickles it."""
        return self.knows(kind, None)

    cdef bint only_builtins(self, object value, Py_ssize_t* left, int depth) except -1:
        """Whether a value, and all that it contains, is of few and small builtins."""
        cdef type kind = type(value)
        left[0] -= 1
        if left[0] < 0:
            return False
        if kind is int or kind is float or kind is bool or value is None or kind is complex:
            return self.only_pickled(kind)
        if kind is str:
            return (
                PyUnicode_GET_LENGTH(value) <= CONTENTS_NBYTES
                and self.only_pickled(kind)
            )
        if kind is bytes:
            # Alone it is not pickled; inside a container it may be
            return PyBytes_GET_SIZE(value) <= CONTENTS_NBYTES // CONTENTS
        if depth == 0:
            return False
        if not (
            kind is tuple or kind is list or kind is set or kind is frozenset or kind is dict
        ):
            return False
        if len(value) > left[0] or not self.only_pickled(kind):
            return False
        for item in [*value, *(<dict>value).values()] if kind is dict else list(value):
            if not self.only_builtins(item, left, depth - 1):
                return False
        return True


cdef bytes packed_header(dict header, Py_ssize_t count):
    header["compression"] = (None,) * count
    return pack_header(header, count)


cdef bytes header_of(object example):
    """The header of all values of a kind, of which this is one."""
    cdef object found = headers.get(type(example))
    if found is None:
        header, frames = serialize_and_split(Serialize(example), on_error="raise")
        found = headers[type(example)] = packed_header(header, len(frames))
    return found


cdef object header_of_array(object array, Py_buffer* view):
    """The header of arrays like this one; None if distributed would not send their memory
    as it is.
    """
    cdef Py_buffer sent
    cdef bint same
    if array.dtype.hasobject:
        return None
    header, frames = serialize_and_split(Serialize(array), on_error="raise", size=sys.maxsize)
    if header.get("serializer") != "dask" or len(frames) != 1:
        return None
    PyObject_GetBuffer(frames[0], &sent, PyBUF_ANY_CONTIGUOUS)
    same = sent.len == view.len and (sent.buf == view.buf or view.len == 0)
    PyBuffer_Release(&sent)
    return packed_header(header, 1) if same else None


# ------------------------------------------------------------------------------------ and back

cdef Recipe recipe_of(Frames frames, Py_ssize_t at):
    """What to do with the frame after number `at`, a header; None if that is not known here."""
    cdef Recipe recipe
    cdef bytes header
    if at + 1 >= frames.count or frames.spans[at].size > LONGEST:
        return None
    header = PyBytes_FromStringAndSize(<char*>frames.spans[at].data, frames.spans[at].size)
    recipe = recipes.get(header)
    if recipe is None:
        recipe = learn(frames, at)
        remember(recipes, header, recipe)
    return recipe if recipe.kind != UNKNOWN else None


cdef Recipe learn(Frames frames, Py_ssize_t at):
    """A recipe from a header. Raises WireError if it is none."""
    cdef Recipe recipe = Recipe.__new__(Recipe)
    cdef Unpacker unpacker = Unpacker()
    unpacker.read_frame(frames, at)
    header = unpacker.whole()
    if (
        type(header) is not dict
        or header.get("num-sub-frames") != 1
        or header.get("compression", (None,)) != (None,)
        or header.get("split-num-sub-frames") != (1,)
        or header.get("split-offsets") != (0,)
        or "is-collection" in header
    ):
        return recipe
    serializer = header.get("serializer")
    if serializer == "pickle":
        if (
            header.get("writeable") == ()
            and families["pickle"][1].__module__ == "distributed.protocol.serialize"
        ):
            recipe.kind = PICKLE
    elif (
        serializer == "dask"
        and families["dask"][1].__module__ == "distributed.protocol.serialize"
    ):
        learn_registered(recipe, header)
    return recipe


cdef int learn_registered(Recipe recipe, dict header) except -1:
    """The same for a type that distributed has functions for."""
    name, sub_header = header.get("type"), header.get("sub-header")
    if type(sub_header) is not dict:
        return 0
    if name == "builtins.bytes":
        if (
            pickle.loads(header["type-serialized"]) is bytes
            and taken_by_distributed(dask_deserialize, bytes, "distributed.protocol.serialize")
        ):
            recipe.kind = BYTES
        return 0
    if name != "numpy.ndarray" or sub_header.keys() != ARRAY_FIELDS:
        return 0
    kind = pickle.loads(header["type-serialized"])
    if (
        typename(kind) != name
        or not taken_by_distributed(dask_deserialize, kind, "distributed.protocol.numpy")
    ):
        return 0
    is_custom, dtype = sub_header["dtype"]
    if is_custom or type(dtype) is not str:
        return 0
    from numpy import dtype as dtype_type

    recipe.dtype = dtype_type(dtype)
    recipe.shape = sub_header["shape"]
    recipe.strides = sub_header["strides"]
    (recipe.writeable,) = sub_header["writeable"]
    recipe.kind = ARRAY
    recipe.in_place = True
    return 0


cdef object make_value(Recipe recipe, Frames frames, Py_ssize_t at):
    """The value whose header is in frame `at`. Raises what distributed's functions raise."""
    cdef object frame = frames.frame(at + 1)
    if recipe.kind == PICKLE:
        return unpickle(frame, [])
    if recipe.kind == BYTES:
        return frame if type(frame) is bytes else bytes(frame)
    return make_array(recipe, frame)


cdef object make_array(Recipe recipe, object frame):
    """An array in the memory of a frame, or in a copy if that cannot be written to."""
    cdef object array = sys.modules["numpy"].ndarray(
        recipe.shape, recipe.dtype, frame, 0, recipe.strides
    )
    if not recipe.writeable:
        array.flags.writeable = False
    elif not array.flags.writeable:
        array = array.copy()
    return array
