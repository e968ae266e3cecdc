"""What runs when, message by message: priorities, threads, resources, secede, pause, stealing.

Each story is played on the native core and on distributed's state machine at once.
"""

from __future__ import annotations

from typing import Any

import distributed.worker_state_machine as wsm
import pytest

from support.core.events import (
    FAR,
    NEAR,
    acquire,
    add_keys,
    cancel_compute,
    compute,
    erred,
    execute,
    failure,
    finished,
    gather,
    gathered,
    pause,
    reschedule,
    rescheduled,
    scatter,
    secede,
    steal,
    stolen,
    success,
    unpause,
)
from support.core.situations import duel
from support.core.stories import Poke

# --- the order in which tasks run


def test_priority_then_newest_first() -> None:
    d = duel()
    d(compute("running"))
    d(compute("a", priority=(1,)))
    d(compute("b", priority=(0,)))
    d(compute("c", priority=(1,)))
    d(compute("d", priority=(-1,)))
    assert [ts.key for ts in d.state.ready.sorted()] == ["d", "b", "c", "a"]
    assert [d.state.tasks[key].priority for key in "abcd"] == [(1, -1), (0, -2), (1, -3), (-1, -4)]
    for key, successor in (("running", "d"), ("d", "b"), ("b", "c"), ("c", "a")):
        assert d(success(key)) == [finished(key), execute(successor)]
    d.finish()


@pytest.mark.parametrize(
    "low,high",
    [
        ((0,), (1,)),
        ((0,), (0.5,)),
        ((-1.5,), (-1,)),
        ((0, 1), (0, 2)),
        ((0, -9), (0, 5)),
        # The generation comes next: 0 for the running task, then -1 and -2.
        ((0,), (0, 0)),
        ((2**70,), (2**70 + 1,)),
        ((2**53,), (2**53 + 1,)),
        ((-(2**70),), (-5,)),
        ((-float("inf"),), (-(2**70),)),
        ((2**70,), (float("inf"),)),
        ((1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7)),
        ((1, 2, 3), (1, 2, 3, 4, 5, 6)),
        ((False,), (True,)),
        ([1, 2], [1, 3]),
    ],
)
def test_priorities_of_all_sorts(low: Any, high: Any) -> None:
    for first, second in ((low, high), (high, low)):
        d = duel()
        d(compute("running"))
        d(compute("first", priority=first))
        d(compute("second", priority=second))
        priorities = {ts.key: ts.priority for ts in d.state.tasks.values()}
        assert priorities["first"] == (*first, -1) and priorities["second"] == (*second, -2)
        expect = sorted(("first", "second"), key=priorities.__getitem__)
        assert [ts.key for ts in d.state.ready.sorted()] == expect
        assert d(success("running")) == [finished("running"), execute(expect[0])]
        assert d.state_of(expect[0]) == "executing" and d.state_of(expect[1]) == "ready"
        d.finish()


def test_threads_are_filled() -> None:
    d = duel(nthreads=2)
    assert d(compute("a"), compute("b"), compute("c")) == [execute("a"), execute("b")]
    assert d(failure("a")) == [erred("a"), execute("c")]
    assert d.state.executing_count == 2
    d.finish()


def test_compute_again_while_it_lasts() -> None:
    """The scheduler may repeat itself; a task that is on its way is left alone."""
    d = duel(resources={"GPU": 1})
    d(compute("running"))
    d(compute("ready"))
    d(compute("waiting", {"x": [FAR]}))
    d(compute("constrained", resource_restrictions={"GPU": 1}))
    d(compute("gpu", resource_restrictions={"GPU": 1}))
    before = d.states()
    for key in before.keys() - {"x"}:
        assert d(compute(key, run_id=2, priority=(5,))) == []
        assert d.state.tasks[key].run_id == 2
    assert d.states() == before
    assert d.state.tasks["ready"].priority[0] == 0
    d.finish()


def test_compute_again_in_memory() -> None:
    d = duel()
    d(compute("x"))
    d(success("x", 1))
    assert d(compute("x", run_id=2)) == [finished("x", run_id=2, nbytes=8, typename="int")]
    assert d.state.tasks["x"].run_id == 2
    d.finish()


