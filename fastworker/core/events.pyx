"""What each stimulus does to the state, before any recommendation is followed."""

import logging

from fastworker.core.arrivals cimport report_finished
from fastworker.core.log cimport (
    CANCEL_COMPUTE, COMPUTE_TASK, FREE_KEYS, MISSING_DEP, RECEIVE_FROM_SCATTER, REMOVE_REPLICA,
)
from fastworker.core.machine cimport begin, give_recs, run_transitions, take_recs
from fastworker.core.messages cimport (
    ComputeTask, FreeKeys, Success, compute_task_of, free_keys_of, success_of,
)
from fastworker.core.planning cimport ensure_computing
from fastworker.core.priority cimport append
from fastworker.core.recommendations cimport Recs
from fastworker.core.state cimport State, expect
from fastworker.core.states cimport (
    CONSTRAINED, ERROR, EXECUTING, FETCH, FLIGHT, LONG_RUNNING, MEMORY, MISSING, NONE, READY,
    RELEASED, RESCHEDULED, WAITING, state_name,
)
from fastworker.core.task cimport (
    NO_RUN_ID, TaskState, add_compute_times, clear_error, need, set_nbytes, set_priority,
)

from distributed.worker_state_machine import (
    AcquireReplicasEvent,
    CancelComputeEvent,
    ComputeTaskEvent,
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
    FindMissingEvent,
    FreeKeysEvent,
    GatherDepBusyEvent,
    GatherDepFailureEvent,
    GatherDepNetworkFailureEvent,
    GatherDepSuccessEvent,
    PauseEvent,
    RefreshWhoHasEvent,
    RemoveReplicasEvent,
    RemoveWorkerEvent,
    RequestRefreshWhoHasMsg,
    RescheduleEvent,
    RetryBusyWorkerEvent,
    RetryBusyWorkerLater,
    SecedeEvent,
    StealRequestEvent,
    StealResponseMsg,
    UnpauseEvent,
    UpdateDataEvent,
)

from fastworker.core.partial import GatherDepPartialEvent

logger = logging.getLogger("distributed.worker.state_machine")

cdef enum Code:
    ACQUIRE_REPLICAS_EVENT = 1
    CANCEL_COMPUTE_EVENT
    COMPUTE_TASK_EVENT
    EXECUTE_FAILURE_EVENT
    EXECUTE_SUCCESS_EVENT
    FIND_MISSING_EVENT
    FREE_KEYS_EVENT
    GATHER_BUSY_EVENT
    GATHER_FAILURE_EVENT
    GATHER_NETWORK_FAILURE_EVENT
    GATHER_PARTIAL_EVENT
    GATHER_SUCCESS_EVENT
    PAUSE_EVENT
    REFRESH_WHO_HAS_EVENT
    REMOVE_REPLICAS_EVENT
    REMOVE_WORKER_EVENT
    RESCHEDULE_EVENT
    RETRY_BUSY_WORKER_EVENT
    SECEDE_EVENT
    STEAL_REQUEST_EVENT
    UNPAUSE_EVENT
    UPDATE_DATA_EVENT

cdef dict CODES = {
    AcquireReplicasEvent: ACQUIRE_REPLICAS_EVENT,
    CancelComputeEvent: CANCEL_COMPUTE_EVENT,
    ComputeTaskEvent: COMPUTE_TASK_EVENT,
    ExecuteFailureEvent: EXECUTE_FAILURE_EVENT,
    ExecuteSuccessEvent: EXECUTE_SUCCESS_EVENT,
    FindMissingEvent: FIND_MISSING_EVENT,
    FreeKeysEvent: FREE_KEYS_EVENT,
    GatherDepBusyEvent: GATHER_BUSY_EVENT,
    GatherDepFailureEvent: GATHER_FAILURE_EVENT,
    GatherDepNetworkFailureEvent: GATHER_NETWORK_FAILURE_EVENT,
    GatherDepPartialEvent: GATHER_PARTIAL_EVENT,
    GatherDepSuccessEvent: GATHER_SUCCESS_EVENT,
    PauseEvent: PAUSE_EVENT,
    RefreshWhoHasEvent: REFRESH_WHO_HAS_EVENT,
    RemoveReplicasEvent: REMOVE_REPLICAS_EVENT,
    RemoveWorkerEvent: REMOVE_WORKER_EVENT,
    RescheduleEvent: RESCHEDULE_EVENT,
    RetryBusyWorkerEvent: RETRY_BUSY_WORKER_EVENT,
    SecedeEvent: SECEDE_EVENT,
    StealRequestEvent: STEAL_REQUEST_EVENT,
    UnpauseEvent: UNPAUSE_EVENT,
    UpdateDataEvent: UPDATE_DATA_EVENT,
}


