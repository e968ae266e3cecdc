"""Results in memory: a hash table whose entries are also linked from oldest to newest use."""

from libc.stdint cimport int64_t

from fastworker.core.storage cimport Storage
from fastworker.data.entries cimport Entry


cdef int64_t as_weight(object nbytes) except? -1


cdef class ResultLRU(Storage):
    # Guarded by the GIL, and that is enough, because no change can be seen half done: a change is
    # one stretch of C code in which no thread switch can happen. A switch needs Python code, or a
    # call that lets go of the GIL. There is neither in a stretch:
    #   - `plain` keys (see there) are hashed and compared by C code alone;
    #   - an entry is allocated before the stretch begins, since the garbage collector may run then;
    #     growing a dict or a ring allocates nothing that the collector counts;
    #   - nothing of the user's is let go: entries that leave are kept by a local variable or handed
    #     out, and with them their values, until the stretch is over.
    # Once a key came that is not plain, `strange` stays set, and none of this holds any more: the
    # native methods send their callers to the mapping, whose methods all take `lock` as well.
    cdef dict entries  # {key: Entry}
    cdef dict away  # {key: None} of what has been spilled. No key is in both
    cdef dict busy  # {key: None} whose files somebody is about: not to be spilled now
    cdef Entry ends  # no result; its `newer` is the oldest entry, its `older` the newest
    cdef int64_t total  # bytes of all entries
    cdef int64_t total_leaving  # bytes of those that are being spilled
    cdef object n_
    cdef object offset_
    cdef double limit  # n - offset
    cdef double heaviest  # n
    cdef bint strange
    cdef public bint over_target  # set by `put`: somebody has to spill. Who does so resets it
    cdef public bint closed
    cdef readonly object lock  # RLock; see `strange`. Nothing that may take long happens under it
    cdef readonly list on_evict
    cdef readonly list on_cancel_evict
    cdef readonly object weight
    # What was read by `look` and the like: ever-growing
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
