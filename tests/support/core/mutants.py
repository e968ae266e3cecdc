"""State machines with one bug each: the differential test must find every one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import distributed.worker_state_machine as wsm

from support.core.oracle import STOCK, ExactQueue

MUTANTS: dict[str, type] = {}


def mutant(cls: type) -> type:
    MUTANTS[cls.__name__] = cls
    return cls


def broken_transition(start: str, finish: str) -> Callable[[Callable], type]:
    """A machine whose transition from `start` to `finish` is wrapped by the decorated function.

    It is called with the machine, the task and a function that runs the right transition.
    """

    def decorate(function: Callable) -> type:
        right = STOCK._TRANSITIONS_TABLE[start, finish]

        def wrong(self: Any, ts: Any, *args: Any, stimulus_id: str) -> Any:
            return function(self, ts, lambda: right(self, ts, *args, stimulus_id=stimulus_id))

        table = {**STOCK._TRANSITIONS_TABLE, (start, finish): wrong}
        cls = type(function.__name__, (STOCK,), {"_TRANSITIONS_TABLE": table})
        return mutant(cls)

    return decorate


def broken_event(*events: type) -> Callable[[Callable], type]:
    """A machine whose handling of some kinds of events is wrapped by the decorated function.

    It is called with the machine, the event and a function that handles the event rightly.
    """

    def decorate(function: Callable) -> type:
        def _handle_event(self: Any, ev: wsm.StateMachineEvent) -> Any:
            right = STOCK.__dict__["_handle_event"].__get__(self, STOCK)
            if isinstance(ev, events):
                return function(self, ev, lambda: right(ev))
            return right(ev)

        return mutant(type(function.__name__, (STOCK,), {"_handle_event": _handle_event}))

    return decorate


# --- what a transition leaves behind


@broken_transition("memory", "released")
def KeepsNbytes(self, ts, right):
    nbytes = self.nbytes
    out = right()
    self.nbytes = nbytes
    return out


@broken_transition("cancelled", "fetch")
def ForgetsNextOnResume(self, ts, right):
    out = right()
    if ts.state == "resumed":
        ts.next = "waiting"
    return out


@broken_transition("resumed", "memory")
def ReportsResumedTransferAsTransfer(self, ts, right):
    previous = ts.previous
    recs, instructions = right()
    if previous == "flight" and ts.state == "memory":
        stimulus_id = instructions[0].stimulus_id
        instructions = [wsm.AddKeysMsg(keys=[ts.key], stimulus_id=stimulus_id)]
    return recs, instructions


@broken_transition("fetch", "flight")
def ForgetsWhereDataComesFrom(self, ts, right):
    out = right()
    ts.coming_from = None
    return out


@broken_transition("executing", "long-running")
def DoesNotRefillAfterSecede(self, ts, right):
    nthreads, self.nthreads = self.nthreads, 0
    out = right()
    self.nthreads = nthreads
    return out


@broken_transition("cancelled", "waiting")
def DoesNotReportSecedeInArrears(self, ts, right):
    recs, _ = right()
    return recs, []


@broken_transition("released", "forgotten")
def KeepsDependents(self, ts, right):
    before = [(dep, set(dep.dependents)) for dep in ts.dependencies]
    out = right()
    for dep, dependents in before:
        dep.dependents = dependents
    return out


@broken_transition("flight", "memory")
def LosesWakeups(self, ts, right):
    recs, instructions = right()
    if len(recs) > 1:
        recs.popitem()
    return recs, instructions


# --- what an event does


@broken_event(wsm.RetryBusyWorkerEvent)
def StaysBusy(self, ev, right):
    return {}, []


@broken_event(wsm.GatherDepBusyEvent)
def DoesNotAskForOtherReplicas(self, ev, right):
    recs, instructions = right()
    return recs, instructions[:1]


@broken_event(wsm.GatherDepSuccessEvent)
def IgnoresTransferSize(self, ev, right):
    out = right()
    self.transfer_incoming_bytes += ev.total_nbytes
    return out


@broken_event(wsm.ComputeTaskEvent)
def OldestGenerationFirst(self, ev, right):
    before = self.generation
    out = right()
    if self.generation != before:
        self.generation = before + 1
    return out


@broken_event(wsm.ComputeTaskEvent)
def ForgetsAnnotations(self, ev, right):
    ev.annotations = {}
    return right()


@broken_event(wsm.ExecuteFailureEvent)
def LosesResourcesOnFailure(self, ev, right):
    ts = self.tasks.get(ev.key)
    if ts is None:
        return right()
    restrictions, ts.resource_restrictions = ts.resource_restrictions, {}
    out = right()
    ts.resource_restrictions = restrictions
    return out


@broken_event(wsm.ExecuteSuccessEvent)
def ForgetsHowLongItTook(self, ev, right):
    out = right()
    ts = self.tasks.get(ev.key)
    if ts is not None:
        ts.startstops.clear()
    return out


@broken_event(wsm.StealRequestEvent)
def LetsRunningTasksBeStolen(self, ev, right):
    recs, instructions = right()
    ts = self.tasks.get(ev.key)
    if ts is not None and ts.state == "executing":
        recs = {ts: "released"}
    return recs, instructions


@broken_event(wsm.RemoveWorkerEvent)
def ForgetsOnlyOneWorker(self, ev, right):
    known = dict(self.has_what)
    out = right()
    for worker, keys in known.items():
        if len(keys) > 3 and worker != ev.worker:
            self.has_what.pop(worker, None)
            break
    return out


@broken_event(wsm.UnpauseEvent)
def DoesNotComputeAfterPause(self, ev, right):
    self.running = True
    return {}, []


@broken_event(wsm.FreeKeysEvent)
def ChecksNothing(self, ev, right):
    self.validate = False
    return right()


# --- helpers


@mutant
class TrustsItsOwnAddress(STOCK):
    def _update_who_has(self, who_has):
        super()._update_who_has(who_has)
        for key, workers in who_has.items():
            if self.address in workers and key in self.tasks:
                self.tasks[key].who_has.add(self.address)


@mutant
class IgnoresMessageLimit(STOCK):
    def _select_keys_for_gather(self, available):
        limit, self.transfer_message_bytes_limit = self.transfer_message_bytes_limit, math.inf
        try:
            return super()._select_keys_for_gather(available)
        finally:
            self.transfer_message_bytes_limit = limit


@mutant
class IgnoresCountLimit(STOCK):
    def _should_throttle_incoming_transfers(self):
        return self.transfer_incoming_bytes >= self.transfer_incoming_bytes_limit


@mutant
class RollsDiceTooOften(STOCK):
    def _select_workers_for_gather(self):
        self.rng.random()
        return super()._select_workers_for_gather()


@mutant
class IgnoresResources(STOCK):
    def _resource_restrictions_satisfied(self, ts):
        return True


@mutant
class CountsTransitionsOnce(STOCK):
    def _transition(self, ts, finish, *args, stimulus_id):
        before = self.transition_counter
        out = super()._transition(ts, finish, *args, stimulus_id=stimulus_id)
        self.transition_counter = min(self.transition_counter, before + 1)
        return out


@mutant
class HidesFirstTransitionFromPlugins(STOCK):
    def _notify_plugins(self, method_name, key, start, finish):
        if (start, finish) != ("released", "waiting"):
            super()._notify_plugins(method_name, key, start, finish)


@mutant
class PluginsStopIt(STOCK):
    def _notify_plugins(self, method_name, *args):
        for plugin in self.plugins.values():
            if hasattr(plugin, method_name):
                getattr(plugin, method_name)(*args)


@mutant
class LogsFindMissing(STOCK):
    def handle_stimulus(self, *stims):
        out = super().handle_stimulus(*stims)
        for ev in stims:
            if isinstance(ev, wsm.FindMissingEvent):
                self.stimulus_log.append(ev.to_loggable(handled=0.0))
        return out


@mutant
class KeepsValuesInLog(STOCK):
    def handle_stimulus(self, *stims):
        out = super().handle_stimulus(*stims)
        for ev in stims:
            ev.handled = 1.0
        n = sum(not isinstance(ev, wsm.FindMissingEvent) for ev in stims)
        for _ in range(min(n, len(self.stimulus_log))):
            self.stimulus_log.pop()
        self.stimulus_log.extend(s for s in stims if not isinstance(s, wsm.FindMissingEvent))
        return out


@mutant
class CommunicatesOncePerCall(STOCK):
    """Several events in one call are not the same as the same events one by one."""

    def handle_stimulus(self, *stims):
        if len(stims) < 2:
            return super().handle_stimulus(*stims)
        running, self.running = self.running, False
        out = super().handle_stimulus(*stims[:-1])
        self.running = running
        return out + super().handle_stimulus(stims[-1])


@mutant
class RaisesSomethingElse(STOCK):
    def handle_stimulus(self, *stims):
        try:
            return super().handle_stimulus(*stims)
        except wsm.InvalidTransition as error:
            raise RuntimeError("invalid transition") from error


@mutant
class ForgivesEverything(STOCK):
    def handle_stimulus(self, *stims):
        try:
            return super().handle_stimulus(*stims)
        except Exception:
            return []


class YoungestFirst(ExactQueue):
    """A queue that breaks ties the wrong way round."""

    def add(self, value):
        if value not in self:
            self._added -= 2
            super().add(value)


@mutant
class BreaksTiesTheOtherWay(STOCK):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.ready = YoungestFirst(key=self.ready.key)
        self.constrained = YoungestFirst(key=self.constrained.key)
        self.data_needed.default_factory = lambda: YoungestFirst(key=self.ready.key)


@mutant
class RoundsPriorities(STOCK):
    def _handle_event(self, ev):
        if isinstance(ev, wsm.ComputeTaskEvent):
            ev.priority = tuple(map(float, ev.priority))
        return super()._handle_event(ev)


@mutant
class WalksTasksBackwards(STOCK):
    """Recommendations taken in another order than stock takes them."""

    def _transitions(self, recommendations, *, stimulus_id):
        backwards = dict(reversed(recommendations.items()))
        return super()._transitions(backwards, stimulus_id=stimulus_id)
