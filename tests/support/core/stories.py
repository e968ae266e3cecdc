"""Playing a story - a list of steps - on the oracle and on the machine under test at once."""

from __future__ import annotations

import copy
import logging
import math
import threading
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import distributed.worker_state_machine as wsm

from support.core.compare import (
    UNORDERED,
    Divergence,
    Refusal,
    check,
    check_collections,
    check_dumps,
    check_errors,
    check_everything,
    check_instructions,
    check_logged_event,
    check_records,
    check_stories,
    check_task,
    field_names,
    newest,
)
from support.core.events import HERE
from support.core.oracle import STOCK, ExactQueue, Machine, NativeMachine, StockMachine, is_native

#: A value whose type cannot be pickled, neither by name nor by value.
SECRET: Any = type("Secret", (), {"lock": threading.Lock(), "__repr__": lambda self: "SECRET"})()


@dataclass(frozen=True)
class Unstorable:
    """A value that no ``data`` of a story accepts."""

    name: str = "x"


class _Refusing:
    def __setitem__(self, key: Any, value: Any) -> None:
        if type(value) is Unstorable:
            raise Refusal(key, value.name)
        super().__setitem__(key, value)


class RefusingDict(_Refusing, dict):
    """Worker.data without a memory limit, but for refusing to store some values."""


class RefusingMapping(_Refusing, UserDict):
    """A ``data`` that is a MutableMapping and no dict, as zict's are."""


class Recorder:
    """A plugin that remembers its calls, and what the task looked like at that time."""

    def __init__(self, machine: Machine):
        self.machine = machine

    def transition(self, *args: Any, **kwargs: Any) -> None:
        ts = self.machine.state.tasks.get(args[0])
        self.machine.plugin_calls.append((args, kwargs, ts and (ts.state, ts.serial)))


class Failing(Recorder):
    """A plugin whose hook raises now and then. The machine must not care."""

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        super().transition(key, start, finish, **kwargs)
        if len(self.machine.plugin_calls) % 3 == 0:
            raise ValueError(f"no {finish} for me")


class Bystander(Recorder):
    """A plugin without the hook."""

    transition = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if name == "transition":
            raise AttributeError(name)
        return super().__getattribute__(name)


PLUGINS = {"recorder": Recorder, "failing": Failing, "bystander": Bystander}


@dataclass(frozen=True)
class Setup:
    """How the two machines of a story are made. The defaults are WorkerState's own."""

    nthreads: int = 1
    address: str = HERE
    data: type = RefusingDict
    resources: dict[str, float] | None = None
    plugins: tuple[str, ...] = ()
    transfer_incoming_count_limit: int = 9999
    transfer_incoming_bytes_limit: float = math.inf
    transfer_message_bytes_limit: float = math.inf
    validate: bool = True
    transition_counter_max: int | bool = False
    log_length: int | None = 1000
    first_serial: int = 0
    #: hand the frequent events to the native machine as the live worker does
    entries: bool = False

    def kwargs(self) -> dict[str, Any]:
        """Arguments of WorkerState; every call makes new containers."""
        return {
            "nthreads": self.nthreads,
            "address": self.address,
            "data": self.data(),
            "threads": {},
            "plugins": {},
            "resources": dict(self.resources) if self.resources is not None else None,
            "transfer_incoming_count_limit": self.transfer_incoming_count_limit,
            "transfer_incoming_bytes_limit": self.transfer_incoming_bytes_limit,
            "transfer_message_bytes_limit": self.transfer_message_bytes_limit,
            "validate": self.validate,
            "transition_counter_max": self.transition_counter_max,
        }

    def __repr__(self) -> str:
        plain = Setup()
        args = [
            f"{name}={getattr(self, name)!r}"
            for name in self.__dataclass_fields__
            if name != "data" and getattr(self, name) != getattr(plain, name)
        ]
        if self.data is not plain.data:
            args.append(f"data={self.data.__name__}")
        return f"Setup({', '.join(args)})".replace("=inf", "=math.inf")


