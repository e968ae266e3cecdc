"""Records: what the core puts out. The frequent instructions are native, the rest distributed's.

A record holds what its instruction needs as of the moment it was made. `to_instructions` turns a
list of them into instructions of ``distributed.worker_state_machine``; that is where types are
pickled, which may run user code and must not happen under the core's lock.
"""

cimport cython
from cpython.long cimport PyLong_FromVoidPtr
from cpython.object cimport PyTypeObject
from libc.math cimport isnan

from dask.utils import typename

from distributed.protocol import pickle
from distributed.worker_state_machine import (
    AddKeysMsg,
    Execute,
    ReleaseWorkerDataMsg,
    TaskFinishedMsg,
)

# Address of a type -> (pickled type, its name, the type). By address, because a metaclass may bring
# its own __hash__ and __eq__, and those would run in the middle of `known_description`. Each entry
# holds its type, so that no address is used twice. Guarded by the GIL: one operation at a time.
cdef dict DESCRIPTIONS = {}
cdef enum:
    MAX_DESCRIPTIONS = 1_000


cdef tuple known_description(object cls):
    """What `describe_type` said about this type before; None if it has not been asked.

    Runs no user code, as long as the caller keeps the GIL until it drops the answer.
    """
    return <tuple>DESCRIPTIONS.get(PyLong_FromVoidPtr(<void*>cls))


cdef str name_of(object cls):
    """The name of a type for the scheduler and clients: always text that can be sent."""
    try:
        name = str(typename(cls))
    except Exception:
        name = (<PyTypeObject*>cls).tp_name.decode("utf-8", "backslashreplace")
    return name.encode("utf-8", "backslashreplace").decode()


cpdef tuple describe_type(object cls):
    """The pickle of a type, its name, and the type; the pickle is of the name alone where the type
    cannot be pickled. Runs user code (pickling, and the end of types without another reference)."""
    cdef tuple out = known_description(cls)
    if out is None:
        name = name_of(cls)
        try:
            pickled = pickle.dumps(cls)
        except Exception:
            pickled = pickle.dumps(name)
        out = (pickled, name, cls)
        if len(DESCRIPTIONS) >= MAX_DESCRIPTIONS:
            DESCRIPTIONS.clear()
        DESCRIPTIONS[PyLong_FromVoidPtr(<void*>cls)] = out
    return out


@cython.freelist(64)
cdef class Run:
    """Run this task: becomes an `Execute`."""

    def to_instruction(self):
        return Execute(key=self.task.key, stimulus_id=self.stimulus_id)


@cython.freelist(64)
cdef class Finished:
    """Tell the scheduler that this task is in memory: becomes a `TaskFinishedMsg`."""

    def to_instruction(self):
        pickled, name, _ = describe_type(self.type)
        startstops = self.startstops
        if startstops is None:
            startstops = []
            if not isnan(self.compute_start):
                startstops.append(
                    {"action": "compute", "start": self.compute_start, "stop": self.compute_stop}
                )
        return TaskFinishedMsg(
            key=self.key,
            run_id=self.run_id,
            nbytes=self.nbytes,
            type=pickled,
            typename=name,
            metadata=self.metadata if self.metadata is not None else {},
            thread=self.thread,
            startstops=startstops,
            stimulus_id=self.stimulus_id,
        )


@cython.freelist(64)
cdef class Held:
    """Tell the scheduler that this key is here too: becomes an `AddKeysMsg`."""

    def to_instruction(self):
        return AddKeysMsg(keys=[self.key], stimulus_id=self.stimulus_id)


@cython.freelist(64)
cdef class Dropped:
    """Tell the scheduler that this key is not here any more: becomes a `ReleaseWorkerDataMsg`."""

    def to_instruction(self):
        return ReleaseWorkerDataMsg(key=self.key, stimulus_id=self.stimulus_id)


cdef Held held(TaskState ts, object stimulus_id):
    cdef Held out = Held.__new__(Held)
    out.key = ts.key
    out.stimulus_id = stimulus_id
    return out


cdef Dropped dropped(TaskState ts, object stimulus_id):
    cdef Dropped out = Dropped.__new__(Dropped)
    out.key = ts.key
    out.stimulus_id = stimulus_id
    return out


cdef Run run(TaskState ts, double now, object stimulus_id):
    cdef Run out = Run.__new__(Run)
    out.task = ts
    out.when = now
    out.stimulus_id = stimulus_id
    return out


cdef Finished finished(TaskState ts, object run_id, object thread, object stimulus_id):
    cdef Finished out = Finished.__new__(Finished)
    out.key = ts.key
    out.run_id = run_id
    out.nbytes = ts.nbytes_
    out.type = ts.type
    out.metadata = ts.extras.metadata if ts.extras is not None else None
    out.thread = thread
    out.startstops = ts.startstops if ts.startstops_ is not None else None
    out.compute_start = ts.compute_start
    out.compute_stop = ts.compute_stop
    out.stimulus_id = stimulus_id
    return out


cpdef list to_instructions(list records):
    """Records as instructions of ``distributed.worker_state_machine``, in the same order."""
    cdef list out = []
    for record in records:
        if type(record) is Finished:
            record = (<Finished>record).to_instruction()
        elif type(record) is Run:
            record = (<Run>record).to_instruction()
        elif type(record) is Dropped:
            record = (<Dropped>record).to_instruction()
        elif type(record) is Held:
            record = (<Held>record).to_instruction()
        out.append(record)
    return out