cdef int code_of(object cls) except -1:
    """Raises TypeError for a class that is no known event nor derived from one."""
    for base in cls.__mro__:
        code = CODES.get(base)
        if code is not None:
            CODES[cls] = code
            return code
    raise TypeError(
        f"{cls.__module__}.{cls.__qualname__} is not an event that a worker's state can handle"
    )


# ------------------------------------------------------------------------------------ the ways in

cdef int process(State state, object stimulus, list records) except -1:
    """Handle an event or a message, with all that follows from it; the lock is held."""
    begin(state)
    return process_begun(state, stimulus, records)


cdef int process_begun(State state, object stimulus, list records) except -1:
    """The same for a caller that has just called `begin`."""
    cdef Recs recs = take_recs(state)
    if type(stimulus) is ComputeTaskEvent:
        stimulus = compute_task_of(stimulus)
    elif type(stimulus) is ExecuteSuccessEvent:
        stimulus = success_of(stimulus)
    elif type(stimulus) is FreeKeysEvent:
        stimulus = free_keys_of(stimulus)
    if type(stimulus) is ComputeTask:
        stimulus_id = (<ComputeTask>stimulus).stimulus_id
        state.stimulus_log.write_compute_task(<ComputeTask>stimulus, state.now)
        on_compute_task(state, <ComputeTask>stimulus, recs, records)
    elif type(stimulus) is Success:
        stimulus_id = (<Success>stimulus).stimulus_id
        state.stimulus_log.write_success(<Success>stimulus, state.now)
        on_success(state, <Success>stimulus, recs)
    elif type(stimulus) is FreeKeys:
        stimulus_id = (<FreeKeys>stimulus).stimulus_id
        state.stimulus_log.write_free_keys(<FreeKeys>stimulus, state.now)
        on_free_keys(state, <FreeKeys>stimulus, recs)
    else:
        state.stimulus_log.write_event(stimulus, state.now)
        handle(state, stimulus, recs, records)
        stimulus_id = stimulus.stimulus_id
    run_transitions(state, recs, stimulus_id, records)
    give_recs(state, recs)
    return 0


# ------------------------------------------------------------------------------------- the frequent

cdef int on_compute_task(State state, ComputeTask task, Recs recs, list records) except -1:
    cdef TaskState dep
    cdef TaskState ts = state.tasks.get(task.key)
    cdef int found_in
    stimulus_id = task.stimulus_id
    if type(task.priority) is not tuple:
        raise TypeError(
            f"priority of {task.key!r} must be a tuple of numbers; got {task.priority!r}"
        )
    if ts is None:
        ts = state.create_task(task.key)
    elif logger.isEnabledFor(logging.DEBUG):
        logger.debug("Asked to compute %s, already known (stimulus_id=%s)", ts, stimulus_id)
    found_in = ts.state_
    state.log.write(COMPUTE_TASK, ts.key, None, stimulus_id, state.now, found_in)
    ts.run_id = task.run_id

    if (
        found_in == READY or found_in == CONSTRAINED or found_in == EXECUTING
        or found_in == LONG_RUNNING or found_in == WAITING
    ):
        return 0
    if found_in == MEMORY:
        records.append(report_finished(state, ts, task.run_id, stimulus_id))
        return 0

    recs.put(ts, WAITING)
    state.lock.discard(ts.run_spec)
    ts.run_spec = task.run_spec
    # Newest first among those that the scheduler finds equally urgent
    set_priority(ts, task.priority)
    if not append(&ts.prio, state.generation):
        set_priority(ts, (*task.priority, state.generation))
    state.generation -= 1
    if task.actor:
        state.actors[ts.key] = None
    state.discard_error(ts)
    clear_error(ts, True)
    ts.annotations = task.annotations
    ts.span_id = task.span_id
    # While it still runs, the resources to be given back are those it took
    if ts.previous_ != EXECUTING and ts.previous_ != LONG_RUNNING:
        ts.resource_restrictions_ = task.resource_restrictions

    if state.validate and (task.who_has or task.nbytes):
        expect((task.who_has or {}).keys() == (task.nbytes or {}).keys(), task.who_has)
        for workers in task.who_has.values():
            expect(bool(workers) and len(workers) == len(set(workers)), task.who_has)
    if task.nbytes:
        if ts.dependencies_ is None:
            ts.dependencies_ = set()
        for dep_key, dep_nbytes in task.nbytes.items():
            dep = state.ensure_task_exists(dep_key, ts, stimulus_id)
            if dep.state_ != MEMORY:
                set_nbytes(dep, dep_nbytes)
            ts.dependencies_.add(dep)
            if dep.dependents_ is None:
                dep.dependents_ = set()
            dep.dependents_.add(ts)
    if task.who_has:
        state.update_who_has(task.who_has)
    return 0


