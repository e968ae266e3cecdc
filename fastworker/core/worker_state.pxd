"""The state as Python code sees it."""

from fastworker.core.state cimport State


cdef class WorkerState(State):
    pass
