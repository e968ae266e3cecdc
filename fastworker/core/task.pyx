"""What a worker knows of one task."""

cimport cython
from cpython.object cimport PyObject
from libc.math cimport NAN, isnan
from libc.stdlib cimport free

from fastworker.core.counters cimport prefix_of
from fastworker.core.priority cimport UNPACKED, Priority, pack, unpack
from fastworker.core.states cimport (
    CANCELLED, RELEASED, RESUMED, real_state_code, state_code, state_name,
)
from fastworker.core.storage cimport whole_bytes

from dask import config
from dask.utils import parse_bytes

from distributed.utils import recursive_to_dict

from fastworker.core.task_fields import FIELDS

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject* o) noexcept

cdef set EMPTY = set()  # shared, never written to
NO_RUN_ID = -1

cdef Py_ssize_t last_serial = 0
cdef void* newest = NULL  # the TaskState that was created last, as head of the list of all
cdef Py_ssize_t n_listed = 0
cdef object default_nbytes = None


def reset_serial(Py_ssize_t serial=0):
    """Number the next TaskState ``serial + 1``. For tests that want the same set order again."""
    global last_serial
    last_serial = serial


cdef class TaskExtras:
    """The fields that few tasks have, kept apart so that other tasks take no memory for them."""

    def __cinit__(self):
        self.exception_text = self.traceback_text = ""
        self.suspicious_count = 0


cdef class TaskInstances:
    """All TaskState objects of this process, as a set that holds none of them alive.

    Guarded by the GIL: linking and unlinking run no Python code.
    """

    def __len__(self):
        return n_listed

    def __iter__(self):
        cdef list out = []
        cdef void* p = newest
        while p != NULL:
            # One that is being deallocated may still be listed; it must not come back to life
            if Py_REFCNT(<PyObject*>p) > 0:
                out.append(<TaskState>p)
            p = (<TaskState>p).older
        return iter(out)

    def __contains__(self, ts):
        return isinstance(ts, TaskState) and (<TaskState>ts).listed

    def clear(self):
        """Stop counting the tasks there are now."""
        while newest != NULL:
            unlist(<TaskState>newest)


