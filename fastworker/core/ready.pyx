"""Priority queues of tasks: what is ready to run, and what is to be fetched from one peer.

An indexed heap: a queue knows where each task stands, so that one can be taken out of the middle in
O(log n) instead of leaving its entry behind.
"""

from collections.abc import MutableSet

from cpython.list cimport PyList_GET_SIZE
from libc.stdint cimport int32_t, uint64_t
from libc.stdlib cimport free, realloc

from fastworker.core.priority cimport UNPACKED, Priority, unpack
from fastworker.core.task cimport QueueSlot, TaskState, get_priority

cdef enum:
    ARITY = 4

cdef uint64_t last_id = 0  # guarded by the GIL


cdef inline bint before(const Entry* a, const Entry* b) noexcept nogil:
    # Single bits and no jumps: which way this goes is what a processor cannot predict
    return <bint>(
        (a.hi < b.hi)
        | ((a.hi == b.hi) & ((a.lo < b.lo) | ((a.lo == b.lo) & (a.seq < b.seq))))
    )


# ---------------------------------------------------- a task's slots for the queues it stands in

cdef inline QueueSlot* slot_at(TaskState ts, int i) noexcept:
    return &ts.slot0 if i == 0 else &ts.more_slots[i - 1]


cdef int find_slot(TaskState ts, uint64_t queue) noexcept:
    """The slot in which `ts` stands in `queue`, or -1."""
    cdef int i
    for i in range(ts.n_slots):
        if slot_at(ts, i).queue == queue:
            return i
    return -1


cdef QueueSlot* take_slot(TaskState ts, uint64_t queue) except NULL:
    """Take a free slot for `queue`; valid until another one is taken."""
    cdef int i
    cdef void* grown
    for i in range(ts.n_slots):
        if slot_at(ts, i).queue == 0:
            break
    else:
        i = ts.n_slots
        if i > ts.more_capacity:
            grown = realloc(ts.more_slots, <size_t>(2 * i) * sizeof(QueueSlot))
            if grown == NULL:
                raise MemoryError
            ts.more_slots = <QueueSlot*>grown
            ts.more_capacity = 2 * i
        ts.n_slots += 1
    slot_at(ts, i).queue = queue
    return slot_at(ts, i)


cdef void leave_slot(TaskState ts, uint64_t queue) noexcept:
    cdef int i = find_slot(ts, queue)
    if i >= 0:
        slot_at(ts, i).queue = 0
        # Nothing looks beyond the last slot in use
        while ts.n_slots and slot_at(ts, ts.n_slots - 1).queue == 0:
            ts.n_slots -= 1


cdef inline int32_t find_handle(TaskState ts, uint64_t queue) noexcept:
    return slot_at(ts, find_slot(ts, queue)).handle


