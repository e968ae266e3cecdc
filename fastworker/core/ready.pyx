"""Priority queues of tasks: what is ready to run, and what is to be fetched from one peer.

An indexed heap: each task knows where it stands in each queue, so that one can be taken out of the
middle in O(log n) instead of leaving its entry behind.
"""

from collections.abc import MutableSet

from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc

from fastworker.core.priority cimport INEXACT, Priority, compare, decode
from fastworker.core.task cimport TaskState, find_slot, get_priority, slot_at, take_slot

cdef extern from *:
    """
    #define fw_items(list) (((PyListObject *)(list))->ob_item)
    """
    PyObject** fw_items(list) noexcept

cdef enum:
    ARITY = 4

cdef uint64_t last_id = 0  # guarded by the GIL


cdef inline bint entry_less(const Entry* a, const Entry* b) noexcept nogil:
    cdef int order = compare(a.v, b.v)
    return order < 0 or (order == 0 and a.seq < b.seq)


cdef class ReadyQueue:
    """A set of `TaskState`; the one with the least priority comes out first, ties oldest first.

    A task keeps the place that it was given by its ``priority`` when it was added. `add`, `discard`,
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
        self.items = []

    def __init__(self, tasks=()):
        for ts in tasks:
            self.add(ts)

    def __dealloc__(self):
        # A task that outlives the queue keeps a slot with an id that will never be used again
        free(self.entries)

    # ------------------------------------------------------------- for other compiled modules

    cdef Py_ssize_t size(self) noexcept:
        return PyList_GET_SIZE(self.items)

    cdef bint has(self, TaskState ts) noexcept:
        return find_slot(ts, self.id) >= 0

    cdef int push(self, TaskState ts) except -1:
        """Add a task; nothing happens if it is there."""
        cdef Py_ssize_t n = PyList_GET_SIZE(self.items)
        cdef Py_ssize_t i, child
        cdef int slot
        cdef Entry* e
        cdef void* grown
        if find_slot(ts, self.id) >= 0:
            return 0
        if ts.prio.n == 0:
            raise TypeError(f"{ts!r} has no priority and cannot be queued")
        if n == self.capacity:
            grown = realloc(self.entries, <size_t>(2 * n + 4) * sizeof(Entry))
            if grown == NULL:
                raise MemoryError
            self.entries = <Entry*>grown
            self.capacity = 2 * n + 4
        if ts.prio.n == INEXACT and self.keys is None:
            self.compare_by_tuple()
        e = &self.entries[n]
        e.v = ts.prio.v
        e.n = ts.prio.n
        e.floats = ts.prio.floats
        e.seq = self.seq
        if self.keys is not None:
            self.keys.append(get_priority(ts))
        self.items.append(ts)
        e.slot = slot = take_slot(ts, self.id)
        slot_at(ts, slot).pos = n
        self.seq += 1
        try:
            self.sift_up(n)
        except BaseException:
            # Tuples that do not compare: back down the way it came, and out
            i = slot_at(ts, slot).pos
            while i != n:
                child = n
                while (child - 1) // ARITY != i:
                    child = (child - 1) // ARITY
                self.swap(i, child)
                i = child
            self.keys.pop()
            self.items.pop()
            slot_at(ts, slot).queue = 0
            raise
        return 0

    cdef bint drop(self, TaskState ts) except -1:
        """Take a task out; False if it was not there."""
        cdef int slot = find_slot(ts, self.id)
        if slot < 0:
            return False
        self.take_at(slot_at(ts, slot).pos)
        return True

    cdef TaskState first(self):
        """The first task, borrowed from the queue; there must be one."""
        return <TaskState>PyList_GET_ITEM(self.items, 0)

    cdef TaskState take(self):
        """Take the first task out; there must be one."""
        return self.take_at(0)

    cdef TaskState take_at(self, Py_ssize_t i):
        cdef Py_ssize_t last = PyList_GET_SIZE(self.items) - 1
        cdef TaskState ts
        if i != last:
            self.swap(i, last)
        ts = self.items.pop()
        slot_at(ts, self.entries[last].slot).queue = 0
        if self.keys is not None:
            self.keys.pop()
            if last == 0:
                self.keys = None
        if i != last:
            # What came from the end may belong above or below the gap
            self.sift_down(i)
            self.sift_up(i)
        return ts

    cdef int less(self, Py_ssize_t a, Py_ssize_t b) except -1:
        """Only for queues that compare by tuple."""
        x, y = self.keys[a], self.keys[b]
        if x < y:
            return 1
        return x == y and self.entries[a].seq < self.entries[b].seq

    cdef void swap(self, Py_ssize_t a, Py_ssize_t b) noexcept:
        cdef PyObject** items = fw_items(self.items)
        cdef PyObject* item = items[a]
        cdef Entry entry = self.entries[a]
        items[a] = items[b]
        items[b] = item
        self.entries[a] = self.entries[b]
        self.entries[b] = entry
        slot_at(<TaskState>items[a], self.entries[a].slot).pos = a
        slot_at(<TaskState>items[b], self.entries[b].slot).pos = b
        if self.keys is not None:
            items = fw_items(self.keys)
            item = items[a]
            items[a] = items[b]
            items[b] = item

    # The sifts of plain numbers move a hole through the list. For as long as they run the list
    # names one task twice and another one not at all, which nobody sees: they allocate nothing.

    cdef int sift_up(self, Py_ssize_t i) except -1:
        cdef PyObject** items
        cdef PyObject* item
        cdef Entry* entries = self.entries
        cdef Entry entry
        cdef Py_ssize_t parent
        if self.keys is not None:
            while i > 0 and self.less(i, (i - 1) // ARITY):
                self.swap(i, (i - 1) // ARITY)
                i = (i - 1) // ARITY
            return 0
        entry = entries[i]
        items = fw_items(self.items)
        item = items[i]
        while i > 0:
            parent = (i - 1) // ARITY
            if not entry_less(&entry, &entries[parent]):
                break
            entries[i] = entries[parent]
            items[i] = items[parent]
            slot_at(<TaskState>items[i], entries[i].slot).pos = i
            i = parent
        entries[i] = entry
        items[i] = item
        slot_at(<TaskState>item, entry.slot).pos = i
        return 0

    cdef int sift_down(self, Py_ssize_t i) except -1:
        cdef PyObject** items
        cdef PyObject* item
        cdef Entry* entries = self.entries
        cdef Entry entry
        cdef Py_ssize_t child, best, end, n = PyList_GET_SIZE(self.items)
        if self.keys is not None:
            while True:
                best = i
                for child in range(ARITY * i + 1, min(ARITY * i + 1 + ARITY, n)):
                    if self.less(child, best):
                        best = child
                if best == i:
                    return 0
                self.swap(i, best)
                i = best
        entry = entries[i]
        items = fw_items(self.items)
        item = items[i]
        while True:
            child = ARITY * i + 1
            if child >= n:
                break
            best = child
            end = min(child + ARITY, n)
            for child in range(child + 1, end):
                if entry_less(&entries[child], &entries[best]):
                    best = child
            if not entry_less(&entries[best], &entry):
                break
            entries[i] = entries[best]
            items[i] = items[best]
            slot_at(<TaskState>items[i], entries[i].slot).pos = i
            i = best
        entries[i] = entry
        items[i] = item
        slot_at(<TaskState>item, entry.slot).pos = i
        return 0

    cdef int compare_by_tuple(self) except -1:
        """Compare whole tuples until the queue is empty: a priority came that doubles cannot hold."""
        cdef Py_ssize_t i
        cdef list keys = []
        for i in range(PyList_GET_SIZE(self.items)):
            keys.append(self.key_at(i))
        self.keys = keys
        return 0

    cdef object key_at(self, Py_ssize_t i):
        cdef Priority p
        if self.keys is not None:
            return self.keys[i]
        p.v = self.entries[i].v
        p.n = self.entries[i].n
        p.floats = self.entries[i].floats
        return decode(&p)

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
        if not PyList_GET_SIZE(self.items):
            raise KeyError("peek into an empty queue")
        return self.first()

    def peekn(self, Py_ssize_t n):
        """Iterate over the first n tasks in order; they stay in."""
        return iter(self.in_order()[: max(n, 0)])

    def pop(self):
        """Take the first task out and return it."""
        if not PyList_GET_SIZE(self.items):
            raise KeyError("pop from an empty queue")
        return self.take_at(0)

    def peekright(self):
        """A task that no other is known to precede; not always the last one. It stays in."""
        if not PyList_GET_SIZE(self.items):
            raise KeyError("peek into an empty queue")
        return self.items[PyList_GET_SIZE(self.items) - 1]

    def popright(self):
        """Take out and return what `peekright` shows."""
        if not PyList_GET_SIZE(self.items):
            raise KeyError("pop from an empty queue")
        return self.take_at(PyList_GET_SIZE(self.items) - 1)

    def sorted(self):
        """Iterate over all tasks, first to last."""
        return iter(self.in_order())

    def clear(self):
        """Take all tasks out."""
        while PyList_GET_SIZE(self.items):
            self.take_at(PyList_GET_SIZE(self.items) - 1)

    cdef list in_order(self):
        cdef Py_ssize_t i
        cdef list ranked = [
            (self.key_at(i), self.entries[i].seq, self.items[i])
            for i in range(PyList_GET_SIZE(self.items))
        ]
        ranked.sort()
        return [ts for _, _, ts in ranked]

    def __len__(self):
        return PyList_GET_SIZE(self.items)

    def __contains__(self, ts):
        return isinstance(ts, TaskState) and find_slot(<TaskState>ts, self.id) >= 0

    def __iter__(self):
        """Iterate in no particular order over what is in at this moment."""
        return iter(list(self.items))

    def __eq__(self, other):
        if isinstance(other, (set, frozenset, ReadyQueue, MutableSet)):
            return set(self) == set(other)
        return NotImplemented

    __hash__ = None

    def __repr__(self):
        return f"<{type(self).__name__}: {len(self.items)} items>"

    def __reduce__(self):
        return _requeue, (self.in_order(),)


def _requeue(list tasks):
    return ReadyQueue(tasks)


MutableSet.register(ReadyQueue)
