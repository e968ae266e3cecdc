"""Results in memory, one by one, and what kind of key lets a change go unseen."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t


cdef class Entry:
    # A result, in 80 bytes: it has no methods, whose table it would have to point to, and no int
    # where a char will do. Key, value and size never change; the rest is guarded like `ResultLRU`.
    cdef readonly object key
    cdef readonly object value
    cdef readonly int64_t nbytes
    # Neighbours in a ring that has `ResultLRU.ends` in it. Borrowed: an entry that goes leaves the
    # ring, so that none can point to one that is gone.
    cdef PyObject* older
    cdef PyObject* newer
    cdef readonly char held  # it is in a memory; otherwise it was deleted, replaced or spilled
    cdef readonly char leaving  # it is being spilled
    cdef readonly char stuck  # it does not pickle, and somebody has been told so


cdef bint plain(object key, int depth=*) noexcept
cdef Entry new_entry(object key, object value, int64_t nbytes, bint is_plain)


cdef inline void link_before(Entry self, Entry entry) noexcept:
    """Into the ring, on the older side of `entry`."""
    self.newer = <PyObject*>entry
    self.older = entry.older
    (<Entry>entry.older).newer = <PyObject*>self
    entry.older = <PyObject*>self


cdef inline void unlink(Entry self) noexcept:
    (<Entry>self.older).newer = self.newer
    (<Entry>self.newer).older = self.older
    self.older = self.newer = <PyObject*>self
