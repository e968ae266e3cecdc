"""Collects messages from any thread, in order, and decides which thread sends them.

If the connection takes bytes, the thread that adds a message packs it at once: the core's frequent
records, and every other plain message (see `fastworker.wire.encode`). The rest wait as objects.
"""

from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport uint64_t

from distributed.worker_state_machine import SendMessageToScheduler

from fastworker.link.batch cimport HEADROOM
from fastworker.link.counts cimport as_dict, count_batch
from fastworker.link.mutex cimport (
    pthread_mutex_destroy, pthread_mutex_init, pthread_mutex_lock, pthread_mutex_unlock,
)
from fastworker.core.clock cimport monotonic
from fastworker.core.records cimport Dropped, Finished, Held
from fastworker.link.reports cimport put_record
from fastworker.wire.encode cimport give_back, lend, put_value

cdef enum:
    LARGE_BATCH = 1 << 16  # bytes at which a batch leaves without waiting
    STACK_BYTES = 1024  # most messages are packed in this much of the stack


cdef class Collector:
    """The messages that wait to be sent. Knows nothing of connections."""

    def __cinit__(self):
        if pthread_mutex_init(&self.lock, NULL):
            raise MemoryError("no mutex for the outbox")
        self.waiting = OutgoingBatch()
        self.spare = OutgoingBatch()
        self.last_taken = -1e18

    def __dealloc__(self):
        pthread_mutex_destroy(&self.lock)

    cpdef int add_record(self, object record) except -1:
        """Take a record of the core: 1, or 0 if it is not a message to the scheduler.

        May be called under the core's lock. After the connection has ended, messages are dropped
        and counted in ``dropped``: the worker is about to close.
        """
        cdef unsigned char memory[STACK_BYTES]
        cdef Bytes packed
        cdef bint ours = (
            type(record) is Finished or type(record) is Dropped or type(record) is Held
        )
        if not ours and not isinstance(record, SendMessageToScheduler):
            return 0
        if not ours or not self.native:
            self.add(NULL, record)
            return 1
        lend(&packed, memory, STACK_BYTES)
        try:
            if put_record(&packed, record):
                self.add(&packed, None)
            else:
                self.add(NULL, record)
        finally:
            give_back(&packed)
        return 1

    cdef int add_message(self, object message) except -1:
        """Take any message that distributed could send, a dict as a rule."""
        cdef unsigned char memory[STACK_BYTES]
        cdef Bytes packed
        if not self.native:
            return self.add(NULL, message)
        lend(&packed, memory, STACK_BYTES)
        try:
            if put_value(&packed, message):
                self.add(&packed, None)
            else:
                self.add(NULL, message)
        finally:
            give_back(&packed)
        return 0

    cdef int add(self, const Bytes* packed, object kept) except -1:
        cdef bint added = True
        pthread_mutex_lock(&self.lock)
        if self.ended:
            self.counts.dropped += 1
        else:
            self.counts.messages += 1
            if packed != NULL:
                added = self.waiting.add_packed(packed)
            else:
                added = self.waiting.add_object(kept)
        pthread_mutex_unlock(&self.lock)
        if not added:
            raise MemoryError("no memory for a message to the scheduler")
        return 0

    cpdef bint due(self, double now) noexcept:
        cdef bint answer
        pthread_mutex_lock(&self.lock)
        answer = self.waiting.count > 0 and (
            now - self.last_taken >= self.interval_
            or self.waiting.packed.size >= LARGE_BATCH
        )
        pthread_mutex_unlock(&self.lock)
        return answer

    # ------------------------------------------------------------------------ whose turn it is

    cdef OutgoingBatch claim(self):
        """Take the claim and the batch; None if there is nothing to send or it is claimed."""
        cdef OutgoingBatch batch = None
        cdef OutgoingBatch spare = None
        cdef OutgoingBatch fresh = None
        if self.spare is None and not self.claimed:
            fresh = OutgoingBatch()
        pthread_mutex_lock(&self.lock)
        if self.claimed:
            self.wanted = True
        elif not self.ended and self.waiting.count:
            spare = self.spare
            self.claimed = True
            self.wanted = False
            self.ended = self.closing
            batch = self.waiting
            # `spare` is None only while claimed, and after a failure
            self.waiting = spare if spare is not None else fresh
            self.spare = None
            self.last_taken = monotonic()
            count_batch(&self.counts, batch.count)
        pthread_mutex_unlock(&self.lock)
        return batch

    cdef int give_up(self, OutgoingBatch batch) except -1:
        """Give up the claim and the batch, empty; True if more was asked for in the meantime."""
        cdef bint more
        batch.clear()
        pthread_mutex_lock(&self.lock)
        self.claimed = False
        self.spare = batch
        more = self.wanted and self.waiting.count > 0
        self.wanted = False
        pthread_mutex_unlock(&self.lock)
        return more

    cdef Py_ssize_t shut(self) except -1:
        """Drop the waiting messages and all later ones; returns how many messages waited."""
        cdef OutgoingBatch batch
        cdef OutgoingBatch fresh = OutgoingBatch()
        cdef Py_ssize_t n
        pthread_mutex_lock(&self.lock)
        self.ended = True
        self.claimed = False
        batch = self.waiting
        self.waiting = fresh
        n = batch.count
        self.counts.dropped += <uint64_t>n
        pthread_mutex_unlock(&self.lock)
        batch.clear()
        return n

    # ------------------------------------------------------------------------------ for inspection

    @property
    def buffer(self):
        """The messages that wait, as objects. A copy, made on each read."""
        return self.snapshot().messages()

    cdef OutgoingBatch snapshot(self):
        """A copy of the batch that waits."""
        cdef OutgoingBatch copy = OutgoingBatch()
        cdef OutgoingBatch waiting
        cdef list kept
        cdef Py_ssize_t n
        cdef bint complete = False, enough_memory = True
        while not complete:
            n = PyList_GET_SIZE(self.waiting.kept)
            kept = [None] * n  # beforehand: making a list may run the garbage collector
            pthread_mutex_lock(&self.lock)
            waiting = self.waiting
            if n == PyList_GET_SIZE(waiting.kept):
                enough_memory = copy.copy_from(waiting, kept)
                complete = True
            pthread_mutex_unlock(&self.lock)
        if not enough_memory:
            raise MemoryError("no memory for a copy of messages to the scheduler")
        return copy

    @property
    def message_count(self):
        """Messages taken so far."""
        return self.counts.messages

    @property
    def batch_count(self):
        """Batches that have left so far."""
        return self.counts.batches

    @property
    def byte_count(self):
        """Bytes that have left so far."""
        return self.counts.sent

    @property
    def metrics(self):
        """Numbers by name: what waits now, and what has been done so far.

        ``waiting_messages``, ``waiting_bytes`` (of those that are packed), ``messages``, ``bytes``,
        ``batches``, ``batches_from_threads`` (sent by threads other than the event loop's),
        ``batch_sizes`` (how many batches by the number of their messages, rounded down to a power
        of two), ``socket_full`` (batches that the socket did not take at once), ``dropped``
        (messages that came after the end, or waited at it), ``degraded`` and ``unsendable``
        (messages that could not be packed).
        """
        return {
            "waiting_messages": self.waiting.count,
            "waiting_bytes": self.waiting.packed.size - HEADROOM,
            **as_dict(&self.counts),
        }
