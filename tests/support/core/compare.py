"""What must be equal in two state machines after the same event: everything that can be seen."""

from __future__ import annotations

import operator
import pickle
from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Any

import distributed.worker_state_machine as wsm
from distributed.protocol.serialize import Serialize

#: These walk a queue, whose order of iteration is unspecified; hence the order of the
#: recommendations, and of the log records they lead to, is too.
UNORDERED = (wsm.RemoveWorkerEvent, wsm.GatherDepNetworkFailureEvent)

#: Fields of a TaskState that are compared with ==, and must have the same type.
SCALARS = (
    "serial",
    "key",
    "prefix",
    "state",
    "previous",
    "next",
    "run_id",
    "coming_from",
    "exception_text",
    "suspicious_count",
    "start_time",
    "stop_time",
    "nbytes",
    "annotations",
    "span_id",
    "done",
    "metadata",
    "resource_restrictions",
    "priority",
)
IDENTICAL = ("run_spec", "type")
TASK_SETS = ("dependencies", "dependents", "waiting_for_data", "waiters")
OTHERS = {"who_has", "exception", "traceback", "traceback_text", "startstops"}
IGNORED = {"__weakref__"}

#: Fields of a WorkerState that are compared with ==, and must have the same type.
STATE_SCALARS = (
    "address",
    "nthreads",
    "running",
    "fetch_count",
    "nbytes",
    "executed_count",
    "generation",
    "transition_counter",
    "transition_counter_max",
    "transfer_incoming_bytes",
    "transfer_incoming_count_total",
    "transfer_incoming_count_limit",
    "transfer_incoming_bytes_limit",
    "transfer_message_bytes_limit",
    "transfer_incoming_bytes_throttle_threshold",
    "validate",
    "executing_count",
    "in_flight_tasks_count",
    "transfer_incoming_count",
)
#: ... that are equal when they are equal as dicts, order of the keys included.
STATE_DICTS = (
    "has_what",
    "in_flight_workers",
    "total_resources",
    "available_resources",
    "threads",
    "actors",
    "data",
)
STATE_TASK_SETS = (
    "waiting",
    "executing",
    "long_running",
    "in_flight_tasks",
    "missing_dep_flight",
    "all_running_tasks",
)
STATE_OTHERS = {
    "tasks",
    "ready",
    "constrained",
    "data_needed",
    "busy_workers",
    "log",
    "stimulus_log",
    "task_counter",
    "plugins",
    "rng",
}

scalars = operator.attrgetter(*SCALARS)
state_scalars = operator.attrgetter(*STATE_SCALARS)
serial = operator.attrgetter("serial")


class Divergence(AssertionError):
    """The machine under test did not do what the oracle did.

    Attributes
    ----------
    where: what differs; its first word tells kinds of divergence apart
    """

    def __init__(self, where: str, oracle: Any, actual: Any):
        super().__init__(where, oracle, actual)
        self.where = where
        self.oracle = oracle
        self.actual = actual

    def __str__(self) -> str:
        return f"{self.where}\n  oracle: {self.oracle!r}\n  actual: {self.actual!r}"


def check(where: str, oracle: Any, actual: Any) -> None:
    if oracle != actual:
        raise Divergence(where, oracle, actual)


def check_strictly(where: str, oracle: Any, actual: Any) -> None:
    """Equal, and of the same type: 1, 1.0 and True are three different things."""
    if oracle != actual or type(oracle) is not type(actual):
        raise Divergence(where, oracle, actual)


class Refusal(Exception):
    """Raised by the ``data`` of a story. Its traceback runs through the machine itself."""


def error_values(exception: Any, traceback: Any, text: str, traceback_text: str) -> tuple:
    """An error as far as it must be the same in both machines."""
    if text.startswith("Refusal("):
        return pickle.loads(exception.data).args, bool(traceback), text, bool(traceback_text)
    return (
        exception.data if type(exception) is Serialize else exception,
        traceback.data if type(traceback) is Serialize else traceback,
        text,
        traceback_text,
    )


