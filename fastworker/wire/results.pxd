"""Results to frames and back, for the most common types."""

from fastworker.wire.frames cimport Frames


cdef class ValuePacker:
    # No lock: one thread uses it, for one message.
    cdef list frames  # of the message, but for the first; values are added to it
    cdef object protocol  # of pickles, None for the newest
    cdef Py_ssize_t largest  # bytes of a frame that is neither compressed nor split
    cdef object array_type  # numpy.ndarray; None before numpy is imported
    cdef dict known  # type -> whether it goes to frames the way that is known here

    cdef bint knows(self, type kind, str module) except -1
    cdef int put(self, object value) except -1  # 1: added; 0: not one of these kinds
    cdef int put_array(self, object array) except -1
    cdef int put_pickle(self, object value) except -1
    cdef int put_bytes(self, bytes value) except -1
    cdef bint only_pickled(self, type kind) except -1
    cdef bint only_builtins(self, object value, Py_ssize_t* left, int depth) except -1


cdef class Recipe:
    # What to do with the frame after a header. Not changed once it is made.
    cdef int kind
    cdef bint in_place  # the value is no copy of the frame
    cdef object dtype
    cdef object shape
    cdef object strides
    cdef bint writeable


cdef Recipe recipe_of(Frames frames, Py_ssize_t at)
cdef object make_value(Recipe recipe, Frames frames, Py_ssize_t at)
