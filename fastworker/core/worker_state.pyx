"""The state as Python code sees it."""

from distributed._stories import worker_story
from distributed.utils import recursive_to_dict

from fastworker.core.events cimport process
from fastworker.core.machine cimport begin, run_transitions, transition
from fastworker.core.planning cimport (
    ensure_communicating, ensure_computing, select_keys, throttled,
)
from fastworker.core.ready cimport ReadyQueue
from fastworker.core.records cimport to_instructions
from fastworker.core.recommendations cimport Recs, from_named
from fastworker.core.state cimport State
from fastworker.core.states cimport real_state_code
from fastworker.core.task cimport TaskState

from fastworker.core import validation
from fastworker.core.transitions import TRANSITIONS


cdef set keys_of(tuple keys_or_tasks):
    return {(<TaskState>x).key if isinstance(x, TaskState) else x for x in keys_or_tasks}


cdef class WorkerState(State):
    """State machine of all tasks on a worker: stimuli in, instructions out.

    It takes the same arguments and events, gives the same instructions and has the same attributes
    as ``distributed.worker_state_machine.WorkerState``, which defines what they mean. It does no
    I/O and starts no threads. Any thread may call it. `lock` is held while a stimulus is handled; a
    caller that reads several attributes holds it too, so that they are of one moment.

    Parameters
    ----------
    nthreads: int
        How many tasks may run at once.
    address: str
        The worker's own address. May be set later, before the first stimulus.
    data: MutableMapping
        Where results are kept.
    threads: dict
        {key: thread id}, filled in by the worker.
    plugins: dict
        {name: WorkerPlugin}; their ``transition`` methods are told of every transition.
    resources: dict
        {name: amount} of the abstract resources that tasks can ask for.
    transfer_incoming_count_limit: int
        How many peers to fetch from at once.
    validate: bool
        Check invariants after each stimulus: slow, for tests.
    transition_counter_max: int or False
        Raise TransitionCounterMaxExceeded at this many transitions, to catch endless loops.
    transfer_incoming_bytes_limit: float
        How many bytes may be on their way to this worker at once.
    transfer_message_bytes_limit: float
        How many bytes to ask one peer for at once.
    """

    _TRANSITIONS_TABLE = {pair: "-".join(pair) for pair in sorted(TRANSITIONS)}

    def __cinit__(self, *args, **kwargs):
        self.overridden = type(self)._transition is not WorkerState._transition

    # --------------------------------------------------------------------------------- stimuli

    def handle_stimulus(self, *stims):
        """Process events of ``distributed.worker_state_machine``, one after the other.

        Returns
        -------
        list of distributed.worker_state_machine.Instruction

        Raises
        ------
        TypeError
            For something that is no such event.
        distributed.worker_state_machine.InvalidTransition, InvalidTaskState
            As distributed's, on a broken state.
        """
        return to_instructions(self.handle_events(stims))

    def handle_events(self, tuple stims):
        """The same for events and messages (messages.pxd); returns records (records.pxd)."""
        cdef list records = []
        with self.lock:
            for stimulus in stims:
                process(self, stimulus, records)
        return records

    # ---------------------------------------------------------------------------- in small steps

    def _select_keys_for_gather(self, ReadyQueue available not None):
        """Take from a peer's queue what fits into one message.

        Returns
        -------
        (list of TaskState, int)
            The tasks, gone from all queues of ``data_needed``, and their size in bytes.
        """
        to_gather = []
        nbytes = select_keys(self, available, to_gather)
        return to_gather, nbytes

    def _should_throttle_incoming_transfers(self):
        return throttled(self)

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
            begin(self)
            run_transitions(self, recs, stimulus_id, records)
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
            begin(self)
            self.touch(ts)
            transition(self, ts, real_state_code(finish), tuple(args), stimulus_id, recs, records)
        return recs.named(), to_instructions(records)

    def _ensure_computing(self):
        """Recommend ready tasks for execution while there are threads; see `_transition`."""
        cdef Recs recs = Recs.__new__(Recs)
        with self.lock:
            ensure_computing(self, recs)
        return recs.named(), []

    def _ensure_communicating(self, *, stimulus_id):
        """Recommend keys for flight, with a GatherDep for each peer; see `_transition`."""
        cdef Recs recs = Recs.__new__(Recs)
        cdef list records = []
        with self.lock:
            begin(self)
            ensure_communicating(self, stimulus_id, recs, records)
        return recs.named(), to_instructions(records)

    # -------------------------------------------------------------------------------- accessors

    @property
    def executing_count(self):
        """How many tasks occupy one of `nthreads`; seceded ones do not."""
        return len(self.executing)

    @property
    def all_running_tasks(self):
        """All tasks whose code is running: executing, long-running, and those of them that have
        been cancelled or resumed since.
        """
        with self.lock:
            return self.executing | self.long_running

    @property
    def in_flight_tasks_count(self):
        """How many keys are on their way from peers."""
        return len(self.in_flight_tasks)

    @property
    def transfer_incoming_count(self):
        """How many peers keys are on their way from."""
        return len(self.in_flight_workers)

    def _update_who_has(self, who_has):
        """Replace what is known of the holders of some keys: ``{key: addresses}``."""
        with self.lock:
            self.update_who_has(who_has)

    # ------------------------------------------------------------------------------ diagnostics

    def story(self, *keys_or_tasks_or_stimuli):
        """The records of the transition log that name any of these keys, tasks or stimulus ids."""
        return worker_story(keys_of(keys_or_tasks_or_stimuli), self.log)

    def stimulus_story(self, *keys_or_tasks):
        """The events of the stimulus log that are about one of these keys or tasks."""
        keys = keys_of(keys_or_tasks)
        return [event for event in self.stimulus_log if getattr(event, "key", None) in keys]

    def validate_task(self, TaskState ts not None):
        """Raises ``InvalidTaskState`` where the task and the collections disagree."""
        with self.lock:
            validation.validate_task(self, ts)

    def validate_state(self):
        """Raises ``InvalidTaskState`` or AssertionError where anything disagrees."""
        with self.lock:
            validation.validate_state(self)

    def _to_dict(self, *, exclude=()):
        """A picture for ``Client.dump_cluster_state``: only strings, numbers, lists and dicts."""
        with self.lock:
            info = self._picture()
            for name in exclude:
                info.pop(name, None)
            return recursive_to_dict(info, exclude=exclude)

    def _picture(self):
        return {
            "address": self.address,
            "nthreads": self.nthreads,
            "running": self.running,
            "ready": [ts.key for ts in self.ready.sorted()],
            "constrained": [ts.key for ts in self.constrained.sorted()],
            "data": dict.fromkeys(self.data_),
            "data_needed": {
                worker: [ts.key for ts in queue.sorted()]
                for worker, queue in self.data_needed.items()
            },
            "executing": {ts.key for ts in self.executing},
            "has_what": dict(self.has_what),
            "long_running": {ts.key for ts in self.long_running},
            "in_flight_tasks": {ts.key for ts in self.in_flight_tasks},
            "in_flight_workers": self.in_flight_workers,
            "missing_dep_flight": [ts.key for ts in self.missing_dep_flight],
            "busy_workers": self.busy_workers,
            "log": list(self.log),
            "stimulus_log": list(self.stimulus_log),
            "transition_counter": self.transition_counter,
            "tasks": self.tasks,
            "task_counts": dict(self.task_counter.current_count()),
            "task_cumulative_elapsed": dict(self.task_counter.cumulative_elapsed()),
        }

    # ------------------------------------------------------------------------------ pickling

    def __reduce__(self):
        with self.lock:
            return type(self), (), {
                name: getattr(self, name) for name in (*READONLY, *PLAIN) if hasattr(self, name)
            }

    def __setstate__(self, dict state):
        cdef TaskState ts
        for name in PLAIN:
            if name in state:
                setattr(self, name, state[name])
        self.ready = state["ready"]
        self.constrained = state["constrained"]
        self.waiting = state["waiting"]
        self.executing = state["executing"]
        self.long_running = state["long_running"]
        self.missing_dep_flight = state["missing_dep_flight"]
        self.in_flight_tasks = state["in_flight_tasks"]
        self.has_what = state["has_what"]
        self.data_needed = state["data_needed"]
        self.in_flight_workers = state["in_flight_workers"]
        self.busy_workers = state["busy_workers"]
        self.log = state["log"]
        self.stimulus_log = state["stimulus_log"]
        self.log.lock = self.stimulus_log.lock = self.lock
        self.task_counter = state["task_counter"]
        for ts in self.tasks.values():
            ts.counts = self.task_counter.of_key(ts.key)
            ts.counted = ts.state_


cdef tuple READONLY = (
    "ready", "constrained", "waiting", "executing", "long_running", "missing_dep_flight",
    "in_flight_tasks", "has_what", "data_needed", "in_flight_workers", "busy_workers", "log",
    "stimulus_log", "task_counter",
)
cdef tuple PLAIN = (
    "address", "data", "threads", "plugins", "actors", "tasks", "nthreads", "running",
    "transfer_incoming_count_limit", "transfer_incoming_bytes_limit",
    "transfer_incoming_bytes_throttle_threshold", "transfer_message_bytes_limit",
    "total_resources", "available_resources", "fetch_count", "transfer_incoming_count_total",
    "transfer_incoming_bytes", "generation", "executed_count", "nbytes", "transition_counter",
    "transition_counter_max", "validate", "rng",
)
