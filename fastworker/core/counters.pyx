"""How many tasks are in which state, and for how long tasks have been there, by key prefix.

Stock walks all its counts at every event to add the time that passed. Here a count adds up its own
time when it changes, so an event costs the same however many prefixes a worker has seen.
"""

from collections import Counter, defaultdict

from dask.utils import key_split

from fastworker.core.clock cimport monotonic
from fastworker.core.states cimport N_STATES, NONE, state_code, state_name

cdef dict STEMS = {}  # what comes before a key's last "-" -> its prefix
cdef enum:
    MAX_STEMS = 10_000


cdef object prefix_of(object key):
    """`dask.utils.key_split(key)`.

    Nearly every key is new, which makes key_split's cache of no use, but it comes from few
    collections: where the last word of a key holds a digit, all before it decides the prefix.
    """
    cdef object name = key
    cdef Py_ssize_t dash, i
    if type(name) is tuple and name:
        name = (<tuple>name)[0]
    if type(name) is not str:
        return key_split(key)
    dash = (<str>name).rfind("-")
    if dash < 0:
        return key_split(name)
    for i in range(dash + 1, len(<str>name)):
        if u"0" <= (<str>name)[i] <= u"9":
            break
    else:
        return key_split(name)
    stem = (<str>name)[:dash]
    prefix = STEMS.get(stem)
    if prefix is None:
        if len(STEMS) >= MAX_STEMS:
            STEMS.clear()
        prefix = key_split(name)
        STEMS[stem] = prefix
    return prefix


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