cdef int on_success(State state, Success message, Recs recs) except -1:
    cdef TaskState ts = end_execution(state, message.key, recs)
    add_compute_times(ts, message.start, message.stop)
    set_nbytes(ts, message.nbytes)
    ts.type = message.type
    recs.put_args(ts, MEMORY, (message.value, message.run_id))
    return 0


cdef int on_data(
    State state, object worker, object total_nbytes, object data, object stimulus_id, Recs recs
) except -1:
    """A transfer came through; it may hold less than was asked for."""
    cdef TaskState ts
    for ts in end_transfer(state, worker, total_nbytes):
        if ts.key in data:
            recs.put_args(ts, MEMORY, (data[ts.key], ts.run_id))
            continue
        state.log.write(MISSING_DEP, ts.key, None, stimulus_id, state.now)
        if state.validate:
            expect(ts.state_ != FETCH and ts not in state.data_needed[worker], ts)
        if ts.who_has_ is not None:
            ts.who_has_.discard(worker)
        if worker in state.has_what:
            state.has_what[worker].discard(ts.key)
        recs.put(ts, FETCH)
    return 0


cdef int on_free_keys(State state, FreeKeys free, Recs recs) except -1:
    cdef TaskState ts
    state.log.write(FREE_KEYS, free.keys, None, free.stimulus_id, state.now)
    for key in free.keys:
        ts = state.tasks.get(key)
        if ts is not None:
            recs.put(ts, RELEASED)
    return 0


# -------------------------------------------------------------------------------- shared by several

cdef list end_transfer(State state, object worker, object total_nbytes):
    """The tasks of a transfer that has ended, in whichever state they are by now."""
    cdef TaskState ts
    cdef list out = []
    state.transfer_incoming_bytes -= total_nbytes
    for key in state.in_flight_workers.pop(worker):
        ts = state.tasks[key]
        ts.done = True
        ts.coming_from = None
        state.in_flight_tasks.remove(ts)
        out.append(ts)
    return out


cdef TaskState end_execution(State state, object key, Recs recs):
    """The task whose code has ended, in whichever state it is by now; its thread is free."""
    cdef TaskState ts = state.tasks.get(key)
    expect(ts is not None, key)
    if state.validate:
        expect((ts in state.executing) != (ts in state.long_running), ts)
    ts.done = True
    state.executed_count += 1
    state.take_resources(ts, -1)
    state.executing.discard(ts)
    state.long_running.discard(ts)
    ensure_computing(state, recs)
    expect(not recs.has(ts), ts)
    return ts


# ----------------------------------------------------------------------------------- event by event

