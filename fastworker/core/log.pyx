"""What happened to which task: a ring of plain records, made into tuples and events when read."""

from collections import deque
from collections.abc import Sequence

from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastworker.core.lock cimport Lock
from fastworker.core.messages cimport ComputeTask, FreeKeys, Success
from fastworker.core.states cimport state_name

from distributed.worker_state_machine import (
    ComputeTaskEvent,
    ExecuteSuccessEvent,
    FindMissingEvent,
    FreeKeysEvent,
    GatherDepSuccessEvent,
    UpdateDataEvent,
)

cdef tuple WORDS = (
    None,
    "compute-task",
    "ensure-task-exists",
    "receive-from-scatter",
    "put-in-memory",
    "missing-dep",
    "remove-replica",
    "cancel-compute",
    "free-keys",
    "gather-dependencies",
)


cdef inline void* own(object x):
    if x is None:
        return NULL
    Py_INCREF(x)
    return <void*>x


cdef class Log:
    """What both logs share: they read like a deque with a maximum length."""

    def __cinit__(self, *args, **kwargs):
        self.lock = Lock()

    def __reversed__(self):
        return reversed(self._all())

    def __contains__(self, x):
        return x in self._all()

    def __getitem__(self, index):
        cdef Py_ssize_t i
        if isinstance(index, slice):
            return self._all()[index]
        i = index
        if i < 0:
            i += len(self)
        if not 0 <= i < len(self):
            raise IndexError("log index out of range")
        return self._at(i)

    def __eq__(self, other):
        if isinstance(other, (list, deque, Log)):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None

    def __repr__(self):
        return f"{type(self).__name__}({list(self)!r}, maxlen={self.maxlen})"

    def extend(self, entries):
        for entry in entries:
            self.append(entry)

    def _to_dict(self, *, exclude=()):
        from distributed.utils import recursive_to_dict

        return recursive_to_dict(list(self), exclude=exclude)


cdef class TransitionLog(Log):
    """The transition log: tuples as in ``distributed.worker_state_machine.WorkerState.log``.

    Parameters
    ----------
    maxlen: int or None
        How many records to keep; the oldest go first. None: all.
    """

    def __cinit__(self, maxlen=None):
        if maxlen is not None and maxlen < 0:
            raise ValueError(f"maxlen must be a number of records or None; got {maxlen!r}")
        self.limit = -1 if maxlen is None else maxlen

    def __dealloc__(self):
        cdef Py_ssize_t i
        cdef Record* r
        for i in range(self.count):
            r = &self.ring[(self.start + i) % self.capacity]
            Py_XDECREF(<PyObject*>r.subject)
            Py_XDECREF(<PyObject*>r.detail)
            Py_XDECREF(<PyObject*>r.stimulus_id)
        free(self.ring)

    cdef int write(
        self, Kind kind, object subject, object detail, object stimulus_id, double when,
        int start=0, int finish=0, int final=0, int recommended=0,
    ) except -1:
        cdef Record old
        cdef Record* r
        if self.limit == 0:
            return 0
        if self.count == self.capacity and self.capacity != self.limit:
            self.grow()
        if self.count < self.capacity:
            r = &self.ring[(self.start + self.count) % self.capacity]
            self.count += 1
            old.subject = old.detail = old.stimulus_id = NULL
        else:
            r = &self.ring[self.start]
            self.start += 1
            if self.start == self.capacity:
                self.start = 0
            old = r[0]
        r.subject = own(subject)
        r.detail = own(detail)
        r.stimulus_id = own(stimulus_id)
        r.when = when
        r.kind = kind
        r.start = start
        r.finish = finish
        r.final = final
        r.recommended = recommended
        Py_XDECREF(<PyObject*>old.subject)
        Py_XDECREF(<PyObject*>old.detail)
        Py_XDECREF(<PyObject*>old.stimulus_id)
        return 0

    cdef int grow(self) except -1:
        """Only when full and not yet as long as it may get."""
        cdef Py_ssize_t wanted = max(64, 2 * self.capacity)
        cdef Py_ssize_t tail
        cdef Record* ring
        if self.limit >= 0:
            wanted = min(wanted, self.limit)
        ring = <Record*>realloc(NULL, <size_t>wanted * sizeof(Record))
        if ring == NULL:
            raise MemoryError
        if self.count:
            tail = self.capacity - self.start
            memcpy(ring, &self.ring[self.start], <size_t>tail * sizeof(Record))
            memcpy(&ring[tail], self.ring, <size_t>self.start * sizeof(Record))
        free(self.ring)
        self.ring = ring
        self.capacity = wanted
        self.start = 0
        return 0

    cdef object read(self, Py_ssize_t i):
        cdef Record* r = &self.ring[(self.start + i) % self.capacity]
        cdef int kind = r.kind, start = r.start, finish = r.finish, final = r.final
        cdef int recommended = r.recommended
        cdef double when = r.when
        subject = <object>r.subject if r.subject != NULL else None
        detail = <object>r.detail if r.detail != NULL else None
        stimulus_id = <object>r.stimulus_id if r.stimulus_id != NULL else None
        if kind == OPAQUE:
            return detail
        if kind == TRANSITION:
            if recommended:
                recs = {detail: state_name(recommended)}
            else:
                recs = {} if detail is None else dict(detail)
            return (
                subject, state_name(start), state_name(finish), state_name(final), recs,
                stimulus_id, when,
            )
        if kind == FREE_KEYS:
            return ("free-keys", subject, stimulus_id, when)
        if kind == GATHER_DEPENDENCIES:
            return ("gather-dependencies", subject, detail, stimulus_id, when)
        if kind in (COMPUTE_TASK, ENSURE_TASK_EXISTS, RECEIVE_FROM_SCATTER):
            return (subject, WORDS[kind], state_name(start), stimulus_id, when)
        return (subject, WORDS[kind], stimulus_id, when)

    @property
    def maxlen(self):
        return None if self.limit < 0 else self.limit

    def append(self, tuple entry not None):
        """Add a record in the form of a tuple."""
        with self.lock:
            self.write(OPAQUE, None, entry, None, 0.0)

    def clear(self):
        cdef TransitionLog old = TransitionLog()
        with self.lock:
            old.ring, self.ring = self.ring, NULL
            old.capacity, self.capacity = self.capacity, 0
            old.start, self.start = self.start, 0
            old.count, self.count = self.count, 0

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(self._all())

    def _all(self):
        with self.lock:
            return [self.read(i) for i in range(self.count)]

    def _at(self, Py_ssize_t i):
        with self.lock:
            return self.read(i)

    def __reduce__(self):
        return _restore_log, (self.maxlen, self._all())


