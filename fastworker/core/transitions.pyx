"""The transitions between task states, and their table.

Each transition is a plain C function. It changes the task and the collections that the task stands
in, adds to the recommendations (which other tasks should go where) and to the records (what the
worker should do). What transitions to the same state have in common is in ``arrivals``.

Which transitions exist, what they recommend and in which order is defined by
``distributed.worker_state_machine.WorkerState``, and the tests hold ours against it.
"""

from fastworker.core.arrivals cimport (
    ADD_KEYS, NOTHING, TASK_FINISHED, Report, expect_args, to_error, to_fetch, to_memory,
    to_missing, to_released, to_waiting,
)
from fastworker.core.planning cimport ensure_computing
from fastworker.core.records cimport dropped, run
from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State, expect
from fastworker.core.states cimport (
    CANCELLED, CONSTRAINED, ERROR, EXECUTING, FETCH, FLIGHT, FORGOTTEN, LONG_RUNNING, MEMORY,
    MISSING, N_STATES, NONE, READY, RELEASED, RESCHEDULED, RESUMED, WAITING, state_name,
)
from fastworker.core.task cimport NO_NBYTES, NO_RUN_ID, TaskState, need

from distributed.worker_state_machine import LongRunningMsg, RescheduleMsg

cdef transition_t TABLE[N_STATES][N_STATES]


cdef int forget_detour(TaskState ts) except -1:
    """A resumed task has done what it was doing before; now for what was asked of it since."""
    ts.state_ = RELEASED
    ts.done = False
    ts.previous_ = NONE
    ts.next_ = NONE
    return 0


cdef bint was_running(TaskState ts) noexcept:
    return ts.previous_ == EXECUTING or ts.previous_ == LONG_RUNNING


cdef int expect_runnable(State state, TaskState ts) except -1:
    cdef TaskState dep
    expect(not ts.waiting_for_data_, ts)
    expect(not state.ready.has(ts) and not state.constrained.has(ts), ts)
    for dep in need(ts.dependencies_):
        expect(state.holds(dep.key), dep)
    return 0


# ------------------------------------------------------------------------------------- transitions

cdef int any_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    return to_released(state, ts, recs)