# --- resources


def test_constrained_tasks_wait_for_resources() -> None:
    d = duel(nthreads=9, resources={"GPU": 1, "R": 2.5})
    assert d(compute("a", resource_restrictions={"GPU": 1})) == [execute("a")]
    assert d(compute("b", resource_restrictions={"GPU": 1, "R": 1})) == []
    assert d(compute("c", resource_restrictions={"R": 2})) == [execute("c")]
    assert d.states() == {"a": "executing", "b": "constrained", "c": "executing"}
    assert d.state.available_resources == {"GPU": 0, "R": 0.5}
    assert d.state.total_resources == {"GPU": 1, "R": 2.5}
    d(success("a"))
    assert d.state.available_resources == {"GPU": 1, "R": 0.5}
    d(failure("c"))
    assert d.states() == {"a": "memory", "b": "executing", "c": "error"}
    assert d.state.available_resources == {"GPU": 0, "R": 1.5}
    assert d(reschedule("b")) == [rescheduled("b")]
    assert d.state.available_resources == d.state.total_resources
    d.finish()


def test_best_constrained_task_holds_back_the_others() -> None:
    d = duel(nthreads=9, resources={"GPU": 2})
    d(compute("a", resource_restrictions={"GPU": 1}))
    d(compute("big", priority=(0,), resource_restrictions={"GPU": 2}))
    assert d(compute("small", priority=(1,), resource_restrictions={"GPU": 1})) == []
    assert [ts.key for ts in d.state.constrained.sorted()] == ["big", "small"]
    # ready tasks are not held back
    assert d(compute("plain", priority=(2,))) == [execute("plain")]
    d(success("a"))
    assert d.state_of("big") == "executing" and d.state_of("small") == "constrained"
    d.finish()


@pytest.mark.parametrize("constrained_first", [False, True])
def test_ready_and_constrained_compete_by_priority(constrained_first: bool) -> None:
    d = duel(resources={"GPU": 1})
    d(compute("running"))
    d(compute("r", priority=(1,)))
    d(compute("c", priority=(0 if constrained_first else 2,), resource_restrictions={"GPU": 1}))
    d(success("running"))
    assert d.state_of("c") == ("executing" if constrained_first else "constrained")
    assert d.state_of("r") == ("ready" if constrained_first else "executing")
    d.finish()


def test_no_resources_needed() -> None:
    d = duel(resources={"GPU": 0})
    assert d(compute("x", resource_restrictions={"GPU": 0})) == [execute("x")]
    assert [record[2] for record in d.state.log if len(record) == 7] == [
        "waiting",
        "ready",
        "constrained",
        "executing",
    ]
    d.finish()


def test_resources_come_later() -> None:
    """``Worker.set_resources`` changes them under way; only an event looks at them again."""
    d = duel(resources={"GPU": 0})
    assert d(compute("x", resource_restrictions={"GPU": 1})) == []
    d.poke(Poke("resources", ("GPU", 1)))
    assert d.state.available_resources == {"GPU": 1}
    assert d.state_of("x") == "constrained"
    assert d(unpause()) == [execute("x")]
    d.finish()


def test_resource_that_the_worker_does_not_have() -> None:
    d = duel(resources={"GPU": 1})
    with pytest.raises(KeyError, match="unheard-of"):
        d(compute("x", resource_restrictions={"unheard-of": 1}))


# --- long-running


def test_seceded_task_frees_its_thread() -> None:
    d = duel()
    d(compute("x"), compute("y"))
    assert d(secede("x")) == [
        wsm.LongRunningMsg(key="x", run_id=1, compute_duration=1.5, stimulus_id="secede"),
        execute("y"),
    ]
    assert d.states() == {"x": "long-running", "y": "executing"}
    assert d.state.long_running == {d.state.tasks["x"]}
    assert d.state.all_running_tasks == set(d.state.tasks.values())
    assert d.state.executing_count == 1
    assert d(secede("x")) == []
    assert d(compute("x")) == []
    assert d(success("x")) == [finished("x")]
    assert not d.state.long_running
    d.finish()