cdef class ReadyQueue:
    """A set of `TaskState`; the one with the least priority comes out first, ties oldest first.

    A task keeps the place that its ``priority`` gave it when it was added. `add`, `discard`,
    `remove` and `pop` are O(log n); `peek`, ``in`` and ``len`` are O(1).

    Raises
    ------
    TypeError
        When something else than a TaskState is added, one without a priority, or one whose priority
        does not compare with the others.
    KeyError
        From `peek` and `pop` when it is empty, from `remove` when the task is not there.
    """

    def __cinit__(self):
        global last_id
        last_id += 1
        self.id = last_id
        self.free_handle = -1
        self.items = []

    def __init__(self, tasks=()):
        for ts in tasks:
            self.add(ts)

    def __dealloc__(self):
        cdef Py_ssize_t i
        # The garbage collector may have emptied the list. Tasks that outlive such a queue keep a
        # slot with an id that will never be used again.
        if self.items is not None and PyList_GET_SIZE(self.items):
            for i in range(self.n):
                leave_slot(<TaskState>self.items[self.heap[i].handle], self.id)
        free(self.heap)
        free(self.where)

    # ------------------------------------------------------------- for other compiled modules

    cdef Py_ssize_t size(self) noexcept:
        return self.n

    cdef bint has(self, TaskState ts) noexcept:
        return find_slot(ts, self.id) >= 0

    cdef int push(self, TaskState ts) except -1:
        """Add a task; nothing happens if it is there."""
        cdef int32_t handle
        cdef Entry entry
        cdef QueueSlot* slot
        if find_slot(ts, self.id) >= 0:
            return 0
        if ts.prio.n == 0:
            raise TypeError(f"{ts!r} has no priority and cannot be queued")
        if self.n == self.capacity:
            self.grow()
        if ts.prio.n == UNPACKED and self.keys is None:
            self.compare_by_tuple()
        slot = take_slot(ts, self.id)
        handle = self.free_handle
        if handle >= 0:
            self.free_handle = self.where[handle]
            self.items[handle] = ts
        else:
            handle = <int32_t>PyList_GET_SIZE(self.items)
            self.items.append(ts)
        slot.handle = handle
        entry.hi = ts.prio.hi
        entry.lo = ts.prio.lo
        entry.n = ts.prio.n
        entry.seq = self.seq
        entry.handle = handle
        if self.keys is not None:
            self.keys[handle] = get_priority(ts)
        self.seq += 1
        self.n += 1
        try:
            return self.sift_up(self.n - 1, &entry)
        except BaseException:
            # Tuples that do not compare: it is at the end still
            self.n -= 1
            self.release(handle)
            raise

    cdef bint drop(self, TaskState ts) except -1:
        """Take a task out; False if it was not there."""
        cdef int slot = find_slot(ts, self.id)
        if slot < 0:
            return False
        self.take_at(self.where[slot_at(ts, slot).handle])
        return True

    cdef TaskState first(self):
        """The first task; there must be one."""
        return self.task_at(0)

    cdef TaskState take(self):
        """Take the first task out; there must be one."""
        return self.take_at(0)

    # ---------------------------------------------------------------------------------- the heap

    cdef TaskState task_at(self, Py_ssize_t i):
        cdef int32_t handle = self.heap[i].handle
        if handle >= PyList_GET_SIZE(self.items):
            raise RuntimeError("this queue has been garbage collected")
        return <TaskState>self.items[handle]

    cdef TaskState take_at(self, Py_ssize_t i):
        cdef TaskState ts = self.task_at(i)
        cdef Entry last
        if self.keys is not None:
            self.fill_comparing_tuples(i)
        elif i != self.n - 1:
            # Let the hole sink to a leaf, then put the last entry there and let it rise: it mostly
            # belongs near the end, which this finds out with the fewest comparisons.
            last = self.heap[self.n - 1]
            self.sift_up(self.sink_hole(i), &last)
        self.n -= 1
        self.release(find_handle(ts, self.id))
        if self.n == 0:
            self.keys = None
        return ts

    cdef int grow(self) except -1:
        cdef Py_ssize_t capacity = 2 * self.capacity + 4
        cdef void* grown
        if capacity > 0x7FFFFFFF:
            raise OverflowError(f"a queue of more than {self.capacity} tasks")
        grown = realloc(self.heap, <size_t>capacity * sizeof(Entry))
        if grown == NULL:
            raise MemoryError
        self.heap = <Entry*>grown
        grown = realloc(self.where, <size_t>capacity * sizeof(int32_t))
        if grown == NULL:
            raise MemoryError
        self.where = <int32_t*>grown
        self.capacity = capacity
        return 0

    cdef int release(self, int32_t handle) except -1:
        """The task leaves the queue; its handle is free."""
        leave_slot(<TaskState>self.items[handle], self.id)
        self.items[handle] = None
        self.where[handle] = self.free_handle
        self.free_handle = handle
        if self.keys is not None:
            del self.keys[handle]
        return 0

    cdef void place(self, Py_ssize_t i, const Entry* entry) noexcept:
        self.heap[i] = entry[0]
        self.where[entry.handle] = <int32_t>i

    cdef int sift_up(self, Py_ssize_t i, const Entry* entry) except -1:
        """Put an entry into the hole at i, or further up. If it does not compare: at i."""
        cdef Py_ssize_t hole = i, parent
        if self.keys is not None:
            while i > 0 and self.less(entry, &self.heap[(i - 1) // ARITY]):
                i = (i - 1) // ARITY
            # Only now that nothing can fail any more
            while hole != i:
                parent = (hole - 1) // ARITY
                self.place(hole, &self.heap[parent])
                hole = parent
            self.place(i, entry)
            return 0
        while i > 0:
            parent = (i - 1) // ARITY
            if not before(entry, &self.heap[parent]):
                break
            self.place(i, &self.heap[parent])
            i = parent
        self.place(i, entry)
        return 0

    cdef Py_ssize_t sink_hole(self, Py_ssize_t i) noexcept:
        """Move up the least child of the hole at i until the hole is at a leaf. Returns where."""
        cdef Py_ssize_t child, best, end, n = self.n - 1  # without the last, which is to fill it
        while True:
            best = ARITY * i + 1
            if best >= n:
                return i
            end = min(best + ARITY, n)
            for child in range(best + 1, end):
                if before(&self.heap[child], &self.heap[best]):
                    best = child
            self.place(i, &self.heap[best])
            i = best

    cdef int fill_comparing_tuples(self, Py_ssize_t i) except -1:
        """Fill the hole at i likewise. All comparisons come first, since any of them may raise."""
        cdef Py_ssize_t path[64]
        cdef Py_ssize_t child, best, end, depth = 0, n = self.n - 1
        cdef Entry last = self.heap[n]
        if i == n:
            return 0
        path[0] = i
        while ARITY * path[depth] + 1 < n:
            best = ARITY * path[depth] + 1
            end = min(best + ARITY, n)
            for child in range(best + 1, end):
                if self.less(&self.heap[child], &self.heap[best]):
                    best = child
            depth += 1
            path[depth] = best
        while depth and self.less(&last, &self.heap[path[depth]]):
            depth -= 1
        if depth == 0:
            return self.sift_up(i, &last)
        for child in range(depth):
            self.place(path[child], &self.heap[path[child + 1]])
        self.place(path[depth], &last)
        return 0

    cdef bint less(self, const Entry* a, const Entry* b) except -1:
        """Only for queues that compare by tuple."""
        x, y = self.keys[a.handle], self.keys[b.handle]
        return x < y or (x == y and a.seq < b.seq)

    cdef int compare_by_tuple(self) except -1:
        """Compare whole tuples until the queue is empty: one is coming that is not packed."""
        cdef Py_ssize_t i
        self.keys = {self.heap[i].handle: self.key_of(&self.heap[i]) for i in range(self.n)}
        return 0

    cdef object key_of(self, const Entry* entry):
        cdef Priority p
        if self.keys is not None:
            return self.keys[entry.handle]
        p.hi = entry.hi
        p.lo = entry.lo
        p.n = entry.n
        return unpack(&p)

    cdef list in_order(self):
        cdef Py_ssize_t i
        cdef list ranked = [
            (self.key_of(&self.heap[i]), self.heap[i].seq, self.task_at(i)) for i in range(self.n)
        ]
        ranked.sort()
        return [ts for _, _, ts in ranked]

    # ----------------------------------------------------------------------------- for Python

    def add(self, TaskState ts not None):
        """Add a task; nothing happens if it is there."""
        self.push(ts)

    def discard(self, ts):
        """Take a task out if it is there."""
        if isinstance(ts, TaskState):
            self.drop(<TaskState>ts)

    def remove(self, ts):
        """Take a task out that must be there."""
        if not isinstance(ts, TaskState) or not self.drop(<TaskState>ts):
            raise KeyError(ts)

    def peek(self):
        """The first task, which stays in."""
        if not self.n:
            raise KeyError("peek into an empty queue")
        return self.first()

    def peekn(self, Py_ssize_t n):
        """Iterate over the first n tasks in order; they stay in."""
        return iter(self.in_order()[: max(n, 0)])

    def pop(self):
        """Take the first task out and return it."""
        if not self.n:
            raise KeyError("pop from an empty queue")
        return self.take_at(0)

    def peekright(self):
        """A task that no other is known to precede; not always the last one. It stays in."""
        if not self.n:
            raise KeyError("peek into an empty queue")
        return self.task_at(self.n - 1)

    def popright(self):
        """Take out and return what `peekright` shows."""
        if not self.n:
            raise KeyError("pop from an empty queue")
        return self.take_at(self.n - 1)

    def sorted(self):
        """Iterate over all tasks, first to last."""
        return iter(self.in_order())

    def clear(self):
        """Take all tasks out."""
        while self.n:
            self.take_at(self.n - 1)

    def __len__(self):
        return self.n

    def __contains__(self, ts):
        return isinstance(ts, TaskState) and find_slot(<TaskState>ts, self.id) >= 0

    def __iter__(self):
        """Iterate in no particular order over what is in at this moment."""
        cdef Py_ssize_t i
        return iter([self.task_at(i) for i in range(self.n)])

    def __eq__(self, other):
        if isinstance(other, (set, frozenset, ReadyQueue, MutableSet)):
            return set(self) == set(other)
        return NotImplemented

    __hash__ = None

    def __repr__(self):
        return f"<{type(self).__name__}: {self.n} items>"

    def __reduce__(self):
        return _requeue, (self.in_order(),)


def _requeue(list tasks):
    return ReadyQueue(tasks)


MutableSet.register(ReadyQueue)
