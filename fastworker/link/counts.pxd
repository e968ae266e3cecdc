"""What an outbox has done so far, in numbers."""

from libc.stdint cimport uint64_t


cdef enum:
    N_SIZES = 24  # classes of batch sizes: 1, 2-3, 4-7, ...; the last takes what is larger


cdef struct Counts:
    uint64_t messages  # handed to the outbox
    uint64_t dropped  # came after the connection had ended, or still waited then
    uint64_t degraded  # sent in a poorer form, as the whole could not be packed
    uint64_t unsendable  # not sent, as they could not be packed
    uint64_t batches  # that went out
    uint64_t sent  # bytes of them
    uint64_t from_threads  # batches sent by a thread that is not the event loop's
    uint64_t socket_full  # batches that the socket did not take whole at once
    uint64_t sizes[N_SIZES]  # how many batches had 2 ** i messages or more, but not twice as many


cdef void count_batch(Counts* counts, Py_ssize_t n_messages) noexcept nogil
cdef dict as_dict(const Counts* counts)