cdef int handle(State state, object event, Recs recs, list records) except -1:
    cdef TaskState ts
    cdef object number = CODES.get(type(event))
    cdef int code = code_of(type(event)) if number is None else number
    if code == COMPUTE_TASK_EVENT:
        return on_compute_task(state, compute_task_of(event), recs, records)
    if code == EXECUTE_SUCCESS_EVENT:
        return on_success(state, success_of(event), recs)
    if code == GATHER_SUCCESS_EVENT:
        return on_data(
            state, event.worker, event.total_nbytes, event.data, event.stimulus_id, recs
        )
    if code == GATHER_PARTIAL_EVENT:
        return handle_partial(state, event, recs, records)
    if code == FREE_KEYS_EVENT:
        return on_free_keys(state, free_keys_of(event), recs)
    if code == UPDATE_DATA_EVENT:
        return handle_update_data(state, event, recs)
    if code == ACQUIRE_REPLICAS_EVENT:
        return handle_acquire_replicas(state, event, recs)
    if code == REMOVE_REPLICAS_EVENT:
        return handle_remove_replicas(state, event, recs)
    if code == REFRESH_WHO_HAS_EVENT:
        return handle_refresh_who_has(state, event, recs)
    if code == GATHER_BUSY_EVENT:
        return handle_busy(state, event, recs, records)
    if code == GATHER_NETWORK_FAILURE_EVENT:
        return handle_network_failure(state, event, recs)
    if code == GATHER_FAILURE_EVENT:
        return handle_gather_failure(state, event, recs)
    if code == REMOVE_WORKER_EVENT:
        return handle_remove_worker(state, event, recs)
    if code == EXECUTE_FAILURE_EVENT:
        return handle_failure(state, event, recs)
    if code == STEAL_REQUEST_EVENT:
        return handle_steal_request(state, event, recs, records)
    if code == CANCEL_COMPUTE_EVENT:
        return handle_cancel_compute(state, event, recs)
    if code == FIND_MISSING_EVENT:
        return handle_find_missing(state, event, records)
    if code == RESCHEDULE_EVENT:
        ts = end_execution(state, event.key, recs)
        recs.put(ts, RESCHEDULED)
    elif code == SECEDE_EVENT:
        ts = state.tasks.get(event.key)
        if ts is not None:
            recs.put_args(ts, LONG_RUNNING, (event.compute_duration,))
    elif code == RETRY_BUSY_WORKER_EVENT:
        state.busy_workers.discard(event.worker)
    elif code == PAUSE_EVENT:
        state.running = False
    else:
        state.running = True
        ensure_computing(state, recs)
    return 0


cdef int handle_update_data(State state, object ev, Recs recs) except -1:
    """Data scattered by a client: into memory, in whichever state the task was."""
    cdef TaskState ts
    for key, value in ev.data.items():
        ts = state.tasks.get(key)
        if ts is None:
            ts = state.create_task(key)
        recs.put_args(ts, MEMORY, (value, NO_RUN_ID))
        state.log.write(RECEIVE_FROM_SCATTER, key, None, ev.stimulus_id, state.now, ts.state_)
    return 0


cdef int handle_acquire_replicas(State state, object ev, Recs recs) except -1:
    cdef TaskState ts
    if state.validate:
        expect(ev.who_has.keys() == ev.nbytes.keys(), ev)
        expect(all(ev.who_has.values()), ev)
    for key, nbytes in ev.nbytes.items():
        ts = state.ensure_task_exists(key, None, ev.stimulus_id)
        if ts.state_ != MEMORY:
            set_nbytes(ts, nbytes)
            recs.put(ts, FETCH)
    return state.update_who_has(ev.who_has)


cdef int handle_remove_replicas(State state, object ev, Recs recs) except -1:
    """Only what is in memory goes, and nothing that a running task may be about to read."""
    cdef TaskState ts, dep
    for key in ev.keys:
        ts = state.tasks.get(key)
        if ts is None or ts.state_ != MEMORY:
            continue
        for dep in need(ts.dependents_):
            if dep.state_ == EXECUTING or dep.state_ == LONG_RUNNING:
                raise RuntimeError(
                    f"cannot remove the replica of {key!r}: "
                    f"{dep.key!r} is {state_name(dep.state_)} and needs it"
                )
        state.log.write(REMOVE_REPLICA, ts.key, None, ev.stimulus_id, state.now)
        recs.put(ts, RELEASED)
    return 0


cdef int handle_refresh_who_has(State state, object ev, Recs recs) except -1:
    cdef TaskState ts
    state.update_who_has(ev.who_has)
    for key in ev.who_has:
        ts = state.tasks.get(key)
        if ts is None:
            continue
        if ts.who_has_ and ts.state_ == MISSING:
            recs.put(ts, FETCH)
        elif not ts.who_has_ and ts.state_ == FETCH:
            recs.put(ts, MISSING)
    return 0


cdef int handle_busy(State state, object ev, Recs recs, list records) except -1:
    """Send the peer no requests for a while; look for other holders of the keys."""
    cdef TaskState ts
    cdef list nowhere_else = []
    state.busy_workers.add(ev.worker)
    for ts in end_transfer(state, ev.worker, ev.total_nbytes):
        recs.put(ts, FETCH)
        if need(ts.who_has_) <= state.busy_workers:
            nowhere_else.append(ts.key)
    records.append(RetryBusyWorkerLater(worker=ev.worker, stimulus_id=ev.stimulus_id))
    if nowhere_else:
        records.append(RequestRefreshWhoHasMsg(keys=nowhere_else, stimulus_id=ev.stimulus_id))
    return 0