@dataclass(frozen=True)
class Poke:
    """Something that distributed.Worker does to its state past ``handle_stimulus``."""

    what: str
    args: tuple = ()

    def __call__(self, machine: Machine) -> None:
        getattr(self, f"_{self.what}")(machine, *self.args)

    def _thread(self, machine: Machine, key: Any, ident: int) -> None:
        machine.state.threads[key] = ident

    def _metadata(self, machine: Machine, key: Any, name: str, value: Any) -> None:
        machine.state.tasks[key].metadata[name] = value

    def _started(self, machine: Machine, key: Any, start: float) -> None:
        ts = machine.state.tasks[key]
        ts.start_time = start
        ts.startstops.append({"action": "disk-read", "start": start, "stop": start + 1})

    def _resources(self, machine: Machine, name: str, quantity: float) -> None:
        total, available = machine.state.total_resources, machine.state.available_resources
        available[name] = available.get(name, 0.0) + quantity - total.get(name, 0.0)
        total[name] = quantity

    def _plugin(self, machine: Machine, kind: str) -> None:
        machine.state.plugins[kind] = PLUGINS[kind](machine)

    def _generation(self, machine: Machine, generation: int) -> None:
        machine.state.generation = generation

    def _log(self, machine: Machine, *record: Any) -> None:
        machine.state.log.append((*record, 0.0))


@dataclass(frozen=True)
class Recommend:
    """A recommendation that comes from outside: ``_transitions({task: finish})``.

    `finish` is a state, or a tuple of a state and the arguments of the transition.
    """

    key: Any
    finish: str | tuple

    def __call__(self, machine: Machine) -> list[wsm.Instruction]:
        ts = machine.state.tasks[self.key]
        return machine.state._transitions({ts: self.finish}, stimulus_id="recommended")


Step = tuple[wsm.StateMachineEvent, ...] | Poke | Recommend
Script = list[Step]


def fresh(value: Any) -> Any:
    """A copy of the containers of an event, so that no machine sees what the other changes."""
    kind = type(value)
    if kind is dict:
        return {k: fresh(v) for k, v in value.items()}
    if kind is list:
        return [fresh(v) for v in value]
    return set(value) if kind is set else value


def fresh_event(event: wsm.StateMachineEvent) -> wsm.StateMachineEvent:
    out = copy.copy(event)
    for name in field_names(type(event)):
        setattr(out, name, fresh(getattr(event, name)))
    return out