def without_disk_writes(startstops: list[dict]) -> list[dict]:
    """They depend on how long the machine took to store a value."""
    return [entry for entry in startstops if entry["action"] != "disk-write"]


# --- instructions and exceptions


@cache
def field_names(cls: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def instruction_values(inst: wsm.Instruction) -> list[tuple[str, Any]]:
    if isinstance(inst, wsm.TaskErredMsg):
        names = ("stimulus_id", "key", "run_id", "thread")
        error = (inst.exception, inst.traceback, inst.exception_text, inst.traceback_text)
        return [
            *((name, getattr(inst, name)) for name in names),
            ("error", error_values(*error)),
            ("startstops", without_disk_writes(inst.startstops)),
        ]
    out = [(name, getattr(inst, name)) for name in field_names(type(inst))]
    if isinstance(inst, wsm.RequestRefreshWhoHasMsg):
        return [(k, sorted(v, key=repr) if k == "keys" else v) for k, v in out]
    if isinstance(inst, wsm.TaskFinishedMsg):
        return [(k, without_disk_writes(v) if k == "startstops" else v) for k, v in out]
    return out


def check_instructions(oracle: list, actual: list) -> None:
    check("instructions: type", list, type(actual))
    check(
        "instructions",
        [type(inst).__name__ for inst in oracle],
        [type(inst).__name__ for inst in actual],
    )
    for i, (left, right) in enumerate(zip(oracle, actual, strict=True)):
        where = f"instruction {i} ({type(left).__name__})"
        check(f"{where} class", type(left), type(right))
        for (name, a), (_, b) in zip(
            instruction_values(left), instruction_values(right), strict=True
        ):
            check_strictly(f"{where}.{name}", a, b)


def check_errors(
    oracle: BaseException, actual: BaseException, *, ordered: bool, same_history: bool
) -> None:
    """Both machines raised: the same class and, for those that carry it, the same story.

    Parameters
    ----------
    ordered: False if it is a matter of chance which of several errors comes first
    same_history: False if the two logs may have dropped different records
    """
    if type(oracle) is not type(actual):
        raise Divergence("error: class", oracle, actual) from actual
    if not ordered:
        return
    if isinstance(oracle, wsm.InvalidTransition):
        for name in ("key", "start", "finish"):
            check_strictly(f"error: {name}", getattr(oracle, name), getattr(actual, name))
    elif isinstance(oracle, wsm.InvalidTaskState):
        for name in ("key", "state"):
            check_strictly(f"error: {name}", getattr(oracle, name), getattr(actual, name))
    else:
        return
    if same_history:
        check_records("error: story", oracle.story, actual.story, ordered=False)


# --- logs


def untimed(record: tuple) -> tuple:
    if type(record) is not tuple or type(record[-1]) is not float:
        raise Divergence("log: a record must be a tuple that ends in a time", tuple, record)
    return record[:-1]


def check_records(where: str, oracle: Iterable, actual: Iterable, *, ordered: bool = True) -> None:
    left, right = [untimed(r) for r in oracle], [untimed(r) for r in actual]
    if left == right:
        return
    if not ordered:
        rest = list(right)
        for record in left:
            if record not in rest:
                break
            rest.remove(record)
        else:
            if not rest:
                return
    check(where, left, right)


def newest(log: Any, n: int) -> list:
    """The last `n` records, read one by one: a native log makes them up when they are read."""
    return [log[i] for i in range(-min(n, len(log)), 0)]


def check_logged_event(oracle: wsm.StateMachineEvent, actual: wsm.StateMachineEvent) -> None:
    name = type(oracle).__name__
    check("stimulus_log: class", type(oracle), type(actual))
    check(f"stimulus_log: {name}.handled is a time", float, type(actual.handled))
    for field in field_names(type(oracle)):
        left, right = getattr(oracle, field), getattr(actual, field)
        check_strictly(f"stimulus_log: {name}.{field}", left, right)


# --- tasks and collections


def check_task(oracle: Any, actual: Any) -> None:
    left, right = scalars(oracle), scalars(actual)
    where = f"task {oracle.key!r}"
    if left != right or [*map(type, left)] != [*map(type, right)]:
        for name, a, b in zip(SCALARS, left, right, strict=True):
            check_strictly(f"{where}.{name}", a, b)
    # Numbers of different types can be equal: (1, 2.0) and (True, 2).
    if oracle.priority is not None:
        check(f"{where}.priority", repr(oracle.priority), repr(actual.priority))
    for name in IDENTICAL:
        a, b = getattr(oracle, name), getattr(actual, name)
        if a is not b:
            raise Divergence(f"{where}.{name}", a, b)
    for name in TASK_SETS:
        check_task_set(f"{where}.{name}", getattr(oracle, name), getattr(actual, name))
    check_strictly(f"{where}.who_has", oracle.who_has, actual.who_has)
    check(
        f"{where}.startstops",
        without_disk_writes(oracle.startstops),
        without_disk_writes(actual.startstops),
    )
    # Tracebacks are dropped more often than texts are, hence not one tuple for the whole error.
    check(f"{where}.exception is None", oracle.exception is None, actual.exception is None)
    check(f"{where}.traceback is None", oracle.traceback is None, actual.traceback is None)
    if oracle.exception is not None:
        check(f"{where}.error", error_of(oracle), error_of(actual))
    elif not oracle.exception_text.startswith("Refusal("):
        check_strictly(f"{where}.traceback_text", oracle.traceback_text, actual.traceback_text)
    check(f"{where}.get_nbytes()", oracle.get_nbytes(), actual.get_nbytes())
    check(f"{where}: repr", repr(oracle), repr(actual))


def error_of(ts: Any) -> tuple:
    return error_values(ts.exception, ts.traceback, ts.exception_text, ts.traceback_text)


def check_task_set(where: str, oracle: Iterable, actual: Iterable) -> None:
    left, right = sorted(map(serial, oracle)), sorted(map(serial, actual))
    if left != right:
        keys = [[(ts.key, ts.serial) for ts in side] for side in (oracle, actual)]
        raise Divergence(where, *keys)


def check_queue(where: str, oracle: Any, actual: Any) -> None:
    left, right = [*map(serial, oracle.sorted())], [*map(serial, actual.sorted())]
    if left != right or len(oracle) != len(actual):
        keys = [[(ts.key, ts.priority) for ts in queue.sorted()] for queue in (oracle, actual)]
        raise Divergence(where, *keys)


def check_tasks_dict(oracle: dict, actual: Any) -> None:
    left = [(key, ts.serial) for key, ts in oracle.items()]
    right = [(key, ts.serial) for key, ts in actual.items()]
    check("tasks", left, right)


def plain(mapping: Any) -> list:
    """A mapping with its order. The order is visible: it decides which peer is asked first."""
    return list(mapping.items())


def check_collections(oracle: Any, actual: Any) -> None:
    """Everything about the state as a whole; of the tasks, which collections they are in."""
    check_tasks_dict(oracle.tasks, actual.tasks)
    left, right = state_scalars(oracle), state_scalars(actual)
    if left != right or [*map(type, left)] != [*map(type, right)]:
        for name, a, b in zip(STATE_SCALARS, left, right, strict=True):
            check_strictly(name, a, b)
    for name in STATE_TASK_SETS:
        check_task_set(name, getattr(oracle, name), getattr(actual, name))
    check_queue("ready", oracle.ready, actual.ready)
    check_queue("constrained", oracle.constrained, actual.constrained)
    check("data_needed: workers", list(oracle.data_needed), list(actual.data_needed))
    for worker, queue in oracle.data_needed.items():
        check_queue(f"data_needed[{worker!r}]", queue, actual.data_needed[worker])
    for name in STATE_DICTS:
        check(name, plain(getattr(oracle, name)), plain(getattr(actual, name)))
    check("busy_workers", oracle.busy_workers, actual.busy_workers)
    counts = [dict(state.task_counter.current_count()) for state in (oracle, actual)]
    check("task_counter", *counts)


def check_everything(oracle: Any, actual: Any) -> None:
    check_collections(oracle, actual)
    for key, ts in oracle.tasks.items():
        check_task(ts, actual.tasks[key])
    check("rng", oracle.rng.getstate(), actual.rng.getstate())
    check(
        "task_counter: by state",
        dict(oracle.task_counter.current_count(by_prefix=False)),
        dict(actual.task_counter.current_count(by_prefix=False)),
    )
    for by_prefix in (False, True):
        elapsed = actual.task_counter.cumulative_elapsed(by_prefix)
        expect = oracle.task_counter.cumulative_elapsed(by_prefix)
        check("task_counter: what has elapsed", set(expect), set(elapsed))
        if min(elapsed.values(), default=0.0) < 0:
            raise Divergence("task_counter: negative time", expect, elapsed)
    check("log: length", len(oracle.log), len(actual.log))
    check("log: maxlen", oracle.log.maxlen, actual.log.maxlen)
    check("stimulus_log: length", len(oracle.stimulus_log), len(actual.stimulus_log))


def check_stories(oracle: Any, actual: Any, *keys: Any) -> None:
    """``story`` and ``stimulus_story``, as far as the logs reach back."""
    for key in keys:
        check_records(f"story({key!r})", oracle.story(key), actual.story(key), ordered=False)
        left, right = oracle.stimulus_story(key), actual.stimulus_story(key)
        check(f"stimulus_story({key!r})", len(left), len(right))
        for a, b in zip(left, right, strict=True):
            check_logged_event(a, b)


def dump(state: Any) -> dict:
    """``_to_dict`` without what is a matter of time, or of an order that is not specified."""
    out = state._to_dict(exclude=("log", "stimulus_log", "task_cumulative_elapsed"))
    for name in ("executing", "long_running", "in_flight_tasks", "missing_dep_flight"):
        out[name] = sorted(out[name], key=repr)
    for task in out["tasks"].values():
        task.pop("serial", None)
        task["startstops"] = without_disk_writes(task.get("startstops", []))
        for name in TASK_SETS:
            task[name] = sorted(task.get(name, []))
        if task.get("exception_text", "").startswith("Refusal("):
            for name in ("exception", "traceback", "traceback_text"):
                task.pop(name, None)
    return out


def check_dumps(oracle: Any, actual: Any) -> None:
    """What ``Client.dump_cluster_state`` would write."""
    left, right = dump(oracle), dump(actual)
    check("_to_dict: keys", list(left), list(right))
    for name in left:
        check(f"_to_dict: {name}", left[name], right[name])
    for name in ("log", "stimulus_log", "task_cumulative_elapsed"):
        excluded = {*left, "log", "stimulus_log", "task_cumulative_elapsed"} - {name}
        sides = [state._to_dict(exclude=excluded)[name] for state in (oracle, actual)]
        check(f"_to_dict: type of {name}", *map(type, sides))
        check(f"_to_dict: length of {name}", *map(len, sides))


def uncompared_fields() -> set[str]:
    """Names that stock's classes have and nothing here looks at; a test keeps it empty."""
    task = {field.name for field in fields(wsm.TaskState)}
    task -= {*SCALARS, *IDENTICAL, *TASK_SETS, *OTHERS, *IGNORED}
    state = set(wsm.WorkerState.__slots__)
    state -= {*STATE_SCALARS, *STATE_DICTS, *STATE_TASK_SETS, *STATE_OTHERS}
    return task | state
