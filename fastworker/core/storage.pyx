"""The interface through which the core reaches results in memory.

A mapping of results (`WorkerState.data`) that has a `Storage` as its attribute ``fast`` lets the
core store and take results without a call into Python. Everything else goes through the mapping.
"""

from cpython.object cimport PyTypeObject

cdef extern from "Python.h":
    bint PyIndex_Check(object o)
    object PyNumber_Index(object o)
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1
    void PyErr_Format(object cls, const char* text, ...) except *

MISSING = object()
MOST_NBYTES = 1 << 50  # a pebibyte


cdef class Storage:
    """Results in memory, as the core sees them. Abstract: subclasses say how they are held."""

    cdef bint put(self, object key, object value, int64_t nbytes) except -1:
        """Hold a value that weighs `nbytes` bytes; False where it has to go by way of the
        mapping (too large, say), and nothing has been done.
        """
        raise NotImplementedError

    cdef object look(self, object key):
        """The value, or MISSING if it is not in memory: spilled, or not here at all."""
        raise NotImplementedError

    cdef object take(self, object key):
        """The value, which is not held any more; MISSING if it was not in memory."""
        raise NotImplementedError

    cdef bint holds(self, object key) except -1:
        """Whether the key is here, in memory or not."""
        raise NotImplementedError


cdef int64_t whole_bytes(object nbytes) except -1:
    """A size in bytes, from any ``sizeof``, here or on a peer, as a number that can be summed.

    distributed passes on any number. Here a negative one and NaN count as 0, and one above
    `MOST_NBYTES` counts as that, so that sums of sizes do not overflow.

    Raises TypeError for what is not a real number.
    """
    cdef double number
    cdef int overflow
    cdef long long whole
    if PyIndex_Check(nbytes):
        whole = PyLong_AsLongLongAndOverflow(PyNumber_Index(nbytes), &overflow)
        if overflow:
            whole = MOST_NBYTES if overflow > 0 else 0
        return max(0, min(whole, MOST_NBYTES))
    cls = type(nbytes)
    if not hasattr(cls, "__float__"):
        PyErr_Format(
            TypeError, "a size in bytes must be a number, not %.200s",
            (<PyTypeObject*>cls).tp_name,
        )
    number = float(nbytes)
    if number >= <double>MOST_NBYTES:
        return MOST_NBYTES
    return <int64_t>number if number > 0.0 else 0  # NaN is not