@contextmanager
def quiet() -> Iterator[None]:
    """Validation logs every error that it is about to raise, and these stories raise plenty."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class Duel:
    """The oracle and the machine under test, side by side.

    Call it with the events of one ``handle_stimulus``; it returns the instructions, after it has
    compared them and the state they leave behind. Raises :class:`Divergence` where the two
    machines differ, and what they raised where both raise the same.

    Parameters
    ----------
    candidate: the class under test: the native WorkerState, stock's, or a subclass of stock's
    thorough: compare everything after every step, not just what the step touched
    real_queue: leave distributed's lazily deleting ``HeapSet`` in the oracle
    """

    #: a complete comparison every so many steps
    COMPLETE_EVERY = 25

    def __init__(
        self,
        candidate: type,
        setup: Setup | None = None,
        *,
        thorough: bool = True,
        real_queue: bool = False,
    ):
        setup = self.setup = setup or Setup()
        common = {"first_serial": setup.first_serial, "log_length": setup.log_length}
        queue = None if real_queue else ExactQueue
        self.oracle: Any = StockMachine(STOCK, setup.kwargs(), slot=0, queue=queue, **common)
        self.actual: Any
        if is_native(candidate):
            self.actual = NativeMachine(candidate, setup.kwargs(), entries=setup.entries, **common)
        else:
            self.actual = StockMachine(candidate, setup.kwargs(), slot=1, **common)
        for kind in setup.plugins:
            self.poke(Poke("plugin", (kind,)))
        self.thorough = thorough
        self.script: Script = []
        self.events = 0
        #: no event so far whose log records come in any order
        self.ordered = True
        check_everything(self.oracle.state, self.actual.state)

    @property
    def same_history(self) -> bool:
        """Whether both logs hold the same records.

        Not so when records that come in any order were dropped from full logs.
        """
        log = self.oracle.log
        return self.ordered or log.maxlen is None or log.written <= log.maxlen

    @property
    def state(self) -> Any:
        """The state of the machine under test."""
        return self.actual.state

    def state_of(self, key: Any) -> str | None:
        """``released``, or ``cancelled(flight)`` and the like; None for an unknown key."""
        ts = self.actual.state.tasks.get(key)
        return ts and repr(ts).rpartition(" ")[2].rstrip(">")

    def states(self) -> dict[Any, str | None]:
        return {key: self.state_of(key) for key in self.actual.state.tasks}

    def play(self, step: Step) -> list[wsm.Instruction]:
        if isinstance(step, Poke):
            self.poke(step)
            return []
        if isinstance(step, Recommend):
            return self.recommend(step.key, step.finish)
        return self(*step)

    def poke(self, step: Poke) -> None:
        if hasattr(self, "script"):
            self.script.append(step)
        step(self.oracle)
        step(self.actual)

    def recommend(self, key: Any, finish: str | tuple) -> list[wsm.Instruction]:
        """Have both machines follow a recommendation that no event led to."""
        step = Recommend(key, finish)
        self.script.append(step)
        return self._both(step, ordered=True, events=(), touched={key})

    def __call__(self, *events: wsm.StateMachineEvent) -> list[wsm.Instruction]:
        self.script.append(events)
        self.events += len(events)
        ordered = not any(isinstance(event, UNORDERED) for event in events)
        self.ordered &= ordered

        def handle(machine: Machine) -> list[wsm.Instruction]:
            return machine.handle(*map(fresh_event, events))

        return self._both(handle, ordered=ordered, events=events, touched=self._touched_by(events))

    def _both(
        self,
        do: Callable[[Machine], list[wsm.Instruction]],
        *,
        ordered: bool,
        events: tuple[wsm.StateMachineEvent, ...],
        touched: set,
    ) -> list[wsm.Instruction]:
        written = self.oracle.log.written
        outcomes = []
        for machine in (self.oracle, self.actual):
            machine.plugin_calls.clear()
            try:
                outcomes.append(do(machine))
            except Exception as error:
                outcomes.append(error)
        expect, got = outcomes
        if isinstance(expect, Exception) and isinstance(got, Exception):
            check_errors(expect, got, ordered=ordered, same_history=self.same_history)
            raise got
        if isinstance(got, Exception):
            raise Divergence("raised where the oracle did not", expect, got) from got
        check("did not raise", expect if isinstance(expect, Exception) else None, None)

        check_instructions(expect, got)
        self._check_plugin_calls(ordered)
        written = self.oracle.log.written - written
        records = newest(self.oracle.log, written)
        if ordered or len(records) == written:
            check_records("log", records, newest(self.state.log, written), ordered=ordered)
        self._check_stimulus_log(events)
        self._check_state(touched | {record[0] for record in records})
        return got

    def _check_state(self, touched: set) -> None:
        oracle, actual = self.oracle.state, self.actual.state
        if self.thorough or len(self.script) % self.COMPLETE_EVERY == 0:
            check_everything(oracle, actual)
            return
        check_collections(oracle, actual)
        for key in touched:
            ts = oracle.tasks.get(key)
            if ts is not None:
                check_task(ts, actual.tasks[key])

    def _check_plugin_calls(self, ordered: bool) -> None:
        expect, got = self.oracle.plugin_calls, self.actual.plugin_calls
        if not ordered:
            expect, got = sorted(expect, key=repr), sorted(got, key=repr)
        check("plugins", expect, got)

    def _check_stimulus_log(self, events: Iterable[wsm.StateMachineEvent]) -> None:
        n = sum(not isinstance(event, wsm.FindMissingEvent) for event in events)
        logs = [newest(machine.state.stimulus_log, n) for machine in (self.oracle, self.actual)]
        check("stimulus_log: length", *map(len, logs))
        for left, right in zip(*logs, strict=True):
            check_logged_event(left, right)

    def _touched_by(self, events: Iterable[wsm.StateMachineEvent]) -> set:
        out: set = set()
        for event in events:
            if hasattr(event, "key"):
                out.add(event.key)
            for name in ("keys", "who_has", "data", "nbytes"):
                value = getattr(event, name, None)
                if not isinstance(value, int | None):
                    out.update(value)
            if hasattr(event, "worker"):
                out |= self.oracle.state.in_flight_workers.get(event.worker, set())
                out |= self.oracle.state.has_what.get(event.worker, set())
        return out

    def aftermath(self, step: Step) -> None:
        """Play on after an error, on the machine under test alone: it may raise but not crash."""
        with suppress(Exception):
            if isinstance(step, tuple):
                self.actual.handle(*map(fresh_event, step))
            else:
                step(self.actual)

    def finish(self) -> None:
        """Compare everything once more, and what can be asked of a state but does not show in it.

        To be called at the end of a story. ``validate_state`` must find the same faults.
        """
        oracle, actual = self.oracle.state, self.actual.state
        check_everything(oracle, actual)
        check_dumps(oracle, actual)
        if self.same_history:
            some = list(oracle.tasks)[:: 1 + len(oracle.tasks) // 10]
            check_stories(oracle, actual, *some, "never heard of")
        check("validate_state()", fault(oracle), fault(actual))


def fault(state: Any) -> str | None:
    try:
        state.validate_state()
    except Exception as error:
        return type(error).__name__
    return None