cdef int released_waiting(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    return to_waiting(state, ts, recs)


cdef int released_fetch(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    return to_fetch(state, ts, recs)


cdef int released_missing(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    return to_missing(state, ts)


cdef int released_memory(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect_args(ts, args, 2)
    return to_memory(state, ts, args, NOTHING, NO_RUN_ID, stimulus_id, recs, records)


cdef int released_forgotten(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    cdef TaskState dep
    if state.validate:
        for dep in need(ts.dependents_):
            expect(dep.state_ == FORGOTTEN, dep)
    if ts.dependencies_ is not None:
        for dep in ts.dependencies_:
            if dep.dependents_ is not None:
                dep.dependents_.discard(ts)
            if dep.state_ == RELEASED and not dep.dependents_:
                recs.put(dep, FORGOTTEN)
    state.purge(ts)
    state.lock.discard(ts.run_spec)
    ts.state_ = FORGOTTEN
    state.tasks.pop(ts.key, None)
    return 0


cdef int missing_waiting(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    state.purge(ts)
    return to_waiting(state, ts, recs)


cdef int missing_fetch(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if not ts.who_has_:
        return 0
    state.missing_dep_flight.discard(ts)
    return to_fetch(state, ts, recs)


cdef int missing_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    to_released(state, ts, recs)
    expect(ts.key in state.tasks, ts)
    return 0


cdef int fetch_flight(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if state.validate:
        expect(bool(ts.who_has_), ts)
        for worker in ts.who_has_:
            expect(ts not in state.data_needed[worker], ts)
    expect_args(ts, args, 1)
    ts.done = False
    ts.state_ = FLIGHT
    ts.coming_from = args[0]
    state.in_flight_tasks.add(ts)
    state.fetch_count -= 1
    return 0


cdef int fetch_missing(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    state.fetch_count -= 1
    return to_missing(state, ts)


cdef int fetch_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    state.fetch_count -= 1
    return to_released(state, ts, recs)


cdef int flight_fetch(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # Before the transfer has ended this says nothing new
    return to_fetch(state, ts, recs) if ts.done else 0


cdef int flight_missing(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect(ts.done, ts)
    return to_missing(state, ts)


cdef int flight_memory(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect_args(ts, args, 2)
    return to_memory(state, ts, args, ADD_KEYS, NO_RUN_ID, stimulus_id, recs, records)


cdef int flight_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # A transfer cannot be called back; wait for it and throw away what it brings
    expect(not ts.done, ts)
    ts.previous_ = FLIGHT
    ts.next_ = NONE
    ts.state_ = CANCELLED
    return 0


cdef int waiting_ready(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if state.validate:
        expect_runnable(state, ts)
        for dep in need(ts.dependencies_):
            expect((<TaskState>dep).state_ == MEMORY, dep)
    if ts.resource_restrictions_:
        recs.put(ts, CONSTRAINED)
        return 0
    ts.state_ = READY
    state.waiting.remove(ts)
    state.ready.push(ts)
    return ensure_computing(state, recs)


cdef int waiting_constrained(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if state.validate:
        expect_runnable(state, ts)
        for dep in need(ts.dependencies_):
            expect((<TaskState>dep).state_ == MEMORY, dep)
    ts.state_ = CONSTRAINED
    state.waiting.remove(ts)
    state.constrained.push(ts)
    return ensure_computing(state, recs)


cdef int ready_executing(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if state.validate:
        expect_runnable(state, ts)
        expect(ts.key not in state.data_, ts)
    ts.state_ = EXECUTING
    records.append(run(ts, state.now, stimulus_id))
    return 0


cdef int executing_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # Running code cannot be called back; wait for it and throw away what it returns
    if state.validate:
        expect(ts.next_ == NONE and not ts.done, ts)
    ts.previous_ = ts.state_
    ts.state_ = CANCELLED
    return 0


cdef int executing_long_running(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect_args(ts, args, 1)
    ts.state_ = LONG_RUNNING
    state.executing.discard(ts)
    state.long_running.add(ts)
    records.append(LongRunningMsg(
        key=ts.key, run_id=ts.run_id, compute_duration=args[0], stimulus_id=stimulus_id
    ))
    return ensure_computing(state, recs)


cdef int executing_memory(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect_args(ts, args, 2)
    return to_memory(state, ts, args, TASK_FINISHED, args[1], stimulus_id, recs, records)


cdef int executing_rescheduled(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # The task itself raised Reschedule. (executing, released) would take it for still running.
    expect(ts.done, ts)
    records.append(RescheduleMsg(key=ts.key, stimulus_id=stimulus_id))
    return to_released(state, ts, recs)


cdef int memory_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect(ts.nbytes_ != NO_NBYTES, ts)
    state.nbytes -= ts.nbytes_
    to_released(state, ts, recs)
    records.append(dropped(ts, stimulus_id))
    return 0


cdef int cancelled_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # Also to memory, error, missing and rescheduled: the outcome is not needed any more
    if not ts.done:
        return 0
    return to_released(state, ts, recs)


cdef int cancelled_fetch(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if ts.previous_ == FLIGHT:
        if ts.done:
            recs.put(ts, RELEASED)
        else:
            # It is on its way: as if it had never been cancelled
            ts.state_ = FLIGHT
            ts.previous_ = NONE
        return 0
    expect(was_running(ts) and not ts.done, ts)
    ts.state_ = RESUMED
    ts.next_ = FETCH
    return 0


cdef int cancelled_waiting(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect(not ts.done, ts)
    if ts.previous_ == EXECUTING:
        # It is running: as if it had never been cancelled
        ts.state_ = EXECUTING
        ts.previous_ = NONE
    elif ts.previous_ == LONG_RUNNING:
        # The same, but the scheduler has yet to hear that it seceded; maybe for the second time
        ts.state_ = LONG_RUNNING
        ts.previous_ = NONE
        records.append(LongRunningMsg(
            key=ts.key, run_id=ts.run_id, compute_duration=None, stimulus_id=stimulus_id
        ))
    else:
        expect(ts.previous_ == FLIGHT, ts)
        ts.state_ = RESUMED
        ts.next_ = WAITING
    return 0


cdef int detour_long_running(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # Cancelled or resumed: to the scheduler this task does not run here, so it is told nothing
    expect(was_running(ts), ts)
    ts.previous_ = LONG_RUNNING
    state.executing.discard(ts)
    state.long_running.add(ts)
    return ensure_computing(state, recs)


cdef int resumed_fetch(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    if ts.previous_ != FLIGHT:
        if state.validate:
            expect(was_running(ts) and ts.next_ == FETCH and not ts.done, ts)
        return 0
    if state.validate:
        expect(ts.next_ == WAITING, ts)
    if ts.done:
        # The transfer brought nothing. Instead of asking another peer, compute it, as we were told.
        forget_detour(ts)
        recs.put(ts, WAITING)
    else:
        ts.state_ = FLIGHT
        ts.previous_ = NONE
        ts.next_ = NONE
    return 0


cdef int resumed_released(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect(not ts.done, ts)
    ts.state_ = CANCELLED
    ts.next_ = NONE
    return 0


cdef int resumed_memory(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # The scheduler expects an answer to what it asked for last, not to what was done
    cdef Report report
    expect_args(ts, args, 2)
    if was_running(ts):
        expect(ts.next_ == FETCH, ts)
        report = ADD_KEYS
    else:
        expect(ts.previous_ == FLIGHT and ts.next_ == WAITING, ts)
        report = TASK_FINISHED
    ts.previous_ = NONE
    ts.next_ = NONE
    return to_memory(state, ts, args, report, args[1], stimulus_id, recs, records)


cdef int resumed_error(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    # What failed is no longer wanted: go on with what is, and keep the error to ourselves
    expect(ts.done, ts)
    if was_running(ts):
        expect(ts.next_ == FETCH, ts)
    else:
        expect(ts.previous_ == FLIGHT and ts.next_ == WAITING, ts)
    recs.put(ts, ts.next_)
    return forget_detour(ts)


cdef int resumed_rescheduled(
    State state, TaskState ts, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    expect(ts.done and was_running(ts) and ts.next_ == FETCH, ts)
    forget_detour(ts)
    recs.put(ts, FETCH)
    return 0


TABLE[<int>CANCELLED][<int>ERROR] = cancelled_released
TABLE[<int>CANCELLED][<int>FETCH] = cancelled_fetch
TABLE[<int>CANCELLED][<int>LONG_RUNNING] = detour_long_running
TABLE[<int>CANCELLED][<int>MEMORY] = cancelled_released
TABLE[<int>CANCELLED][<int>MISSING] = cancelled_released
TABLE[<int>CANCELLED][<int>RELEASED] = cancelled_released
TABLE[<int>CANCELLED][<int>RESCHEDULED] = cancelled_released
TABLE[<int>CANCELLED][<int>WAITING] = cancelled_waiting
TABLE[<int>CONSTRAINED][<int>EXECUTING] = ready_executing
TABLE[<int>CONSTRAINED][<int>RELEASED] = any_released
TABLE[<int>ERROR][<int>RELEASED] = any_released
TABLE[<int>EXECUTING][<int>ERROR] = to_error
TABLE[<int>EXECUTING][<int>LONG_RUNNING] = executing_long_running
TABLE[<int>EXECUTING][<int>MEMORY] = executing_memory
TABLE[<int>EXECUTING][<int>RELEASED] = executing_released
TABLE[<int>EXECUTING][<int>RESCHEDULED] = executing_rescheduled
TABLE[<int>FETCH][<int>FLIGHT] = fetch_flight
TABLE[<int>FETCH][<int>MISSING] = fetch_missing
TABLE[<int>FETCH][<int>RELEASED] = fetch_released
TABLE[<int>FLIGHT][<int>ERROR] = to_error
TABLE[<int>FLIGHT][<int>FETCH] = flight_fetch
TABLE[<int>FLIGHT][<int>MEMORY] = flight_memory
TABLE[<int>FLIGHT][<int>MISSING] = flight_missing
TABLE[<int>FLIGHT][<int>RELEASED] = flight_released
TABLE[<int>LONG_RUNNING][<int>ERROR] = to_error
TABLE[<int>LONG_RUNNING][<int>MEMORY] = executing_memory
TABLE[<int>LONG_RUNNING][<int>RELEASED] = executing_released
TABLE[<int>LONG_RUNNING][<int>RESCHEDULED] = executing_rescheduled
TABLE[<int>MEMORY][<int>RELEASED] = memory_released
TABLE[<int>MISSING][<int>ERROR] = to_error
TABLE[<int>MISSING][<int>FETCH] = missing_fetch
TABLE[<int>MISSING][<int>RELEASED] = missing_released
TABLE[<int>MISSING][<int>WAITING] = missing_waiting
TABLE[<int>READY][<int>EXECUTING] = ready_executing
TABLE[<int>READY][<int>RELEASED] = any_released
TABLE[<int>RELEASED][<int>ERROR] = to_error
TABLE[<int>RELEASED][<int>FETCH] = released_fetch
TABLE[<int>RELEASED][<int>FORGOTTEN] = released_forgotten
TABLE[<int>RELEASED][<int>MEMORY] = released_memory
TABLE[<int>RELEASED][<int>MISSING] = released_missing
TABLE[<int>RELEASED][<int>WAITING] = released_waiting
TABLE[<int>RESUMED][<int>ERROR] = resumed_error
TABLE[<int>RESUMED][<int>FETCH] = resumed_fetch
TABLE[<int>RESUMED][<int>LONG_RUNNING] = detour_long_running
TABLE[<int>RESUMED][<int>MEMORY] = resumed_memory
TABLE[<int>RESUMED][<int>RELEASED] = resumed_released
TABLE[<int>RESUMED][<int>RESCHEDULED] = resumed_rescheduled
TABLE[<int>WAITING][<int>CONSTRAINED] = waiting_constrained
TABLE[<int>WAITING][<int>READY] = waiting_ready
TABLE[<int>WAITING][<int>RELEASED] = any_released

cdef set direct_transitions():
    cdef int start, finish
    return {
        (state_name(start), state_name(finish))
        for start in range(<int>N_STATES) for finish in range(<int>N_STATES)
        if TABLE[start][finish] != NULL
    }

#: All (start, finish) that are one transition; any other goes by way of released
TRANSITIONS = frozenset(direct_transitions())


cdef transition_t find_transition(int start, int finish) noexcept:
    return TABLE[start][finish]
