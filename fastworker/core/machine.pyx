"""The loop that follows recommendations from task to task until none is left."""

import logging

from fastworker.core.base cimport Base
from fastworker.core.clock cimport monotonic, wall_clock
from fastworker.core.log cimport TRANSITION
from fastworker.core.planning cimport Planner
from fastworker.core.states cimport (
    FORGOTTEN, NONE, RELEASED, finish_code, finish_name, state_code, state_name,
)
from fastworker.core.task cimport TaskState
from fastworker.core.transitions cimport find_transition, transition_t

from distributed._stories import worker_story
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker_state_machine import (
    InvalidTransition,
    RecommendationsConflict,
    TransitionCounterMaxExceeded,
)

from fastworker.core.records import to_instructions
from fastworker.core.validation import validate_task

logger = logging.getLogger("distributed.worker.state_machine")

cdef object NO_HOOK = WorkerPlugin.transition  # what a plugin has that does not want to know


cdef int merge(dict into, dict recs) except -1:
    """Raises RecommendationsConflict where both recommend something else for the same task."""
    for ts, finish in recs.items():
        if ts in into and into[ts] != finish:
            raise RecommendationsConflict(
                f"{ts.key!r} should go to both {finish_name(into[ts])!r} "
                f"and {finish_name(finish)!r}"
            )
        into[ts] = finish
    return 0


