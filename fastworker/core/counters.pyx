"""How many tasks are in which state, and for how long tasks have been there, by key prefix.

distributed walks all its counts at every event to add the time that passed. Here a count adds up
its own time when it changes, so an event costs the same however many prefixes a worker has seen.
"""

from collections import Counter, defaultdict

from dask.utils import key_split

from fastworker.core.clock cimport monotonic
from fastworker.core.states cimport N_STATES, NONE, state_code, state_name

# `key_split` without its cache, which keeps the last 100,000 keys, 20 MB of them, though nearly
# every key is new
cdef object split = getattr(key_split, "__wrapped__", key_split)

# The part of a key that decides its prefix -> the prefix. All workers of a process share it.
# Guarded by the GIL: one operation at a time, and exact strings run no Python code.
cdef dict PREFIXES = {}
cdef enum:
    MAX_PREFIXES = 1_000


cdef Py_ssize_t length_of_stem(str name) noexcept:
    """How much of a key decides its prefix: all that comes before the first word with a digit.

    Words stand between dashes. The very first counts whole, digits or not.
    """
    cdef Py_ssize_t i, n = len(name), dash = -1
    cdef Py_UCS4 c
    for i in range(n):
        c = name[i]
        if c == u"-":
            dash = i
        elif dash >= 0 and u"0" <= c <= u"9":
            return dash
    return n


cpdef object prefix_of(object key):
    """`dask.utils.key_split(key)`, from a memory of stems: they are few, where keys are many."""
    cdef Py_ssize_t length
    while type(key) is tuple and key:
        key = (<tuple>key)[0]
    if type(key) is bytes:
        key = (<bytes>key).decode()
    if type(key) is not str:
        return split(key)
    length = length_of_stem(key)
    stem = key if length == len(<str>key) else (<str>key)[:length]
    prefix = PREFIXES.get(stem)
    if prefix is None:
        prefix = split(stem)
        if len(PREFIXES) >= MAX_PREFIXES:
            PREFIXES.clear()
        PREFIXES[stem] = prefix
    return prefix


def known_prefixes():
    """How many stems of keys this process remembers."""
    return len(PREFIXES)


cdef class PrefixCounts:
    """The counts of all tasks with one prefix. Guarded by the lock of the core that owns it."""

    def __cinit__(self, prefix):
        self.prefix = prefix

    cdef void move(self, int old, int new, double now) noexcept:
        """A task left state `old` for `new`; NONE: it was not, or is no longer, counted."""
        if old != NONE:
            self.elapsed[old] += <double>self.count[old] * (now - self.since[old])
            self.since[old] = now
            self.count[old] -= 1
        if new != NONE:
            self.elapsed[new] += <double>self.count[new] * (now - self.since[new])
            self.since[new] = now
            self.count[new] += 1


cdef class TaskCounter:
    """Current number of tasks and cumulative elapsed time in each state.

    Same readings as ``distributed.worker_state_machine.TaskCounter``.
    """

    def __cinit__(self):
        self.by_prefix = {}

    cdef PrefixCounts of_key(self, object key):
        prefix = prefix_of(key)
        counts = self.by_prefix.get(prefix)
        if counts is None:
            counts = self.by_prefix[prefix] = PrefixCounts(prefix)
        return counts

    def current_count(self, bint by_prefix=True):
        """Tasks by ``(prefix, state)``, or by state: a Counter without zeros."""
        cdef PrefixCounts counts
        cdef int state
        out = Counter()
        for counts in list(self.by_prefix.values()):  # a new prefix may come at any time
            for state in range(1, <int>N_STATES):
                if counts.count[state]:
                    name = state_name(state)
                    out[(counts.prefix, name) if by_prefix else name] += counts.count[state]
        return out

    def cumulative_elapsed(self, bint by_prefix=True):
        """Seconds spent by ``(prefix, state)``, or by state, up to now; never decreases.

        Includes tasks that have left the state, or that no longer exist.
        """
        cdef PrefixCounts counts
        cdef int state
        cdef double seconds, now = monotonic()
        out = defaultdict(float)
        for counts in list(self.by_prefix.values()):  # a new prefix may come at any time
            for state in range(1, <int>N_STATES):
                if counts.count[state] or counts.elapsed[state]:
                    seconds = counts.elapsed[state]
                    seconds += <double>counts.count[state] * (now - counts.since[state])
                    name = state_name(state)
                    out[(counts.prefix, name) if by_prefix else name] += seconds
        return out

    def __reduce__(self):
        return _restore, (dict(self.current_count()), dict(self.cumulative_elapsed()))


def _restore(dict counts, dict elapsed):
    cdef TaskCounter self = TaskCounter()
    cdef PrefixCounts entry
    cdef double now = monotonic()
    for prefix, state in {**counts, **elapsed}:
        entry = self.by_prefix.get(prefix)
        if entry is None:
            entry = self.by_prefix[prefix] = PrefixCounts(prefix)
        code = state_code(state)
        entry.count[code] = counts.get((prefix, state), 0)
        entry.elapsed[code] = elapsed.get((prefix, state), 0.0)
        entry.since[code] = now
    return self
