"""The loop that runs the recommended transitions until none is left."""

import logging

from fastworker.core.clock cimport monotonic, wall_clock
from fastworker.core.log cimport TRANSITION
from fastworker.core.planning cimport ensure_communicating
from fastworker.core.recommendations cimport Recs, from_named
from fastworker.core.state cimport State
from fastworker.core.states cimport FORGOTTEN, NONE, RELEASED, state_name
from fastworker.core.task cimport TaskState
from fastworker.core.transitions cimport find_transition, transition_t

from distributed._stories import worker_story
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker_state_machine import (
    InvalidTransition,
    RecommendationsConflict,
    TransitionCounterMaxExceeded,
)

from fastworker.core.validation import validate_task

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char* where) except *
    void Py_LeaveRecursiveCall()

logger = logging.getLogger("distributed.worker.state_machine")

cdef object NO_HOOK = WorkerPlugin.transition  # of a plugin without its own


cdef bint begin(State state) except -1:
    """Before each event. Returns whether any plugin has to be told of transitions."""
    state.now = wall_clock()
    return find_hooks(state)


cdef bint find_hooks(State state) except -1:
    """Whether any plugin has a `transition` method; lists those in `hooks`."""
    state.hooks = None
    # A copy: the event loop adds plugins without the lock
    for name, plugin in state.plugins.copy().items():
        if getattr(type(plugin), "transition", None) is not NO_HOOK or (
            "transition" in getattr(plugin, "__dict__", ())
        ):
            if hasattr(plugin, "transition"):
                if state.hooks is None:
                    state.hooks = []
                state.hooks.append((name, plugin))
    return state.hooks is not None


cdef int run_transitions(State state, Recs recs, object stimulus_id, list records) except -1:
    """Carry out recommendations and what they lead to, then see what can be fetched now.

    Fetching is planned once, at the end: only then is it known how many keys fit into one
    message to a peer.
    """
    exhaust(state, recs, stimulus_id, records)
    if state.data_needed:
        ensure_communicating(state, stimulus_id, recs, records)
        exhaust(state, recs, stimulus_id, records)
    if state.touched.n:
        count_touched(state)
    return 0


cdef int exhaust(State state, Recs recs, object stimulus_id, list records) except -1:
    """Follow recommendations, last in, first out; leaves `recs` empty."""
    cdef TaskState ts
    cdef Recs more = take_recs(state)
    cdef int finish
    cdef tuple args
    while recs.n:
        ts = recs.last()
        finish = recs.last_finish()
        args = recs.take_last()
        state.touch(ts)
        step(state, ts, finish, args, stimulus_id, more, records)
        if more.n:
            recs.absorb(more)
    give_recs(state, more)
    return 0


cdef Recs take_recs(State state):
    """Empty recommendations, for one event. An event needs two at a time."""
    cdef Recs recs = state.spare
    if recs is not None:
        state.spare = None
        return recs
    recs = state.other_spare
    if recs is not None:
        state.other_spare = None
        return recs
    return Recs.__new__(Recs)


cdef void give_recs(State state, Recs recs) noexcept:
    if state.spare is None:
        state.spare = recs
    else:
        state.other_spare = recs


cdef int step(
    State state, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    """One recommendation, through the `_transition` of a subclass if it has one."""
    if not state.overridden:
        return transition(state, ts, finish, args, stimulus_id, recs, records)
    name = state_name(finish)
    recommended, instructions = state._transition(
        ts, name if args is None else (name, *args), stimulus_id=stimulus_id
    )
    records.extend(instructions)
    return recs.absorb(from_named(recommended))


cdef int transition(
    State state, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    """One recommendation. `recs` comes in empty."""
    cdef int start = ts.state_
    cdef transition_t carry_out
    if start == finish:
        return 0
    # By way of released counts three times; counted first so that endless loops are caught
    state.transition_counter += 1
    if state.transition_counter_max and state.transition_counter >= state.transition_counter_max:
        raise invalid(state, TransitionCounterMaxExceeded, ts, start, finish)
    carry_out = find_transition(start, finish)
    if carry_out != NULL:
        carry_out(state, ts, args, stimulus_id, recs, records)
        if state.hooks is not None:
            notify_plugins(state, ts.key, start, finish)
    elif start != RELEASED and finish != RELEASED:
        # A cancelled task that is still busy does not get to released: without a bound, a
        # recommendation that it cannot follow would come back here for ever
        Py_EnterRecursiveCall(" in a transition by way of released")
        try:
            by_way_of_released(state, ts, finish, args, stimulus_id, recs, records)
        except (InvalidTransition, RecommendationsConflict) as e:
            raise invalid(state, InvalidTransition, ts, start, finish) from e
        finally:
            Py_LeaveRecursiveCall()
    else:
        raise invalid(state, InvalidTransition, ts, start, finish)
    return write_transition(state, ts, start, finish, recs, stimulus_id)


cdef object invalid(State state, object cls, TaskState ts, int start, int finish):
    return cls(
        ts.key, state_name(start), state_name(finish), worker_story({ts.key}, state.log)
    )


cdef int by_way_of_released(
    State state, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
) except -1:
    cdef Recs more = Recs.__new__(Recs)
    cdef Py_ssize_t i
    cdef int detour
    cdef tuple detour_args
    step(state, ts, RELEASED, None, stimulus_id, recs, records)
    while True:
        i = recs.find(ts)
        if i < 0:
            break
        detour = recs.items[i].finish
        detour_args = recs.take_at(i)
        # The way ends at `finish`: being forgotten is not on it
        if detour != FORGOTTEN:
            step(state, ts, detour, detour_args, stimulus_id, more, records)
            recs.merge(more)
    step(state, ts, finish, args, stimulus_id, more, records)
    return recs.merge(more)


cdef int write_transition(
    State state, TaskState ts, int start, int finish, Recs recs, object stimulus_id
) except -1:
    cdef int recommended = 0
    cdef Py_ssize_t i
    detail = None
    if recs.n == 1:
        recommended = recs.items[0].finish
        detail = (<TaskState>recs.items[0].task).key
    elif recs.n:
        detail = {
            (<TaskState>recs.items[i].task).key: state_name(recs.items[i].finish)
            for i in range(recs.n)
        }
    return state.log.write(
        TRANSITION, ts.key, detail, stimulus_id, state.now, start, finish, ts.state_, recommended
    )


cdef int notify_plugins(State state, object key, int start, int finish) except -1:
    for name, plugin in state.hooks:
        try:
            plugin.transition(key, state_name(start), state_name(finish))
        except Exception:
            logger.info("Plugin '%s' failed with exception", name, exc_info=True)
    return 0


cdef int count_touched(State state) except -1:
    """Count the tasks that may have changed state under the one they are in now."""
    cdef TaskState ts
    cdef int now_in
    cdef Py_ssize_t i
    cdef double now = monotonic()
    for i in range(state.touched.n):
        ts = <TaskState>state.touched.items[i].task
        ts.touched = False
        now_in = NONE if ts.state_ == FORGOTTEN else ts.state_
        if ts.counted != now_in and ts.counts is not None:
            ts.counts.move(ts.counted, now_in, now)
            ts.counted = <unsigned char>now_in
    if state.validate:
        for i in range(state.touched.n):
            validate_task(state, <TaskState>state.touched.items[i].task)
    return state.touched.clear()
