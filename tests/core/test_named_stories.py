"""The life of tasks, message by message: every state, and every way in and out of it.

Each story is played on the native core and on distributed's state machine at once (see
stories.Duel), so what is asserted here is what both do. Fetching has its own file, and so have
cancelled and resumed tasks.
"""

from __future__ import annotations

import pickle

import distributed.worker_state_machine as wsm
import pytest

from fastworker.core import WorkerState
from support.core.compare import Divergence
from support.core.events import (
    FAR,
    HERE,
    NEAR,
    RUN_SPEC,
    acquire,
    add_keys,
    compute,
    erred,
    execute,
    failure,
    finished,
    free,
    gather,
    gathered,
    pause,
    released,
    remove_replicas,
    reschedule,
    rescheduled,
    scatter,
    success,
    unpause,
)
from support.core.situations import duel
from support.core.stories import SECRET, Duel, Poke, Setup, Unstorable

# --- released -> waiting -> ready -> executing -> memory -> released -> forgotten


def test_life_of_a_task() -> None:
    d = duel()
    assert d(compute("x", annotations={"a": 1}, span_id="s", run_id=7)) == [
        wsm.Execute(key="x", stimulus_id="compute")
    ]
    ts = d.state.tasks["x"]
    assert ts.state == "executing" and ts.priority == (0, 0) and ts.run_spec is RUN_SPEC
    assert (ts.annotations, ts.span_id, ts.run_id) == ({"a": 1}, "s", 7)
    assert d.state.executing == {ts} and d.state.executing_count == 1
    d.poke(Poke("thread", ("x", 1234)))
    d.poke(Poke("metadata", ("x", "m", 5)))
    assert d(success("x", 123, run_id=7, nbytes=28)) == [
        wsm.TaskFinishedMsg(
            key="x",
            run_id=7,
            nbytes=28,
            type=pickle.dumps(int, protocol=5),
            typename="int",
            metadata={"m": 5},
            thread=1234,
            startstops=[{"action": "compute", "start": 10.0, "stop": 11.0}],
            stimulus_id="success",
        )
    ]
    assert ts.state == "memory" and ts.type is int and d.state.data == {"x": 123}
    assert d.state.nbytes == 28 and not d.state.executing and d.state.executed_count == 1
    assert d(free("x")) == [wsm.ReleaseWorkerDataMsg(key="x", stimulus_id="free")]
    assert ts.state == "forgotten"
    assert not d.state.tasks and not d.state.data and not d.state.threads and d.state.nbytes == 0
    assert [record[:-1] for record in d.state.log] == [
        ("x", "compute-task", "released", "compute"),
        ("x", "released", "waiting", "waiting", {"x": "ready"}, "compute"),
        ("x", "waiting", "ready", "ready", {"x": "executing"}, "compute"),
        ("x", "ready", "executing", "executing", {}, "compute"),
        ("x", "put-in-memory", "success"),
        ("x", "executing", "memory", "memory", {}, "success"),
        ("free-keys", ["x"], "free"),
        ("x", "memory", "released", "released", {"x": "forgotten"}, "free"),
        ("x", "released", "forgotten", "forgotten", {}, "free"),
    ]
    d.finish()


def test_nothing_to_handle() -> None:
    d = duel()
    assert d() == []
    assert d(free("never heard of"), free()) == []
    assert d.states() == {} and d.state.transition_counter == 0


def test_dependency_is_fetched_first() -> None:
    d = duel()
    assert d(compute("y", {"x": [FAR]}, nbytes=5)) == [
        wsm.GatherDep(worker=FAR, to_gather={"x"}, total_nbytes=5, stimulus_id="compute")
    ]
    assert d.states() == {"y": "waiting", "x": "flight"}
    x, y = d.state.tasks["x"], d.state.tasks["y"]
    assert x.priority == y.priority == (0, 0)
    assert y.waiting_for_data == {x} == y.dependencies and x.waiters == {y} == x.dependents
    assert (x.coming_from, x.who_has, x.nbytes) == (FAR, {FAR}, 5)
    assert d.state.has_what == {FAR: {"x"}} and d.state.in_flight_workers == {FAR: {"x"}}
    assert d.state.transfer_incoming_bytes == 5 and d.state.transfer_incoming_count_total == 1
    assert d(gathered(FAR, 5, x=1)) == [add_keys("x"), execute("y")]
    assert d.states() == {"y": "executing", "x": "memory"}
    assert d.state.transfer_incoming_bytes == 0 and not d.state.in_flight_workers
    assert d(success("y")) == [finished("y")]
    # The scheduler frees what is no longer needed in any order.
    assert d(free("x")) == [released("x")]
    assert d.states() == {"y": "memory", "x": "released"}
    assert d(free("y")) == [released("y")]
    assert d.states() == {}
    d.finish()


def test_dependency_in_memory_already() -> None:
    d = duel()
    d(scatter(x=1))
    assert d(compute("y", {"x": [HERE, FAR]})) == [execute("y")]
    assert d.state.tasks["x"].who_has == {FAR}
    d.finish()


