"""Read-only views of a worker's state.

The state machine holds one ``TaskState`` a key, and collections of them. The views here are indexed
by key or by a peer's address. A view holds no data: it reads the state each time it is read, so it
is never out of date.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from dask.typing import Key
from distributed.core import ConnectionPool
from distributed.worker_state_machine import WorkerState as StockWorkerState

if TYPE_CHECKING:
    from fastworker.core import TaskState, WorkerState

MISSING: Any = object()

K = TypeVar("K")
S = TypeVar("S")
V = TypeVar("V")

#: The states of a key that is wanted as the input of a task, as opposed to run here.
DEPENDENCY_STATES = frozenset(
    {
        "cancelled",
        "error",
        "fetch",
        "flight",
        "forgotten",
        "memory",
        "missing",
        "released",
        "resumed",
    }
)

#: Every pair (start, finish) that the state machine has a direct transition for. Any other pair is
#: reached through ``released`` or not at all.
TRANSITIONS: frozenset[tuple[str, str]] = frozenset(StockWorkerState._TRANSITIONS_TABLE)

DEPENDENCY_TRANSITIONS: frozenset[tuple[str, str]] = frozenset(
    pair for pair in TRANSITIONS if DEPENDENCY_STATES.issuperset(pair)
)


class MappingView(Mapping[K, V], Generic[K, S, V]):
    """``source`` with ``value`` applied to its entries, without the entries that ``keep`` refuses.

    Threads that run tasks change the source at any time. So iteration goes over a copy of the keys,
    and each answer comes from one read of the source.
    """

    __slots__ = ("_keep", "_source", "_value")

    def __init__(
        self,
        source: Mapping[K, S],
        value: Callable[[S], V],
        keep: Callable[[S], object] | None = None,
    ) -> None:
        self._source = source
        self._value = value
        self._keep = keep

    def __getitem__(self, key: K) -> V:
        # Not source[key]: some of the sources are defaultdicts.
        entry = self._source.get(key, MISSING)
        if entry is MISSING:
            raise KeyError(key)
        if self._keep is not None and not self._keep(entry):
            raise KeyError(key)
        return self._value(entry)

    def __contains__(self, key: object) -> bool:
        entry = self._source.get(key, MISSING)  # type: ignore[arg-type]
        return entry is not MISSING and (self._keep is None or bool(self._keep(entry)))

    def __iter__(self) -> Iterator[K]:
        keep = self._keep
        if keep is None:
            return iter(list(self._source))
        return iter([key for key, entry in copied(self._source).items() if keep(entry)])

    def __len__(self) -> int:
        keep = self._keep
        if keep is None:
            return len(self._source)
        return sum(1 for entry in copied(self._source).values() if keep(entry))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self)!r})"


class TaskSetView(Set["TaskState"]):
    """Tasks of one state. ``in`` takes a ``TaskState`` or a key; iteration gives ``TaskState``."""

    __slots__ = ("_select", "_state")

    def __init__(
        self, state: WorkerState, select: Callable[[WorkerState], Iterable[TaskState]]
    ) -> None:
        self._state = state
        self._select = select

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:
        return set(it)

    def __contains__(self, task: object) -> bool:
        try:
            found = self._state.tasks.get(task)
        except TypeError:  # unhashable: neither a key nor a task
            return False
        if found is not None:
            task = found
        return any(ts is task for ts in self._select(self._state))

    def __iter__(self) -> Iterator[TaskState]:
        return iter(list(self._select(self._state)))

    def __len__(self) -> int:
        return sum(1 for _ in self._select(self._state))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class ReadyView(TaskSetView):
    """The tasks that wait for a thread, in the order in which they will get one."""

    __slots__ = ()

    def __init__(self, state: WorkerState) -> None:
        super().__init__(state, lambda state: state.ready)

    def __contains__(self, task: object) -> bool:
        try:
            ts = self._state.tasks.get(task)
        except TypeError:
            return False
        return (task if ts is None else ts) in self._state.ready

    def __iter__(self) -> Iterator[TaskState]:
        return iter(by_priority(self._state.ready))

    def __len__(self) -> int:
        return len(self._state.ready)

    def peek(self) -> TaskState:
        """The task that runs next. Raises KeyError if none is ready."""
        if not self._state.ready:
            raise KeyError("no task is ready")
        first: TaskState = self._state.ready.peek()
        return first


class Move:
    """One valid transition of one worker: ``move(key, **details)`` carries it out.

    Raises ValueError if the task is not in the state the transition starts from, and otherwise
    what ``Worker.transition`` raises.
    """

    __slots__ = ("_transition", "_worker", "finish", "start")

    def __init__(
        self, worker: StateViews, transition: Callable[..., None], start: str, finish: str
    ) -> None:
        self._worker = worker
        self._transition = transition
        self.start = start
        self.finish = finish

    def __call__(self, key: Key, **details: Any) -> None:
        ts = self._worker.state.tasks.get(key)
        if ts is not None and ts.state != self.start:
            raise ValueError(f"task {key!r} is in state {ts.state!r}, not {self.start!r}")
        self._transition(key, self.finish, **details)

    def __repr__(self) -> str:
        return f"<transition {self.start} -> {self.finish}>"


class TransitionsView(Mapping[tuple[str, str], Move]):
    """``{(start, finish): move}`` of the valid transitions; see ``Move``."""

    __slots__ = ("_pairs", "_transition", "_worker")

    def __init__(
        self,
        worker: StateViews,
        pairs: frozenset[tuple[str, str]],
        transition: Callable[..., None],
    ) -> None:
        self._worker = worker
        self._pairs = pairs
        self._transition = transition

    def __getitem__(self, pair: tuple[str, str]) -> Move:
        if pair not in self._pairs:
            raise KeyError(pair)
        return Move(self._worker, self._transition, *pair)

    def __contains__(self, pair: object) -> bool:
        return pair in self._pairs

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(sorted(self._pairs))

    def __len__(self) -> int:
        return len(self._pairs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


def by_priority(tasks: Iterable[TaskState]) -> list[TaskState]:
    """Tasks in the order in which the worker prefers them: smallest priority first."""
    return sorted(tasks, key=_priority)


def _priority(ts: TaskState) -> tuple[Any, ...]:
    assert ts.priority is not None, ts
    return ts.priority


def copied(source: Mapping[K, S]) -> Mapping[K, S]:
    """A copy of a dict, made in one operation: threads that run tasks may change it at any time."""
    assert isinstance(source, dict)
    return source.copy()


def _keys(tasks: Iterable[TaskState]) -> frozenset[Key]:
    return frozenset(ts.key for ts in list(tasks))


def _itself(entry: V) -> V:
    return entry


class view(Generic[V]):
    """A property that a worker or a subclass may replace by setting an attribute of its name.

    distributed's worker does not have these names, so a user's subclass may use them for its own.
    """

    def __init__(self, look: Callable[[Any], V]) -> None:
        self._look = look
        self.__doc__ = look.__doc__

    @overload
    def __get__(self, worker: None, kind: type) -> view[V]: ...
    @overload
    def __get__(self, worker: StateViews, kind: type) -> V: ...
    def __get__(self, worker: StateViews | None, kind: type) -> view[V] | V:
        return self if worker is None else self._look(worker)


class StateViews:
    """What a worker knows, by name. A mixin of ``fastworker.Worker``; read-only.

    distributed of 2025 still has some of these names (``tasks``, ``ready``, ``data_needed``,
    ``has_what``, ``in_flight_workers``) as attributes that warn and point to ``Worker.state``;
    here they are supported and do not warn.
    """

    if TYPE_CHECKING:
        state: WorkerState
        rpc: ConnectionPool
        scheduler: Any
        stream_handlers: dict[str, Callable[..., Any]]

        transition: Callable[..., None]
        transition_dep: Callable[..., None]

    @view
    def tasks(self) -> Mapping[Key, TaskState]:
        """Every key that the worker knows of: tasks it was given and data they need."""
        return MappingView(self.state.tasks, _itself)

    @view
    def task_state(self) -> Mapping[Key, str]:
        """The state of every key in ``tasks``."""
        return MappingView(self.state.tasks, lambda ts: ts.state)

    @view
    def priorities(self) -> Mapping[Key, tuple[Any, ...]]:
        """The priority of every key that has one; the smallest goes first."""
        return MappingView(self.state.tasks, _priority, lambda ts: ts.priority is not None)

    @view
    def priority_counter(self) -> int:
        """Goes down by one a task; of two tasks of equal rank, the newer one has the lower."""
        generation: int = self.state.generation
        return generation

    @view
    def dep_state(self) -> Mapping[Key, str]:
        """The state of every key that some task on this worker needs."""
        return MappingView(self.state.tasks, lambda ts: ts.state, lambda ts: ts.dependents)

    @view
    def dependencies(self) -> Mapping[Key, frozenset[Key]]:
        """The keys that each key needs to run; empty for plain data."""
        return MappingView(self.state.tasks, lambda ts: _keys(ts.dependencies))

    @view
    def dependents(self) -> Mapping[Key, frozenset[Key]]:
        """The keys on this worker that need each key."""
        return MappingView(self.state.tasks, lambda ts: _keys(ts.dependents))

    @view
    def waiting_for_data(self) -> Mapping[Key, frozenset[Key]]:
        """The keys that each waiting task still lacks; tasks that lack none are not in it."""
        return MappingView(
            self.state.tasks,
            lambda ts: _keys(ts.waiting_for_data),
            lambda ts: ts.waiting_for_data,
        )

    @view
    def data_needed(self) -> Set[TaskState]:
        """The tasks whose data is to be fetched and has not been asked for yet."""
        return TaskSetView(
            self.state,
            lambda state: {ts for tasks in list(state.data_needed.values()) for ts in tasks},
        )

    @view
    def pending_data_per_worker(self) -> Mapping[str, list[Key]]:
        """The keys to be fetched from each peer, the most urgent first."""
        return MappingView(
            self.state.data_needed, lambda tasks: [ts.key for ts in by_priority(tasks)], len
        )

    @view
    def ready(self) -> ReadyView:
        """The tasks that could run now if a thread were free, in the order they will run."""
        return ReadyView(self.state)

    @view
    def who_has(self) -> Mapping[Key, frozenset[str]]:
        """The peers that hold each key, as far as this worker knows."""
        return MappingView(
            self.state.tasks, lambda ts: frozenset(ts.who_has), lambda ts: ts.who_has
        )

    @view
    def has_what(self) -> Mapping[str, frozenset[Key]]:
        """The keys that each peer holds, of those that this worker has tasks for."""
        return MappingView(self.state.has_what, frozenset, len)

    @view
    def in_flight_workers(self) -> Mapping[str, frozenset[Key]]:
        """The keys on their way here from each peer."""
        return MappingView(self.state.in_flight_workers, frozenset)

    @view
    def missing_dep_flight(self) -> Set[TaskState]:
        """The tasks whose data has no known holder."""
        return TaskSetView(self.state, lambda state: state.missing_dep_flight)

    @view
    def transitions(self) -> Mapping[tuple[str, str], Move]:
        """The valid transitions of a task: ``transitions["fetch", "released"](key)``."""
        return TransitionsView(self, TRANSITIONS, self.transition)

    @view
    def dep_transitions(self) -> Mapping[tuple[str, str], Move]:
        """Those of ``transitions`` that a key goes through as the input of a task."""
        return TransitionsView(self, DEPENDENCY_TRANSITIONS, self.transition_dep)

    @view
    def compute_stream_handlers(self) -> Mapping[str, Callable[..., Any]]:
        """The handlers of the scheduler's messages on the stream, by the name of the operation."""
        return self.stream_handlers

    @view
    def scheduler_address(self) -> str:
        """For example ``tcp://127.0.0.1:8786``."""
        address: str = self.scheduler.address
        return address

    @view
    def connection_pool(self) -> ConnectionPool:
        """The pool of connections to peers and to the scheduler."""
        return self.rpc