@pytest.mark.parametrize("outcome", [failure, reschedule])
def test_seceded_task_that_does_not_succeed(outcome: Any) -> None:
    d = duel(resources={"GPU": 1})
    d(compute("x", resource_restrictions={"GPU": 1}))
    d(secede("x"))
    assert d.state.available_resources == {"GPU": 0}
    assert d(outcome("x")) == [erred("x") if outcome is failure else rescheduled("x")]
    assert d.state.available_resources == {"GPU": 1}
    d.finish()


def test_secede_of_a_task_that_is_gone() -> None:
    d = duel()
    assert d(secede("x")) == []
    d(scatter(x=1))
    with pytest.raises(wsm.InvalidTransition):
        d(secede("x"))


# --- pause


def test_paused_worker_starts_nothing() -> None:
    d = duel(nthreads=2)
    d(compute("x"), compute("y", {"d": [FAR]}))
    assert d(pause()) == []
    assert d.state.running is False
    assert d(compute("z"), acquire({"e": [NEAR]})) == []
    # What runs already goes on.
    assert d(gathered(FAR, d=1)) == [add_keys("d")]
    assert d(success("x")) == [finished("x")]
    assert d.states() == {
        "x": "memory",
        "y": "ready",
        "d": "memory",
        "z": "ready",
        "e": "fetch",
    }
    assert d(unpause()) == [execute("y"), execute("z"), gather(NEAR, "e")]
    assert d.state.executing_count == 2 and d.state_of("e") == "flight"
    assert d(unpause()) == []
    d.finish()


# --- stealing and cancel-compute


@pytest.mark.parametrize(
    "key,state", [("ready", "ready"), ("waiting", "waiting"), ("constrained", "constrained")]
)
def test_steal(key: str, state: str) -> None:
    d = duel(resources={"GPU": 0})
    d(compute("executing"), compute("ready"), compute("waiting", {"d": [FAR]}))
    d(compute("constrained", resource_restrictions={"GPU": 1}))
    assert d(steal(key)) == [stolen(key, state)]
    assert key not in d.state.tasks
    if key == "waiting":
        assert d.state_of("d") == "cancelled(flight)"
    d.finish()


@pytest.mark.parametrize("key", ["executing", "long-running", "memory", "error", "flight", None])
def test_steal_too_late(key: str | None) -> None:
    d = duel()
    d(compute("error"))
    d(failure("error"))
    d(compute("long-running"))
    d(secede("long-running"))
    d(scatter(memory=1))
    d(compute("executing"), acquire({"flight": [FAR]}))
    before = d.states()
    assert d(steal(key)) == [stolen(key, key)]
    assert d.states() == before
    d.finish()


def test_stolen_task_with_a_dependent_stays_known() -> None:
    d = duel()
    d(compute("running"), compute("x"))
    d(pause())
    # Another worker ran x meanwhile, says the scheduler.
    d(compute("y", {"x": [FAR]}))
    # What x knew of its peers went when it was released; the scheduler will be asked.
    assert d.states() == {"running": "executing", "x": "missing", "y": "waiting"}
    assert d(steal("y")) == [stolen("y", "waiting")]
    assert d.states() == {"running": "executing"}
    d.finish()


def test_cancel_compute() -> None:
    d = duel()
    d(compute("executing"), compute("ready"), compute("waiting", {"d": [FAR]}))
    for key in ("executing", "d", "unknown"):
        before = d.states()
        assert d(cancel_compute(key)) == []
        assert d.states() == before
    assert d(cancel_compute("ready")) == []
    assert d(cancel_compute("waiting")) == []
    assert d.states() == {"executing": "executing", "d": "cancelled(flight)"}
    assert ("ready", "cancel-compute", "cancel-compute") in [r[:-1] for r in d.state.log]
    d.finish()


def test_cancel_compute_of_what_others_need() -> None:
    d = duel()
    d(compute("running"), compute("x"))
    d.state.tasks["x"].dependents.add(d.state.tasks["running"])
    d.oracle.state.tasks["x"].dependents.add(d.oracle.state.tasks["running"])
    with pytest.raises(AssertionError):
        d(cancel_compute("x"))
