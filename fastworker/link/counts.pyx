"""What an outbox has done so far, in numbers."""


cdef void count_batch(Counts* counts, Py_ssize_t n_messages) noexcept nogil:
    cdef int size = 0
    while size < N_SIZES - 1 and n_messages >> (size + 1):
        size += 1
    counts.sizes[size] += 1
    counts.batches += 1


cdef dict as_dict(const Counts* counts):
    """The numbers by name; ``batch_sizes`` by the least number of messages, up to the largest."""
    cdef dict sizes = {}
    cdef int i, last = -1
    for i in range(N_SIZES):
        if counts.sizes[i]:
            last = i
    for i in range(last + 1):
        sizes[1 << i] = counts.sizes[i]
    return {
        "messages": counts.messages,
        "dropped": counts.dropped,
        "degraded": counts.degraded,
        "unsendable": counts.unsendable,
        "batches": counts.batches,
        "bytes": counts.sent,
        "batches_from_threads": counts.from_threads,
        "socket_full": counts.socket_full,
        "batch_sizes": sizes,
    }