@cython.freelist(256)
cdef class TaskState:
    """What a worker knows of one task.

    Attributes and meaning are those of ``distributed.worker_state_machine.TaskState``. It hashes by
    order of creation, so that sets of tasks iterate in the same order in every run of a program.

    Raises
    ------
    ValueError
        For an unknown state name or a negative nbytes.
    TypeError
        For a value that an attribute cannot hold.
    """

    def __cinit__(self):
        global last_serial, newest, n_listed
        last_serial += 1
        self.serial = last_serial
        self.older = newest
        self.newer = NULL
        if newest != NULL:
            (<TaskState>newest).newer = <void*>self
        newest = <void*>self
        n_listed += 1
        self.listed = True

        self.run_id = NO_RUN_ID
        self.state_ = RELEASED
        self.nbytes_ = NO_NBYTES
        self.compute_start = self.compute_stop = NAN
        self.start_time_ = self.stop_time_ = NAN

    def __init__(
        self, key, run_id=-1, run_spec=None, dependencies=None, dependents=None,
        waiting_for_data=None, waiters=None, state="released", previous=None, next=None,
        priority=None, who_has=None, coming_from=None, resource_restrictions=None, exception=None,
        traceback=None, exception_text="", traceback_text="", type=None, suspicious_count=0,
        startstops=None, start_time=None, stop_time=None, metadata=None, nbytes=None,
        annotations=None, span_id=None, done=False,
    ):
        self.key = key
        self.run_id = run_id
        self.run_spec = run_spec
        self.dependencies = dependencies
        self.dependents = dependents
        self.waiting_for_data = waiting_for_data
        self.waiters = waiters
        if state is not None:
            self.state = state
        self.previous = previous
        self.next = next
        self.priority = priority
        self.who_has = who_has
        self.coming_from = coming_from
        self.resource_restrictions = resource_restrictions
        self.exception = exception
        self.traceback = traceback
        self.exception_text = exception_text
        self.traceback_text = traceback_text
        self.type = type
        self.suspicious_count = suspicious_count
        self.startstops = startstops
        self.start_time = start_time
        self.stop_time = stop_time
        self.metadata = metadata
        self.nbytes = nbytes
        self.annotations = annotations
        self.span_id = span_id
        self.done = bool(done)

    def __dealloc__(self):
        unlist(self)
        free(self.more_slots)

    def __hash__(self):
        return self.serial

    def __repr__(self):
        state = state_name(self.state_)
        if self.state_ == CANCELLED:
            state = f"cancelled({state_name(self.previous_)})"
        elif self.state_ == RESUMED:
            state = f"resumed({state_name(self.previous_)}->{state_name(self.next_)})"
        return f"<TaskState {self.key!r} {state}>"

    @property
    def prefix(self):
        """The key's leftmost part: ``dask.utils.key_split(key)``."""
        return self.counts.prefix if self.counts is not None else prefix_of(self.key)

    @property
    def state(self):
        return state_name(self.state_)

    @state.setter
    def state(self, value):
        self.state_ = <uint8_t>real_state_code(value)

    @property
    def previous(self):
        return state_name(self.previous_)

    @previous.setter
    def previous(self, value):
        self.previous_ = <uint8_t>state_code(value)

    @property
    def next(self):
        return state_name(self.next_)

    @next.setter
    def next(self, value):
        self.next_ = <uint8_t>state_code(value)

    @property
    def dependencies(self):
        if self.dependencies_ is None:
            self.dependencies_ = set()
        return self.dependencies_

    @dependencies.setter
    def dependencies(self, value):
        self.dependencies_ = as_set("dependencies", value)

    @property
    def dependents(self):
        if self.dependents_ is None:
            self.dependents_ = set()
        return self.dependents_

    @dependents.setter
    def dependents(self, value):
        self.dependents_ = as_set("dependents", value)

    @property
    def waiting_for_data(self):
        if self.waiting_for_data_ is None:
            self.waiting_for_data_ = set()
        return self.waiting_for_data_

    @waiting_for_data.setter
    def waiting_for_data(self, value):
        self.waiting_for_data_ = as_set("waiting_for_data", value)

    @property
    def waiters(self):
        if self.waiters_ is None:
            self.waiters_ = set()
        return self.waiters_

    @waiters.setter
    def waiters(self, value):
        self.waiters_ = as_set("waiters", value)

    @property
    def who_has(self):
        if self.who_has_ is None:
            self.who_has_ = set()
        return self.who_has_

    @who_has.setter
    def who_has(self, value):
        self.who_has_ = as_set("who_has", value)

    @property
    def priority(self):
        return get_priority(self)

    @priority.setter
    def priority(self, value):
        set_priority(self, value)

    @property
    def nbytes(self):
        return None if self.nbytes_ == NO_NBYTES else self.nbytes_

    @nbytes.setter
    def nbytes(self, value):
        if isinstance(value, int) and value < 0:
            raise ValueError(f"nbytes of {self.key!r} must not be negative; got {value!r}")
        set_nbytes(self, value)

    def get_nbytes(self):
        """The size in bytes, or ``distributed.scheduler.default-data-size`` where unknown."""
        return nbytes_or_default(self)

    @property
    def startstops(self):
        if self.startstops_ is None:
            self.startstops_ = []
        if not isnan(self.compute_start):
            self.startstops_.append(compute_startstop(self))
            self.compute_start = NAN
        return self.startstops_

    @startstops.setter
    def startstops(self, value):
        if value is not None and type(value) is not list:
            raise TypeError(f"startstops must be a list; got {value!r}")
        self.startstops_ = value
        self.compute_start = NAN

    @property
    def start_time(self):
        return None if isnan(self.start_time_) else self.start_time_

    @start_time.setter
    def start_time(self, value):
        self.start_time_ = NAN if value is None else value

    @property
    def stop_time(self):
        return None if isnan(self.stop_time_) else self.stop_time_

    @stop_time.setter
    def stop_time(self, value):
        self.stop_time_ = NAN if value is None else value

    @property
    def resource_restrictions(self):
        if self.resource_restrictions_ is None:
            self.resource_restrictions_ = {}
        return self.resource_restrictions_

    @resource_restrictions.setter
    def resource_restrictions(self, value):
        self.resource_restrictions_ = value

    @property
    def exception(self):
        return self.extras.exception if self.extras is not None else None

    @exception.setter
    def exception(self, value):
        if value is not None or self.extras is not None:
            extras_of(self).exception = value

    @property
    def traceback(self):
        return self.extras.traceback if self.extras is not None else None

    @traceback.setter
    def traceback(self, value):
        if value is not None or self.extras is not None:
            extras_of(self).traceback = value

    @property
    def exception_text(self):
        return self.extras.exception_text if self.extras is not None else ""

    @exception_text.setter
    def exception_text(self, value):
        if value or self.extras is not None:
            extras_of(self).exception_text = value

    @property
    def traceback_text(self):
        return self.extras.traceback_text if self.extras is not None else ""

    @traceback_text.setter
    def traceback_text(self, value):
        if value or self.extras is not None:
            extras_of(self).traceback_text = value

    @property
    def suspicious_count(self):
        return self.extras.suspicious_count if self.extras is not None else 0

    @suspicious_count.setter
    def suspicious_count(self, value):
        if value or self.extras is not None:
            extras_of(self).suspicious_count = value

    @property
    def metadata(self):
        cdef TaskExtras extras = extras_of(self)
        if extras.metadata is None:
            extras.metadata = {}
        return extras.metadata

    @metadata.setter
    def metadata(self, value):
        if value or self.extras is not None:
            extras_of(self).metadata = value

    def _to_dict_no_nest(self, *, exclude=()):
        """For dumps: the attributes that say something, other tasks as their repr."""
        out = recursive_to_dict(self, exclude=exclude, members=True)
        for name in ("prefix", "serial"):
            out.pop(name, None)
        return {name: value for name, value in out.items() if value}

    def __reduce__(self):
        state = {}
        for name, spec in FIELDS.items():
            if name != "key" and spec.init:
                value = getattr(self, name)
                if value or name == "run_id":
                    state[name] = value
        return _blank, (self.key,), state

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)

    __dataclass_fields__ = FIELDS
    _instances = TaskInstances()


