"""One result in memory, and the kind of key that can be looked up without a thread switch."""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t


cdef class Entry:
    # A result, in 80 bytes: no methods, which would need a pointer to their table, and chars for
    # flags. Key, value and size never change; the rest is guarded like `ResultLRU`.
    cdef readonly object key
    cdef readonly object value
    cdef readonly int64_t nbytes
    # Neighbours in the ring of `ResultLRU.ends`. Borrowed: an entry leaves the ring before it is
    # freed, so no pointer dangles.
    cdef PyObject* older
    cdef PyObject* newer
    cdef readonly char held  # it is in a `ResultLRU`; otherwise it was deleted, replaced or spilled
    cdef readonly char leaving  # it is being spilled
    cdef readonly char stuck  # it does not pickle, and that has been logged


cdef bint plain(object key, int depth=*) noexcept
cdef Entry new_entry(object key, object value, int64_t nbytes, bint is_plain)


cdef inline void link_before(Entry self, Entry entry) noexcept:
    """Insert into the ring, on the older side of `entry`."""
    self.newer = <PyObject*>entry
    self.older = entry.older
    (<Entry>entry.older).newer = <PyObject*>self
    entry.older = <PyObject*>self


cdef inline void unlink(Entry self) noexcept:
    (<Entry>self.older).newer = self.newer
    (<Entry>self.newer).older = self.older
    self.older = self.newer = <PyObject*>self