cdef int handle_partial(State state, object ev, Recs recs, list records) except -1:
    """What came cannot be read in part: an error of the tasks that wait for that part.

    They and the unreadable keys are released while the transfer counts as under way, so that its
    end finds cancelled what is not needed any more.
    """
    cdef TaskState ts, dep
    cdef list lost = []
    for key in ev.unreadable:
        ts = state.tasks.get(key)
        if ts is not None and ts.state_ == FLIGHT:  # or else it is not needed, or computed here
            lost.append(ts)
            recs.put(ts, RELEASED)
    # What is recommended last is followed first
    for ts in lost:
        error = ev.unreadable[ts.key]
        for dep in need(ts.dependents_):
            if dep.state_ == WAITING and not recs.has(dep):
                recs.put_args(dep, ERROR, (
                    error["exception"], error["traceback"], error["exception_text"],
                    error["traceback_text"], dep.run_id,
                ))
    run_transitions(state, recs, ev.stimulus_id, records)
    return on_data(state, ev.worker, ev.total_nbytes, ev.data, ev.stimulus_id, recs)


cdef int handle_network_failure(State state, object ev, Recs recs) except -1:
    """Take the peer for dead: forget it as a holder of all keys."""
    cdef TaskState ts
    for ts in end_transfer(state, ev.worker, ev.total_nbytes):
        state.log.write(MISSING_DEP, ts.key, None, ev.stimulus_id, state.now)
        recs.put(ts, FETCH)
    return handle_remove_worker(state, ev, recs)


cdef int handle_gather_failure(State state, object ev, Recs recs) except -1:
    """What came could not be read: an error of every task of the transfer."""
    cdef TaskState ts
    for ts in end_transfer(state, ev.worker, ev.total_nbytes):
        recs.put_args(ts, ERROR, (
            ev.exception, ev.traceback, ev.exception_text, ev.traceback_text, ts.run_id
        ))
    return 0


cdef int handle_remove_worker(State state, object ev, Recs recs) except -1:
    cdef list missing = []
    state.forget_holder(ev.worker, missing)
    for ts in missing:
        recs.put(ts, MISSING)
    return 0


cdef int handle_failure(State state, object ev, Recs recs) except -1:
    cdef TaskState ts = end_execution(state, ev.key, recs)
    if ev.start is not None and ev.stop is not None:
        add_compute_times(ts, ev.start, ev.stop)
    recs.put_args(ts, ERROR, (
        ev.exception, ev.traceback, ev.exception_text, ev.traceback_text, ev.run_id
    ))
    return 0


cdef int handle_steal_request(State state, object ev, Recs recs, list records) except -1:
    """Release the task if it has not begun. A constrained one holds no resources yet."""
    cdef TaskState ts = state.tasks.get(ev.key)
    cdef int found_in = NONE if ts is None else ts.state_
    records.append(StealResponseMsg(
        key=ev.key, state=state_name(found_in), stimulus_id=ev.stimulus_id
    ))
    if found_in == READY or found_in == CONSTRAINED or found_in == WAITING:
        recs.put(ts, RELEASED)
    return 0


cdef int handle_cancel_compute(State state, object ev, Recs recs) except -1:
    """Release the task if it has not begun."""
    cdef TaskState ts = state.tasks.get(ev.key)
    if ts is None or not (
        ts.state_ == READY or ts.state_ == CONSTRAINED or ts.state_ == WAITING
    ):
        return 0
    state.log.write(CANCEL_COMPUTE, ts.key, None, ev.stimulus_id, state.now)
    expect(not ts.dependents_, ts)
    recs.put(ts, RELEASED)
    return 0


cdef int handle_find_missing(State state, object ev, list records) except -1:
    cdef TaskState ts
    if not state.missing_dep_flight:
        return 0
    if state.validate:
        for ts in state.missing_dep_flight:
            expect(not ts.who_has_, ts)
    records.append(RequestRefreshWhoHasMsg(
        keys=[(<TaskState>ts).key for ts in state.missing_dep_flight],
        stimulus_id=ev.stimulus_id,
    ))
    return 0