cdef class Machine(Planner):
    """Adds the transitions."""

    cdef int begin(self) except -1:
        """Before each event."""
        self.now = wall_clock()
        self.hooks = None
        for name, plugin in self.plugins.items():
            if getattr(type(plugin), "transition", None) is not NO_HOOK or (
                "transition" in getattr(plugin, "__dict__", ())
            ):
                if hasattr(plugin, "transition"):
                    if self.hooks is None:
                        self.hooks = []
                    self.hooks.append((name, plugin))
        return 0

    cdef int follow(self, dict recs, object stimulus_id, list records) except -1:
        """Carry out recommendations and what they lead to, then see what can be fetched now.

        The last comes once, at the end: only then is it known how many keys a peer can be asked for
        in one message.
        """
        cdef dict to_fetch
        self.exhaust(recs, stimulus_id, records)
        if self.data_needed:
            to_fetch = {}
            self.ensure_communicating(stimulus_id, to_fetch, records)
            self.exhaust(to_fetch, stimulus_id, records)
        if self.touched:
            self.count_touched()
        return 0

    cdef int exhaust(self, dict recs, object stimulus_id, list records) except -1:
        """Follow recommendations, last in, first out; leaves `recs` empty."""
        cdef TaskState ts
        cdef dict more = {}
        while recs:
            ts, finish = recs.popitem()
            self.touch(ts)
            self.transition(ts, finish, stimulus_id, more, records)
            if more:
                recs.update(more)
                more.clear()
        return 0

    cdef int transition(
        self, TaskState ts, object finish, object stimulus_id, dict recs, list records
    ) except -1:
        """One recommendation. `recs` comes in empty."""
        cdef tuple args = None
        cdef int code
        cdef int start = ts.state_
        cdef transition_t carry_out
        if type(finish) is tuple:
            args = <tuple>finish
            code = args[0]
        else:
            code = finish
        if start == code:
            return 0
        # By way of released counts three times; counted first so that endless loops are caught
        self.transition_counter += 1
        if self.transition_counter_max and self.transition_counter >= self.transition_counter_max:
            raise TransitionCounterMaxExceeded(
                ts.key, state_name(start), state_name(code), self.story_of(ts.key)
            )
        carry_out = find_transition(start, code)
        if carry_out != NULL:
            carry_out(self, ts, args, stimulus_id, recs, records)
            if self.hooks is not None:
                self.notify_plugins(ts.key, start, code)
        elif start != RELEASED and code != RELEASED:
            try:
                self.by_way_of_released(ts, finish, stimulus_id, recs, records)
            except (InvalidTransition, RecommendationsConflict) as e:
                raise InvalidTransition(
                    ts.key, state_name(start), state_name(code), self.story_of(ts.key)
                ) from e
        else:
            raise InvalidTransition(
                ts.key, state_name(start), state_name(code), self.story_of(ts.key)
            )
        return self.write_transition(ts, start, code, recs, stimulus_id)

    cdef int by_way_of_released(
        self, TaskState ts, object finish, object stimulus_id, dict recs, list records
    ) except -1:
        cdef dict more = {}
        self.transition(ts, RELEASED, stimulus_id, recs, records)
        while ts in recs:
            step = recs.pop(ts)
            # The way ends at `finish`: being forgotten is not on it
            if step != FORGOTTEN:
                more.clear()
                self.transition(ts, step, stimulus_id, more, records)
                merge(recs, more)
        more.clear()
        self.transition(ts, finish, stimulus_id, more, records)
        return merge(recs, more)

    cdef int write_transition(
        self, TaskState ts, int start, int finish, dict recs, object stimulus_id
    ) except -1:
        cdef int recommended = 0
        detail = None
        if len(recs) == 1:
            for other, detail in recs.items():
                recommended = detail[0] if type(detail) is tuple else detail
                detail = (<TaskState>other).key
        elif recs:
            detail = {}
            for other, to in recs.items():
                to = to[0] if type(to) is tuple else to
                detail[(<TaskState>other).key] = state_name(to)
        return self.log.write(
            TRANSITION, ts.key, detail, stimulus_id, self.now, start, finish, ts.state_, recommended
        )

    cdef int notify_plugins(self, object key, int start, int finish) except -1:
        for name, plugin in self.hooks:
            try:
                plugin.transition(key, state_name(start), state_name(finish))
            except Exception:
                logger.info("Plugin '%s' failed with exception", name, exc_info=True)
        return 0

    cdef int count_touched(self) except -1:
        """Count the tasks that may have changed state under the one they are in now."""
        cdef TaskState ts
        cdef int state
        cdef double now = monotonic()
        cdef list touched = self.touched
        self.touched = []
        for ts in touched:
            ts.touched = False
            state = NONE if ts.state_ == FORGOTTEN else ts.state_
            if ts.counted != state and ts.counts is not None:
                ts.counts.move(ts.counted, state, now)
                ts.counted = <unsigned char>state
        if self.validate:
            for ts in touched:
                validate_task(self, ts)
        return 0

    cdef list story_of(self, object key):
        return worker_story({key}, self.log)

    # ------------------------------------------------------------------------------ for Python

    def _transitions(self, recommendations, *, stimulus_id):
        """Follow recommendations ``{TaskState: state or (state, *args)}`` to the end.

        Returns
        -------
        list of distributed.worker_state_machine.Instruction

        Raises
        ------
        ValueError
            For a state that does not exist.
        distributed.worker_state_machine.InvalidTransition
            For one that cannot be reached from the task's present state.
        """
        cdef list records = []
        cdef dict recs = {}
        for ts, finish in recommendations.items():
            if not isinstance(ts, TaskState):
                raise TypeError(f"recommendations are for tasks; got {ts!r}")
            recs[ts] = finish_code(finish)
        self.begin()
        self.follow(recs, stimulus_id, records)
        return to_instructions(records)

    def _transition(self, TaskState ts not None, finish, *args, stimulus_id):
        """Carry out one transition and nothing that it leads to.

        Returns
        -------
        ({TaskState: state or (state, *args)}, [Instruction])
            What it recommends for other tasks, and what the worker should do.
        """
        cdef list records = []
        cdef dict recs = {}
        if args:
            finish = (finish, *args)
        self.begin()
        self.touch(ts)
        self.transition(ts, finish_code(finish), stimulus_id, recs, records)
        return named(recs), to_instructions(records)

    def _ensure_computing(self):
        """Recommend ready tasks for execution while there are threads; see `_transition`."""
        cdef dict recs = {}
        self.ensure_computing(recs)
        return named(recs), []

    def _ensure_communicating(self, *, stimulus_id):
        """Recommend keys for flight, with a GatherDep for each peer; see `_transition`."""
        cdef dict recs = {}
        cdef list records = []
        self.begin()
        self.ensure_communicating(stimulus_id, recs, records)
        return named(recs), to_instructions(records)


cdef dict named(dict recs):
    return {ts: finish_name(finish) for ts, finish in recs.items()}
