"""What transitions to the same state have in common."""

from fastworker.core.log cimport PUT_IN_MEMORY
from fastworker.core.records cimport finished, held
from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State, expect
from fastworker.core.states cimport (
    CONSTRAINED, ERROR, EXECUTING, FETCH, FORGOTTEN, LONG_RUNNING, MEMORY, MISSING, READY, RELEASED,
    WAITING,
)
from fastworker.core.task cimport (
    NO_NBYTES, NO_RUN_ID, TaskExtras, TaskState, extras_of, set_nbytes, startstops_snapshot,
)

from distributed.core import error_message
from distributed.sizeof import safe_sizeof
from distributed.worker_state_machine import TaskErredMsg


cdef int expect_args(TaskState ts, tuple args, Py_ssize_t n) except -1:
    """Raise if a recommendation of Python code lacks what the transition needs."""
    if args is None or len(args) != n:
        raise TypeError(
            f"this transition of {ts!r} takes {n} arguments; got {0 if args is None else len(args)}"
        )
    return 0


cdef int to_fetch(State state, TaskState ts, Recs recs) except -1:
    if not ts.who_has_:
        recs.put(ts, MISSING)
        return 0
    ts.state_ = FETCH
    ts.done = False
    state.fetch_count += 1
    expect(ts.prio.n != 0, ts)
    state.put_in_queues(ts)
    return 0


cdef int to_missing(State state, TaskState ts) except -1:
    if state.validate:
        expect(not ts.who_has_, ts)
    ts.state_ = MISSING
    state.missing_dep_flight.add(ts)
    ts.done = False
    return 0


cdef int to_released(State state, TaskState ts, Recs recs) except -1:
    """Drop all that is held for the task; recommend the same for dependencies it leaves idle."""
    cdef TaskState dep
    state.purge(ts)
    if ts.dependencies_ is not None:
        for dep in ts.dependencies_:
            if not dep.waiters_ and not (
                dep.state_ == READY or dep.state_ == CONSTRAINED or dep.state_ == WAITING
                or dep.state_ == EXECUTING or dep.state_ == LONG_RUNNING or dep.state_ == MEMORY
            ):
                recs.put(dep, RELEASED)
    ts.state_ = RELEASED
    if not ts.dependents_:
        recs.put(ts, FORGOTTEN)
    return 0


cdef int to_waiting(State state, TaskState ts, Recs recs) except -1:
    cdef TaskState dep
    cdef set lacking = None
    if ts.dependencies_ is not None:
        if state.validate:
            for dep in ts.dependencies_:
                expect(dep.key in state.tasks, dep)
        for dep in ts.dependencies_:
            if dep.state_ != MEMORY:
                if lacking is None:
                    lacking = set()
                lacking.add(dep)
                if dep.waiters_ is None:
                    dep.waiters_ = set()
                dep.waiters_.add(ts)
                recs.put(dep, FETCH)
    ts.waiting_for_data_ = lacking
    if lacking is None:
        recs.put(ts, READY)
    ts.state_ = WAITING
    state.waiting.add(ts)
    return 0


cdef int to_error(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    cdef TaskExtras extras = extras_of(ts)
    expect_args(ts, args, 5)
    (
        extras.exception, extras.traceback, extras.exception_text, extras.traceback_text, run_id
    ) = args
    ts.state_ = ERROR
    expect(bool(extras.exception), ts)
    records.append(TaskErredMsg(
        key=ts.key,
        run_id=run_id,
        exception=extras.exception,
        traceback=extras.traceback,
        exception_text=extras.exception_text,
        traceback_text=extras.traceback_text,
        thread=state.threads.get(ts.key),
        startstops=startstops_snapshot(ts),
        stimulus_id=stimulus_id,
    ))
    return 0


cdef int to_memory(
    State state, TaskState ts, tuple args, Report report, object run_id, object stimulus_id,
    Recs recs, list records,
) except -1:
    """The only place where values enter the store."""
    cdef TaskState dep
    cdef bint known
    key = ts.key
    value = args[0]  # the callers have checked that it is there
    if state.validate:
        expect(key not in state.data_ and ts.state_ != MEMORY, ts)
    known = ts.nbytes_ != NO_NBYTES
    try:
        if not known:
            set_nbytes(ts, safe_sizeof(value))
        if state.actors and key in state.actors:
            state.actors[key] = value
        else:
            state.store(ts, value)
    except Exception as e:
        # Its size is no number, or it is larger than what may be held in memory, and not to be
        # spilled: it does not pickle
        if not known:
            ts.nbytes_ = NO_NBYTES
        recs.put_args(ts, ERROR, (*tuple(error_message(e).values())[1:], run_id))
        return 0

    ts.state_ = MEMORY
    state.nbytes += ts.nbytes_
    ts.type = type(value)

    if ts.dependents_ is not None:
        for dep in ts.dependents_:
            if dep.waiting_for_data_ is not None:
                dep.waiting_for_data_.discard(ts)
                if not dep.waiting_for_data_:
                    dep.waiting_for_data_ = None  # an empty set takes more than a whole task
            if dep.state_ == WAITING and dep.waiting_for_data_ is None:
                recs.put(dep, READY)

    state.log.write(PUT_IN_MEMORY, key, None, stimulus_id, state.now)
    if report == ADD_KEYS:
        records.append(held(ts, stimulus_id))
    elif report == TASK_FINISHED:
        expect(run_id != NO_RUN_ID, ts)
        records.append(report_finished(state, ts, run_id, stimulus_id))
    return 0


cdef object report_finished(State state, TaskState ts, object run_id, object stimulus_id):
    """The record that tells the scheduler that the task is in memory."""
    if state.validate:
        expect(ts.state_ == MEMORY and state.holds(ts.key) and ts.type is not None, ts)
    expect(ts.nbytes_ != NO_NBYTES, ts)
    return finished(ts, run_id, state.threads.get(ts.key), stimulus_id)