cdef set as_set(str name, object value):
    if value is not None and type(value) is not set:
        raise TypeError(f"{name} must be a set; got {value!r}")
    return value


cdef TaskExtras extras_of(TaskState ts):
    if ts.extras is None:
        ts.extras = TaskExtras.__new__(TaskExtras)
    return ts.extras


def _blank(key):
    return new_task(key)


cdef TaskState new_task(object key):
    """A released task that nothing but its key is known of."""
    cdef TaskState ts = TaskState.__new__(TaskState)
    ts.key = key
    return ts


cdef int clear_error(TaskState ts, bint texts) except -1:
    """Forget the exception and its traceback, and with `texts` what they were rendered to."""
    if ts.extras is not None:
        ts.extras.exception = None
        ts.extras.traceback = None
        ts.extras.traceback_text = ""
        if texts:
            ts.extras.exception_text = ""
    return 0


cdef int set_priority(TaskState ts, object priority) except -1:
    """Raises TypeError for anything that is not a tuple or None."""
    cdef Priority prio
    if priority is None:
        prio.hi = prio.lo = 0
        prio.n = 0
    elif type(priority) is tuple:
        pack(priority, &prio)
    else:
        raise TypeError(f"priority must be a tuple of numbers; got {priority!r}")
    ts.prio = prio
    ts.unpacked_priority = priority if prio.n == UNPACKED else None
    return 0


cdef object get_priority(TaskState ts):
    if ts.prio.n == UNPACKED:
        return ts.unpacked_priority
    return unpack(&ts.prio) if ts.prio.n else None


cdef int set_nbytes(TaskState ts, object nbytes) except -1:
    ts.nbytes_ = NO_NBYTES if nbytes is None else whole_bytes(nbytes)
    return 0


cdef int64_t nbytes_or_default(TaskState ts) except -1:
    global default_nbytes
    if ts.nbytes_ != NO_NBYTES:
        return ts.nbytes_
    if default_nbytes is None:
        default_nbytes = parse_bytes(config.get("distributed.scheduler.default-data-size"))
    return default_nbytes


cdef object compute_startstop(TaskState ts):
    return {"action": "compute", "start": ts.compute_start, "stop": ts.compute_stop}


cdef int add_compute_times(TaskState ts, double start, double stop) except -1:
    """Append a "compute" startstop; as two numbers while it is the only one."""
    if ts.startstops_ is not None or not isnan(ts.compute_start) or isnan(start):
        ts.startstops.append({"action": "compute", "start": start, "stop": stop})
    else:
        ts.compute_start = start
        ts.compute_stop = stop
    return 0


cdef object startstops_snapshot(TaskState ts):
    """The startstops for a message, without making the task keep them as dicts."""
    if ts.startstops_ is None:
        return [] if isnan(ts.compute_start) else [compute_startstop(ts)]
    return ts.startstops


cdef void unlist(TaskState ts) noexcept:
    global newest, n_listed
    if not ts.listed:
        return
    if ts.newer != NULL:
        (<TaskState>ts.newer).older = ts.older
    else:
        newest = ts.older
    if ts.older != NULL:
        (<TaskState>ts.older).newer = ts.newer
    ts.newer = ts.older = NULL
    ts.listed = False
    n_listed -= 1