def test_released_dependency_goes_with_its_last_dependent() -> None:
    d = duel(nthreads=2)
    d(compute("y", {"x": [FAR]}), compute("z", {"x": [FAR]}))
    d(free("y"))
    assert d.states() == {"x": "flight", "z": "waiting"}
    d(free("z"))
    assert d.states() == {"x": "cancelled(flight)"}
    assert d(gathered(FAR, x=1)) == []
    assert d.states() == {}
    d.finish()


def test_several_dependencies() -> None:
    d = duel()
    d(compute("y", {"a": [NEAR], "b": [FAR], "c": [FAR]}))
    assert d(gathered(FAR, 2, b=1, c=1)) in (
        [add_keys("b"), add_keys("c")],
        [add_keys("c"), add_keys("b")],
    )
    assert d.state_of("y") == "waiting"
    assert d(gathered(NEAR, a=1)) == [add_keys("a"), execute("y")]
    d.finish()


# --- error and rescheduled


def test_error() -> None:
    d = duel()
    d(compute("x"), compute("y"))
    d.poke(Poke("thread", ("x", 77)))
    instructions = d(failure("x"))
    assert execute("y") in instructions
    (msg,) = [inst for inst in instructions if isinstance(inst, wsm.TaskErredMsg)]
    assert (msg.key, msg.run_id, msg.thread) == ("x", 1, 77)
    assert (msg.exception.data, msg.traceback.data) == ("exception", "traceback")
    assert (msg.exception_text, msg.traceback_text) == ("Error()", "line 1")
    assert msg.startstops == [{"action": "compute", "start": 10.0, "stop": 11.0}]
    assert msg.to_dict()["status"] == "error"
    ts = d.state.tasks["x"]
    assert ts.state == "error" and ts.exception is msg.exception
    # computed once more
    assert d(compute("x", run_id=2)) == []
    assert ts.state == "ready"
    assert ts.exception is None and ts.traceback is None
    assert ts.exception_text == "" and ts.traceback_text == ""
    assert d(free("x")) == []
    assert d.states() == {"y": "executing"}
    d.finish()


def test_failure_before_it_began() -> None:
    d = duel()
    d(compute("x"))
    event = wsm.ExecuteFailureEvent.dummy("x", stimulus_id="failure")
    assert d(event) == [erred("x", startstops=[])]
    d.finish()


def test_rescheduled() -> None:
    d = duel()
    d(scatter(x=1))
    d(compute("y", {"x": [HERE]}))
    assert d(reschedule("y")) == [rescheduled("y")]
    assert d.states() == {"x": "memory"}
    # with a dependent it is not forgotten
    d(compute("y", {"x": [HERE]}))
    d(compute("z", {"y": [FAR]}))
    assert d.states() == {"x": "memory", "y": "resumed(executing->fetch)", "z": "waiting"}
    d.finish()


def test_value_that_cannot_be_stored() -> None:
    d = duel()
    d(compute("x"))
    (msg,) = d(success("x", Unstorable(), run_id=3))
    assert isinstance(msg, wsm.TaskErredMsg)
    assert (msg.key, msg.run_id) == ("x", 3)
    assert msg.exception_text == "Refusal('x', 'x')" and "__setitem__" in msg.traceback_text
    assert d.states() == {"x": "error"} and d.state.data == {} and d.state.nbytes == 0
    d.finish()


def test_type_that_cannot_be_pickled() -> None:
    d = duel()
    d(compute("x"))
    (msg,) = d(success("x", SECRET))
    assert pickle.loads(msg.type) == msg.typename
    assert msg.typename.endswith("Secret")


# --- actors


def test_actor() -> None:
    d = duel()
    assert d(compute("a", actor=True)) == [execute("a")]
    assert d.state.actors == {"a": None}
    actor = object()
    assert d(success("a", actor, nbytes=5)) == [finished("a")]
    assert d.state.actors == {"a": actor} and d.state.data == {} and d.state.nbytes == 5
    assert d(compute("y", {"a": [HERE]})) == [execute("y")]
    d(success("y"))
    assert d(free("a", "y")) == [released("y"), released("a")]
    assert d.state.actors == {} and d.states() == {}
    d.finish()


# --- scatter


def test_scatter() -> None:
    d = duel()
    assert d(scatter(x=1, y="two")) == []
    assert d.states() == {"x": "memory", "y": "memory"} and d.state.data == {"x": 1, "y": "two"}
    assert d.state.tasks["x"].nbytes > 0
    assert d.state.nbytes == d.state.tasks["x"].nbytes + d.state.tasks["y"].nbytes
    # again: the first value stays
    assert d(scatter(x=2)) == []
    assert d.state.data["x"] == 1
    assert d(free("x", "y")) in (
        [released("x"), released("y")],
        [released("y"), released("x")],
    )
    d.finish()


