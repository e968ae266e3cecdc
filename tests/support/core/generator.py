"""Random stories: a made-up scheduler, peers and executor that talk to one worker.

The world looks at the oracle's state to say plausible things most of the time: stock's state
machine asserts a lot, and a story that ends in an error early tests little. How often it says
something absurd is part of a story's temper.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import distributed.worker_state_machine as wsm
from distributed.protocol.serialize import Serialize

from support.core import nonsense
from support.core.events import HERE, RUN_SPEC
from support.core.stories import (
    Poke,
    Recommend,
    RefusingDict,
    RefusingMapping,
    Setup,
    Step,
    Unstorable,
)
from support.core.tempers import EDGES, GATHER_OUTCOMES, KEPT, PRIORITIES, TEMPERS, VALUES, WEIGHTS

Event = wsm.StateMachineEvent


@dataclass
class Known:
    """What the world keeps about a key over the whole story."""

    index: int
    nbytes: int
    dependencies: list[Any] | None = None


@dataclass
class World:
    """Generates one story, step by step.

    Parameters
    ----------
    rng: where all chance comes from
    """

    rng: random.Random
    state: Any = None
    #: key -> run_id of every Execute instruction without an answer
    running: dict[Any, int] = field(default_factory=dict)
    #: peer -> (keys, nbytes) of every GatherDep instruction without an answer
    gathers: dict[str, tuple[list[Any], int]] = field(default_factory=dict)
    #: peers for which a RetryBusyWorkerLater is pending
    busy: list[str] = field(default_factory=list)
    #: keys about which the worker asked the scheduler
    asked: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = self.rng
        self.stimulus = 0
        self.run_id = 0
        self.absurdity = rng.choice((0.0,) * 12 + (0.002, 0.002, 0.01, 0.2))
        self.bundling = rng.choice((0.0, 0.1, 0.3))
        temper = TEMPERS[rng.choice(sorted(TEMPERS))]
        self.weights = {
            name: weight * temper.get(name, 1) * rng.choice((0.3, 1, 1, 1, 2))
            for name, weight in WEIGHTS.items()
        }
        self.outcomes = [rng.choice((0, 1, 3)) for _ in GATHER_OUTCOMES]
        self.outcomes[0] = 8
        self.fail_rate = rng.choice((0.02, 0.1, 0.4))
        self.reschedule_rate = rng.choice((0.0, 0.05, 0.2))
        self.unstorable_rate = rng.choice((0.0, 0.0, 0.1))
        self.actor_rate = rng.choice((0.0, 0.0, 0.1, 0.5))
        self.dependency_rate = rng.choice((0.2, 0.6, 0.9))
        self.resource_rate = rng.choice((0.0, 0.0, 0.3, 0.9))
        self.priority = PRIORITIES[rng.choice(sorted(PRIORITIES))]
        #: what collections in messages are: lists off the wire, anything in process
        self.container = rng.choice((list, list, tuple, set))
        self.sizes = rng.choice(((1,), (0, 1, 7, 100), (10**6, 5 * 10**6, 2 * 10**7)))
        self.peers = [
            f"tcp://10.0.0.{1 + i % 3}:{1001 + i}" for i in range(rng.choice((1, 2, 4, 9, 25)))
        ]
        self.keys = self._make_keys(rng.choice((4, 10, 25, 25, 50, 50, 200)))
        self.actions = {name: getattr(self, f"_{name}") for name in WEIGHTS}

    def _make_keys(self, n: int) -> dict[Any, Known]:
        rng = self.rng
        styles: list[Callable[[int], Any]] = [
            lambda i: f"x-{i}",
            lambda i: ("chunk-0a1b2c3d4e", i, 0),
            lambda i: f"sum-aggregate-{i:08x}",
            lambda i: f"('shuffle-{i}', 1)",
            lambda i: "abc"[i % 3] * (1 + i // 3),
        ]
        chosen = rng.choice((styles[:1], styles[:2], styles))
        keys = [rng.choice(chosen)(i) for i in range(n)]
        return {key: Known(i, rng.choice(self.sizes)) for i, key in enumerate(keys)}

    def make_setup(self) -> Setup:
        rng = self.rng
        resources: dict[str, float] | None = None
        if self.resource_rate:
            resources = {"GPU": rng.choice((1, 2)), "R": rng.choice((1.0, 2.5))}
        throttled = rng.random() < 0.4
        counter_max = rng.choice((False,) * 19 + (rng.randrange(1, 1000),))
        if self.absurdity and not counter_max:
            counter_max = 20_000  # a story may go round in circles
        return Setup(
            nthreads=rng.choice((1, 1, 2, 4)),
            data=rng.choice((RefusingDict, RefusingMapping)),
            resources=resources,
            plugins=rng.choice(
                ((), (), ("recorder",), ("bystander", "failing"), ("failing", "recorder"))
            ),
            transfer_incoming_count_limit=rng.choice((1, 2)) if throttled else 9999,
            transfer_incoming_bytes_limit=rng.choice((math.inf, 1, 10**7)),
            transfer_message_bytes_limit=rng.choice((math.inf, 1, 50, 10**7)),
            validate=rng.random() < 0.7,
            transition_counter_max=counter_max,
            log_length=rng.choice((200, 200, 1000, 10)),
            first_serial=rng.randrange(1000),
            entries=rng.random() < 0.5,
        )

    # --- what the machine said

    def observe(self, instructions: list[wsm.Instruction]) -> None:
        for inst in instructions:
            if isinstance(inst, wsm.Execute):
                self.running[inst.key] = self.state.tasks[inst.key].run_id
            elif isinstance(inst, wsm.GatherDep):
                keys = sorted(inst.to_gather, key=repr)
                self.gathers[inst.worker] = (keys, inst.total_nbytes)
            elif isinstance(inst, wsm.RetryBusyWorkerLater):
                self.busy.append(inst.worker)
            elif isinstance(inst, wsm.RequestRefreshWhoHasMsg):
                self.asked = sorted(inst.keys, key=repr)

    # --- the next thing to say

    def step(self) -> Step:
        rng = self.rng
        if rng.random() < self.absurdity:
            absurd = nonsense.say(self)
            return absurd if isinstance(absurd, Recommend) else (absurd,)
        n = rng.choice((2, 2, 3, 5)) if rng.random() < self.bundling else 1
        events: list[Event] = []
        while len(events) < n:
            said = self._say()
            if isinstance(said, Poke):
                if events:
                    continue
                return said
            events.append(said)
        return tuple(events)

    def _say(self) -> Event | Poke:
        names, weights = list(self.weights), list(self.weights.values())
        if len(self.state.tasks) > 0.7 * len(self.keys):
            weights[names.index("free")] *= 4
        while True:
            said = self.actions[self.rng.choices(names, weights)[0]]()
            if said is not None:
                return said

    def _id(self, what: str) -> str:
        self.stimulus += 1
        return f"{what}-{self.stimulus}"

    # --- helpers that look at the state

    def _in_states(self, *states: str) -> list[Any]:
        return [key for key, ts in self.state.tasks.items() if ts.state in states]

    def _state_of(self, key: Any) -> str:
        ts = self.state.tasks.get(key)
        if ts is None:
            return "unknown"
        return f"{ts.state}({ts.previous})" if ts.previous else ts.state

    def _some_peers(self) -> list[str]:
        n = self.rng.choice((1, 1, 1, 2, 3))
        return self.rng.sample(self.peers, min(n, len(self.peers)))

    def _holders(self, key: Any) -> Any:
        """Where the scheduler says that a key is, never nowhere."""
        rng = self.rng
        out = self._some_peers()
        if self._state_of(key) == "memory":
            out = [HERE, *out] if rng.random() < 0.6 else [HERE]
        elif rng.random() < 0.02:
            out.append(HERE)
        return self.container(out)

    # --- scheduler

    def _plausible_dependency(self, key: Any) -> bool:
        ts = self.state.tasks.get(key)
        if ts is None or ts.state in ("memory", "fetch", "flight", "missing"):
            return True
        if ts.state in ("cancelled", "resumed"):
            return self.rng.random() < 0.7
        return self.rng.random() < 0.03

    def _dependencies(self, key: Any) -> list[Any]:
        """Keys with a lower index only, so that there are no cycles."""
        rng, known = self.rng, self.keys[key]
        if known.dependencies is None or rng.random() < 0.05:
            known.dependencies = []
            if known.index and rng.random() < self.dependency_rate:
                below = list(self.keys)[: known.index]
                wanted = rng.choice((1, 1, 2, 3, 6))
                known.dependencies = rng.sample(below, min(wanted, len(below)))
        return known.dependencies

    def compute_event(self, key: Any) -> Event:
        rng = self.rng
        self.run_id += 1
        dependencies = self._dependencies(key)
        if not all(self._plausible_dependency(dep) for dep in dependencies):
            dependencies = [dep for dep in dependencies if self._plausible_dependency(dep)]
        restrictions = {}
        if rng.random() < self.resource_rate:
            restrictions = rng.choice(({"GPU": 1}, {"R": 0.5}, {"R": 1, "GPU": 1}, {"R": 0}))
        return wsm.ComputeTaskEvent(
            key=key,
            run_id=self.run_id,
            who_has={dep: self._holders(dep) for dep in dependencies},
            nbytes={dep: self.keys[dep].nbytes for dep in dependencies},
            priority=self.priority(rng, self.run_id),
            run_spec=RUN_SPEC,
            resource_restrictions=restrictions,
            actor=key not in self.state.tasks and rng.random() < self.actor_rate,
            annotations=rng.choice(({}, {}, {"retries": 2}, {"span": {"name": ("a",)}})),
            span_id=rng.choice((None, "span-1")),
            stimulus_id=self._id("compute"),
        )

    def _compute(self) -> Event | None:
        tasks = self.state.tasks
        keys = [k for k in self.keys if k not in tasks or tasks[k].state == "released"]
        return self.compute_event(self.rng.choice(keys)) if keys else None

    def _compute_again(self) -> Event | None:
        known = list(self.state.tasks)
        if not known:
            return None
        event = self.compute_event(self.rng.choice(known))
        return None if self._would_conflict(event) and self.rng.random() < 0.98 else event

    def _would_conflict(self, event: Any) -> bool:
        """Whether releasing the task would recommend to release what it needs at once again.

        distributed raises RecommendationsConflict then.
        """
        tasks = self.state.tasks
        if tasks[event.key].state not in ("error", "fetch"):
            return False
        needed = {*event.who_has, *(dep.key for dep in tasks[event.key].dependencies)}
        return any(
            key not in tasks or (tasks[key].state not in KEPT and not tasks[key].waiters)
            for key in needed
        )

    def _free(self) -> Event | None:
        rng, tasks = self.rng, self.state.tasks
        if not tasks:
            return None
        start = rng.choice(list(tasks))
        if rng.random() < 0.1:
            start = rng.choice(list(self.keys))
        keys = {start: None}
        # What depends on a key goes with it, or the key stays.
        pending = [start]
        while pending:
            ts = tasks.get(pending.pop())
            for dependent in ts.dependents if ts is not None else ():
                if dependent.key not in keys and dependent.state != "released":
                    keys[dependent.key] = None
                    pending.append(dependent.key)
        if len(keys) > 5 and rng.random() < 0.8:
            return None
        shuffled = sorted(keys, key=repr)
        rng.shuffle(shuffled)
        return wsm.FreeKeysEvent(keys=self.container(shuffled), stimulus_id=self._id("free"))

    def _cancel_compute(self) -> Event | None:
        keys = [
            key
            for key in self._in_states("waiting", "ready", "constrained", "executing", "fetch")
            if not self.state.tasks[key].dependents
        ]
        if not keys:
            return None
        key = self.rng.choice(keys)
        return wsm.CancelComputeEvent(key=key, stimulus_id=self._id("cancel-compute"))

    def _steal(self) -> Event:
        keys = self._in_states("waiting", "ready", "constrained") or list(self.keys)
        if self.rng.random() < 0.3:
            keys = self._in_states("executing", "long-running", "cancelled") or list(self.keys)
        return wsm.StealRequestEvent(key=self.rng.choice(keys), stimulus_id=self._id("steal"))

    def _acquire(self) -> Event | None:
        rng = self.rng
        n = rng.choice((1, 1, 2, 4, 10, 10, 40))
        keys = [
            key
            for key in rng.sample(list(self.keys), min(n, len(self.keys)))
            if self._plausible_dependency(key)
        ]
        if not keys:
            return None
        return wsm.AcquireReplicasEvent(
            who_has={key: self._some_peers() for key in keys},
            nbytes={key: self.keys[key].nbytes for key in keys},
            stimulus_id=self._id("acquire"),
        )

    def _remove_replicas(self) -> Event | None:
        rng = self.rng
        idle = {"memory", "error", "released", "forgotten"}
        keys = [
            key
            for key, ts in self.state.tasks.items()
            if ts.state != "memory" or all(d.state in idle for d in ts.dependents)
        ]
        if not keys:
            return None
        n = rng.choice((1, 2, 5))
        keys = self.container(rng.sample(keys, min(n, len(keys))))
        return wsm.RemoveReplicasEvent(keys=keys, stimulus_id=self._id("remove-replicas"))

    def _refresh(self) -> Event | None:
        rng = self.rng
        keys = self.asked
        self.asked = []
        if not keys or rng.random() < 0.3:
            pool = self._in_states("fetch", "missing", "flight", "cancelled", "memory")
            keys = rng.sample(pool, min(len(pool), rng.choice((1, 2, 4))))
        if not keys:
            return None
        who_has = {key: [] if rng.random() < 0.25 else self._holders(key) for key in keys}
        return wsm.RefreshWhoHasEvent(who_has=who_has, stimulus_id=self._id("refresh"))

    def _scatter(self) -> Event | None:
        rng = self.rng
        fit = ["unknown", "memory", "fetch", "missing", "released"]
        if rng.random() < 0.1:
            # To be forgotten before the transfer is over is the end of a story.
            fit += ["flight", "cancelled(flight)"]
        keys = [key for key in self.keys if self._state_of(key) in fit]
        if not keys:
            return None
        keys = rng.sample(keys, min(len(keys), rng.choice((1, 1, 3))))
        return wsm.UpdateDataEvent(
            data={key: self.value() for key in keys}, stimulus_id=self._id("scatter")
        )

    def _remove_worker(self) -> Event:
        worker = self.rng.choice(self.peers)
        return wsm.RemoveWorkerEvent(worker=worker, stimulus_id=self._id("remove-worker"))

    # --- the worker itself

    def _pause(self) -> Event | None:
        return wsm.PauseEvent(stimulus_id=self._id("pause")) if self.state.running else None

    def _unpause(self) -> Event | None:
        if self.state.running and self.rng.random() < 0.97:
            return None
        return wsm.UnpauseEvent(stimulus_id=self._id("unpause"))

    def _find_missing(self) -> Event | None:
        if not self.state.missing_dep_flight and self.rng.random() < 0.9:
            return None
        return wsm.FindMissingEvent(stimulus_id=self._id("find-missing"))

    def _retry_busy(self) -> Event | None:
        if not self.busy:
            return None
        worker = self.busy.pop(self.rng.randrange(len(self.busy)))
        return wsm.RetryBusyWorkerEvent(worker=worker, stimulus_id=self._id("retry-busy"))

    # --- executor

    def value(self) -> Any:
        if self.rng.random() < self.unstorable_rate:
            return Unstorable(self.rng.choice("xy"))
        return self.rng.choice(VALUES)

    def _finish(self) -> Event | None:
        if not self.running:
            return None
        key = self.rng.choice(list(self.running))
        return self.done_event(key, self.running.pop(key))

    def done_event(self, key: Any, run_id: int) -> Event:
        rng = self.rng
        chance = rng.random()
        start = float(self.stimulus)
        if chance < self.fail_rate:
            timed = rng.random() < 0.8
            return wsm.ExecuteFailureEvent(
                key=key,
                run_id=run_id,
                start=start if timed else None,
                stop=start + 1 if timed else None,
                exception=Serialize(f"{key} failed"),
                traceback=rng.choice((None, Serialize("traceback"))),
                exception_text=f"Error({key!r})",
                traceback_text=rng.choice(("", "line 1")),
                stimulus_id=self._id("failure"),
            )
        if chance < self.fail_rate + self.reschedule_rate:
            return wsm.RescheduleEvent(key=key, stimulus_id=self._id("reschedule"))
        value = self.value()
        return wsm.ExecuteSuccessEvent(
            key=key,
            run_id=run_id,
            value=value,
            start=start,
            stop=start + 1,
            nbytes=self.keys[key].nbytes,
            type=type(value),
            stimulus_id=self._id("success"),
        )

    def _secede(self) -> Event | None:
        if not self.running:
            return None
        key = self.rng.choice(list(self.running))
        ts = self.state.tasks[key]
        if ts.state == "long-running" or ts.state not in ("executing", "cancelled", "resumed"):
            return None
        return wsm.SecedeEvent(key=key, compute_duration=1.5, stimulus_id=self._id("secede"))

    def _poke(self) -> Poke | None:
        rng = self.rng
        if self.running and rng.random() < 0.8:
            key = rng.choice(list(self.running))
            return rng.choice(
                (
                    Poke("thread", (key, rng.randrange(2**40))),
                    Poke("metadata", (key, "m", rng.randrange(3))),
                    Poke("started", (key, float(self.stimulus))),
                )
            )
        return rng.choice(
            (
                Poke("generation", (rng.choice((-1, 1)) * min(rng.choice(EDGES), 2**60),)),
                Poke("plugin", ("recorder",)),
                Poke("log", ("request-dep", self.peers[0], {*self.keys}, "poked")),
                Poke("resources", ("GPU", rng.choice((1, 2, 3)))) if self.resource_rate else None,
            )
        )

    # --- peers

    def _gathered(self) -> Event | None:
        if not self.gathers:
            return None
        worker = self.rng.choice(list(self.gathers))
        keys, nbytes = self.gathers.pop(worker)
        return self.gathered_event(worker, keys, nbytes)

    def gathered_event(self, worker: str, keys: list[Any], nbytes: int) -> Event:
        rng = self.rng
        outcome = rng.choices(GATHER_OUTCOMES, self.outcomes)[0]
        common = {"worker": worker, "total_nbytes": nbytes, "stimulus_id": self._id(outcome)}
        if outcome == "busy":
            return wsm.GatherDepBusyEvent(**common)
        if outcome == "network":
            return wsm.GatherDepNetworkFailureEvent(**common)
        if outcome == "failure":
            return wsm.GatherDepFailureEvent(
                exception=Serialize("cannot read it"),
                traceback=None,
                exception_text="Error()",
                traceback_text="",
                **common,
            )
        if outcome == "partial":
            keys = rng.sample(keys, rng.randrange(len(keys) + 1))
        elif outcome == "empty":
            keys = []
        return wsm.GatherDepSuccessEvent(data={key: self.value() for key in keys}, **common)
