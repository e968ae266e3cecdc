"""Results in memory: a hash table whose entries are also linked from oldest to newest use."""

from libc.stdint cimport int64_t

from fastworker.core.storage cimport Storage
from fastworker.data.entries cimport Entry


cdef int64_t as_weight(object nbytes) except? -1


cdef class ResultLRU(Storage):
    # Guarded by the GIL. That is enough, because each change is one stretch of C code without a
    # thread switch, so no thread sees it half done. A switch needs Python code, or a call that
    # releases the GIL. There is neither in a stretch:
    #   - `plain` keys (see there) are hashed and compared by C code alone;
    #   - an entry is allocated before the stretch begins, since the garbage collector may run then;
    #     growing a dict or a ring allocates nothing that the collector counts;
    #   - no user's object is freed: a local variable or the caller holds entries that leave, and
    #     with them their values, until the stretch is over.
    # The first key that is not plain sets `has_custom_keys`, for good. From then on the native
    # methods send their callers to the mapping, whose methods all take `lock` as well.
    cdef dict entries  # {key: Entry}
    cdef dict away  # {key: None} of spilled values. No key is in both
    cdef dict busy  # {key: None} whose spill file is being written or removed: not to be spilled
    cdef Entry ends  # not a result; its `newer` is the oldest entry, its `older` the newest
    cdef int64_t total  # bytes of all entries
    cdef int64_t total_leaving  # bytes of entries that are being spilled
    cdef object n_
    cdef object offset_
    cdef double limit  # n - offset
    cdef double heaviest  # n
    cdef bint has_custom_keys
    cdef public bint over_target  # set by `put`, reset by `Store.spill_excess`
    cdef public bint closed
    cdef readonly object lock  # RLock; see `has_custom_keys`. Held for short operations only
    cdef readonly list on_evict
    cdef readonly list on_cancel_evict
    cdef readonly object weight
    # Reads by `look` and `read` since the start
    cdef readonly int64_t read_count
    cdef readonly int64_t read_bytes

    cdef Entry find(self, object key)
    cdef int insert(self, Entry entry) except -1
    cdef int remove(self, Entry entry) except -1
    cdef void note_read(self, Entry entry) noexcept
    cdef void renew(self, Entry entry) noexcept
    cdef bint exceeds(self, double limit) noexcept
    cdef bint lacks_room(self, int64_t nbytes) noexcept
    cdef Entry oldest_idle(self)
    cdef int begin_leaving(self, Entry entry) except -1
    cdef int stay(self, Entry entry) except -1