def test_scatter_wakes_dependents() -> None:
    d = duel()
    d(pause())
    d(compute("y", {"x": [FAR]}))
    assert d.state_of("x") == "fetch"
    d(unpause(), pause())
    assert d.state_of("x") == "flight"
    assert d(scatter(x=1)) == [add_keys("x")]
    assert d.states() == {"y": "ready", "x": "memory"}
    # The transfer comes too late and changes nothing.
    assert d(gathered(FAR, x=2)) == []
    assert d.state.data == {"x": 1}
    d.finish()


def test_scatter_over_fetch_and_missing() -> None:
    d = duel()
    d(pause())
    d(acquire({"x": [FAR]}), acquire({"y": [HERE]}))
    assert d.states() == {"x": "fetch", "y": "missing"}
    assert d(scatter(x=1, y=2)) == []
    assert d.states() == {"x": "memory", "y": "memory"}
    assert d.state.fetch_count == 0 and not d.state.missing_dep_flight
    d.finish()


def test_scatter_of_a_value_that_cannot_be_stored() -> None:
    d = duel()
    assert d(scatter(x=Unstorable("big"))) == [erred("x", exception_text="Refusal('x', 'big')")]
    assert d.states() == {"x": "error"}
    d.finish()


def test_scatter_over_a_running_task() -> None:
    """distributed has no answer to that, and neither have we."""
    d = duel()
    d(compute("x"))
    with pytest.raises(AssertionError):
        d(scatter(x=1))


# --- replicas


def test_remove_replicas() -> None:
    d = duel()
    d(scatter(x=1), compute("y"))
    assert d(remove_replicas("x", "y", "unknown")) == [released("x")]
    assert d.states() == {"y": "executing"}
    d.finish()


def test_replica_in_use_cannot_be_removed() -> None:
    d = duel()
    d(scatter(x=1), compute("y", {"x": [HERE]}))
    with pytest.raises(RuntimeError, match="x"):
        d(remove_replicas("x"))


# --- several at once, limits, plugins, the queue


def test_several_events_in_one_call() -> None:
    """They are handled one by one: what the first leads to comes before the second."""
    d = duel()
    assert d(acquire({"a": [FAR]}), acquire({"b": [FAR]}), compute("x"), free("x")) == [
        gather(FAR, "a"),
        execute("x"),
    ]
    assert d.states() == {"a": "flight", "b": "fetch", "x": "cancelled(executing)"}
    assert [type(ev).__name__ for ev in d.state.stimulus_log] == [
        "AcquireReplicasEvent",
        "AcquireReplicasEvent",
        "ComputeTaskEvent",
        "FreeKeysEvent",
    ]
    d.finish()


def test_transition_counter_max() -> None:
    d = duel(transition_counter_max=4)
    d(compute("x"))
    assert d.state.transition_counter == 3
    with pytest.raises(wsm.TransitionCounterMaxExceeded) as info:
        d(success("x"))
    assert (info.value.key, info.value.start, info.value.finish) == ("x", "executing", "memory")


def test_plugins_hear_of_every_transition() -> None:
    d = duel(plugins=("recorder", "failing", "bystander"))
    d(compute("x"))
    assert [call[0] for call in d.actual.plugin_calls[::2]] == [
        ("x", "released", "waiting"),
        ("x", "waiting", "ready"),
        ("x", "ready", "executing"),
    ]
    d(failure("x"))
    d(compute("x"))
    # By way of released: the two steps, not the leap.
    assert [call[0][1:] for call in d.actual.plugin_calls[:4:2]] == [
        ("error", "released"),
        ("released", "waiting"),
    ]
    d.finish()


def test_queue_has_no_memory() -> None:
    """The one thing in which we differ on purpose.

    distributed's queue keeps what was discarded until it comes to the top. A task that leaves and
    comes back before that is found at its old place, whatever its priority is by then. Ours gives
    it the place that its priority says.
    """
    events = [
        pause(),
        compute("keep", priority=(5,)),
        compute("x", priority=(0,)),
        # The scheduler takes x elsewhere; y, which needs it, keeps it from being forgotten here.
        compute("y", {"x": [FAR]}),
        # Now it wants x here after all, but later than the other.
        compute("x", priority=(9,)),
    ]
    exact = duel()
    for event in events:
        exact(event)
    assert exact.states() == {"keep": "ready", "x": "ready", "y": "waiting"}
    assert [ts.key for ts in exact.state.ready.sorted()] == ["keep", "x"]
    assert exact(unpause()) == [execute("keep")]
    exact.finish()

    lazy = Duel(WorkerState, Setup(), real_queue=True)
    for event in events[:-1]:
        lazy(event)
    with pytest.raises(Divergence) as info:
        lazy(events[-1])
    assert info.value.where == "ready"
    assert [key for key, _ in info.value.oracle] == ["x", "keep"]
    assert lazy.oracle.state.handle_stimulus(unpause()) == [execute("x")]
