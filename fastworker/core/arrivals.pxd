"""What transitions to the same state have in common."""

from fastworker.core.state cimport State
from fastworker.core.recommendations cimport Recs
from fastworker.core.task cimport TaskState

cdef enum Report:
    # What the scheduler is told of a key that is now in memory
    NOTHING  # it was scattered: the scheduler does not know the key yet
    ADD_KEYS  # a replica of what is in memory elsewhere
    TASK_FINISHED

cdef int expect_args(TaskState ts, tuple args, Py_ssize_t n) except -1
cdef int to_fetch(State state, TaskState ts, Recs recs) except -1
cdef int to_missing(State state, TaskState ts) except -1
cdef int to_released(State state, TaskState ts, Recs recs) except -1
cdef int to_waiting(State state, TaskState ts, Recs recs) except -1
cdef int to_error(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1
cdef int to_memory(
    State state, TaskState ts, tuple args, Report report, object run_id, object stimulus_id,
    Recs recs, list records,
) except -1
cdef object report_finished(State state, TaskState ts, object run_id, object stimulus_id)
