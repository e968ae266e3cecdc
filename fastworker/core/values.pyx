"""The seam between the core and whatever holds results in memory.

A mapping of results (`WorkerState.data`) that has a `Values` as its attribute ``fast`` lets the
core store and take results without a call into Python. Everything else goes through the mapping.
"""

MISSING = object()


cdef class Values:
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