# Fields of the events that are logged as tuples; those of a payload are left out or emptied
cdef dict EVENT_FIELDS = {
    ComputeTaskEvent: (
        "key", "run_id", "who_has", "nbytes", "priority", "resource_restrictions", "actor",
        "annotations", "span_id",
    ),
    ExecuteSuccessEvent: ("key", "run_id", "start", "stop", "nbytes", "type"),
    FreeKeysEvent: ("keys",),
    GatherDepSuccessEvent: ("worker", "total_nbytes", "data"),
    UpdateDataEvent: ("data",),
}
cdef dict WITHOUT_PAYLOAD = {
    ComputeTaskEvent: {"run_spec": None},
    ExecuteSuccessEvent: {"value": None},
}


cdef object read_event(object entry):
    if type(entry) is not tuple:
        return entry
    cls, handled, stimulus_id, *values = entry
    fields = dict(zip(EVENT_FIELDS[cls], values, strict=True))
    if "data" in fields:
        fields["data"] = dict.fromkeys(fields["data"])
    if cls is ComputeTaskEvent:
        # ComputeTask has None for them
        fields["who_has"] = fields["who_has"] or {}
        fields["nbytes"] = fields["nbytes"] or {}
    event = cls(stimulus_id=stimulus_id, **fields, **WITHOUT_PAYLOAD.get(cls, {}))
    event.handled = handled
    return event


cdef class StimulusLog(Log):
    """All stimuli that came in, as events that hold neither run_specs nor values.

    Parameters
    ----------
    maxlen: int or None
        How many events to keep; the oldest go first. None: all.
    """

    def __cinit__(self, maxlen=None):
        self.entries = deque(maxlen=maxlen)

    cdef int write_compute_task(self, ComputeTask task, double now) except -1:
        self.entries.append((
            ComputeTaskEvent, now, task.stimulus_id, task.key, task.run_id, task.who_has,
            task.nbytes, task.priority, task.resource_restrictions, task.actor, task.annotations,
            task.span_id,
        ))
        return 0

    cdef int write_success(self, Success message, double now) except -1:
        self.entries.append((
            ExecuteSuccessEvent, now, message.stimulus_id, message.key, message.run_id,
            message.start, message.stop, message.nbytes, message.type,
        ))
        return 0

    cdef int write_free_keys(self, FreeKeys message, double now) except -1:
        self.entries.append((FreeKeysEvent, now, message.stimulus_id, message.keys))
        return 0

    cdef int write_event(self, object event, double now) except -1:
        """Any other event, but for its values."""
        cls = type(event)
        if cls is GatherDepSuccessEvent:
            entry = (
                cls, now, event.stimulus_id, event.worker, event.total_nbytes, tuple(event.data),
            )
        elif cls is UpdateDataEvent:
            entry = (cls, now, event.stimulus_id, tuple(event.data))
        elif isinstance(event, FindMissingEvent) or not hasattr(event, "to_loggable"):
            return 0
        else:
            entry = event.to_loggable(handled=now)
        self.entries.append(entry)
        return 0

    @property
    def maxlen(self):
        return self.entries.maxlen

    def append(self, event):
        """Add an event as it is."""
        self.entries.append(event)

    def clear(self):
        self.entries.clear()

    def __len__(self):
        return len(self.entries)

    def __iter__(self):
        return iter(self._all())

    def _all(self):
        with self.lock:
            entries = list(self.entries)
        return [read_event(entry) for entry in entries]

    def _at(self, Py_ssize_t i):
        return read_event(self.entries[i])

    def __reduce__(self):
        return _restore_stimulus_log, (self.maxlen, self._all())


def _restore_log(maxlen, list entries):
    log = TransitionLog(maxlen)
    log.extend(entries)
    return log


def _restore_stimulus_log(maxlen, list entries):
    log = StimulusLog(maxlen)
    log.extend(entries)
    return log


Sequence.register(Log)
