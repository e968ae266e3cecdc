"""The loop that runs the recommended transitions until none is left."""

import logging

from fastworker.core.clock cimport monotonic, wall_clock
from fastworker.core.log cimport TRANSITION
from fastworker.core.planning cimport Planner
from fastworker.core.recommendations cimport Recs, from_named
from fastworker.core.states cimport FORGOTTEN, NONE, RELEASED, real_state_code, state_name
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

cdef extern from "Python.h":
    int Py_EnterRecursiveCall(const char* where) except *
    void Py_LeaveRecursiveCall()

logger = logging.getLogger("distributed.worker.state_machine")

cdef object NO_HOOK = WorkerPlugin.transition  # of a plugin without its own


cdef class Machine(Planner):
    """Adds the transitions."""

    def __cinit__(self, *args, **kwargs):
        self.overridden = type(self)._transition is not Machine._transition

    cdef int begin(self) except -1:
        """Before each event."""
        self.now = wall_clock()
        self.find_hooks()
        return 0

    cdef bint find_hooks(self) except -1:
        """Whether any plugin has a `transition` method; lists those in `hooks`."""
        self.hooks = None
        # A copy: the event loop adds plugins without the lock
        for name, plugin in self.plugins.copy().items():
            if getattr(type(plugin), "transition", None) is not NO_HOOK or (
                "transition" in getattr(plugin, "__dict__", ())
            ):
                if hasattr(plugin, "transition"):
                    if self.hooks is None:
                        self.hooks = []
                    self.hooks.append((name, plugin))
        return self.hooks is not None

    cdef int run_transitions(self, Recs recs, object stimulus_id, list records) except -1:
        """Carry out recommendations and what they lead to, then see what can be fetched now.

        Fetching is planned once, at the end: only then is it known how many keys fit into one
        message to a peer.
        """
        self.exhaust(recs, stimulus_id, records)
        if self.data_needed:
            self.ensure_communicating(stimulus_id, recs, records)
            self.exhaust(recs, stimulus_id, records)
        if self.touched.n:
            self.count_touched()
        return 0

    cdef int exhaust(self, Recs recs, object stimulus_id, list records) except -1:
        """Follow recommendations, last in, first out; leaves `recs` empty."""
        cdef TaskState ts
        cdef Recs more = self.take_recs()
        cdef int finish
        cdef tuple args
        while recs.n:
            ts = recs.last()
            finish = recs.last_finish()
            args = recs.take_last()
            self.touch(ts)
            self.step(ts, finish, args, stimulus_id, more, records)
            if more.n:
                recs.absorb(more)
        self.give_recs(more)
        return 0

    cdef Recs take_recs(self):
        """Empty recommendations, for one event. An event needs two at a time."""
        cdef Recs recs = self.spare
        if recs is not None:
            self.spare = None
            return recs
        recs = self.other_spare
        if recs is not None:
            self.other_spare = None
            return recs
        return Recs.__new__(Recs)

    cdef void give_recs(self, Recs recs) noexcept:
        if self.spare is None:
            self.spare = recs
        else:
            self.other_spare = recs

    cdef int step(
        self, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
    ) except -1:
        """One recommendation, through the `_transition` of a subclass if it has one."""
        if not self.overridden:
            return self.transition(ts, finish, args, stimulus_id, recs, records)
        name = state_name(finish)
        recommended, instructions = self._transition(
            ts, name if args is None else (name, *args), stimulus_id=stimulus_id
        )
        records.extend(instructions)
        return recs.absorb(from_named(recommended))

    cdef int transition(
        self, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
    ) except -1:
        """One recommendation. `recs` comes in empty."""
        cdef int start = ts.state_
        cdef transition_t carry_out
        if start == finish:
            return 0
        # By way of released counts three times; counted first so that endless loops are caught
        self.transition_counter += 1
        if self.transition_counter_max and self.transition_counter >= self.transition_counter_max:
            raise self.invalid(TransitionCounterMaxExceeded, ts, start, finish)
        carry_out = find_transition(start, finish)
        if carry_out != NULL:
            carry_out(self, ts, args, stimulus_id, recs, records)
            if self.hooks is not None:
                self.notify_plugins(ts.key, start, finish)
        elif start != RELEASED and finish != RELEASED:
            # A cancelled task that is still busy does not get to released: without a bound, a
            # recommendation that it cannot follow would come back here for ever
            Py_EnterRecursiveCall(" in a transition by way of released")
            try:
                self.by_way_of_released(ts, finish, args, stimulus_id, recs, records)
            except (InvalidTransition, RecommendationsConflict) as e:
                raise self.invalid(InvalidTransition, ts, start, finish) from e
            finally:
                Py_LeaveRecursiveCall()
        else:
            raise self.invalid(InvalidTransition, ts, start, finish)
        return self.write_transition(ts, start, finish, recs, stimulus_id)

    cdef object invalid(self, object cls, TaskState ts, int start, int finish):
        return cls(
            ts.key, state_name(start), state_name(finish), worker_story({ts.key}, self.log)
        )

    cdef int by_way_of_released(
        self, TaskState ts, int finish, tuple args, object stimulus_id, Recs recs, list records
    ) except -1:
        cdef Recs more = Recs.__new__(Recs)
        cdef Py_ssize_t i
        cdef int step
        cdef tuple step_args
        self.step(ts, RELEASED, None, stimulus_id, recs, records)
        while True:
            i = recs.find(ts)
            if i < 0:
                break
            step = recs.items[i].finish
            step_args = recs.take_at(i)
            # The way ends at `finish`: being forgotten is not on it
            if step != FORGOTTEN:
                self.step(ts, step, step_args, stimulus_id, more, records)
                recs.merge(more)
        self.step(ts, finish, args, stimulus_id, more, records)
        return recs.merge(more)

    cdef int write_transition(
        self, TaskState ts, int start, int finish, Recs recs, object stimulus_id
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
        cdef Py_ssize_t i
        cdef double now = monotonic()
        for i in range(self.touched.n):
            ts = <TaskState>self.touched.items[i].task
            ts.touched = False
            state = NONE if ts.state_ == FORGOTTEN else ts.state_
            if ts.counted != state and ts.counts is not None:
                ts.counts.move(ts.counted, state, now)
                ts.counted = <unsigned char>state
        if self.validate:
            for i in range(self.touched.n):
                validate_task(self, <TaskState>self.touched.items[i].task)
        return self.touched.clear()

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
        cdef Recs recs = from_named(recommendations)
        with self.lock:
            self.begin()
            self.run_transitions(recs, stimulus_id, records)
        return to_instructions(records)

    def _transition(self, TaskState ts not None, finish, *args, stimulus_id):
        """Carry out one transition and nothing that it leads to. A subclass may override it.

        Returns
        -------
        ({TaskState: state or (state, *args)}, [Instruction])
            What it recommends for other tasks, and what the worker should do.
        """
        cdef list records = []
        cdef Recs recs = Recs.__new__(Recs)
        if type(finish) is tuple and finish:
            finish, *args = finish
        with self.lock:
            self.begin()
            self.touch(ts)
            self.transition(ts, real_state_code(finish), tuple(args), stimulus_id, recs, records)
        return recs.named(), to_instructions(records)

    def _ensure_computing(self):
        """Recommend ready tasks for execution while there are threads; see `_transition`."""
        cdef Recs recs = Recs.__new__(Recs)
        with self.lock:
            self.ensure_computing(recs)
        return recs.named(), []

    def _ensure_communicating(self, *, stimulus_id):
        """Recommend keys for flight, with a GatherDep for each peer; see `_transition`."""
        cdef Recs recs = Recs.__new__(Recs)
        cdef list records = []
        with self.lock:
            self.begin()
            self.ensure_communicating(stimulus_id, recs, records)
        return recs.named(), to_instructions(records)
