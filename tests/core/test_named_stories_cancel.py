"""Cancelled and resumed tasks, message by message.

What runs or is being fetched cannot be stopped. Until it is over, a task that is no longer wanted
is `cancelled`; one that is wanted again, but for something else, is `resumed`. Most deadlocks of
Dask workers were in here.

Each story is played on the native core and on distributed's state machine at once.
"""

from __future__ import annotations

from collections.abc import Callable

import distributed.worker_state_machine as wsm
import pytest

from support.core.events import (
    FAR,
    HERE,
    NEAR,
    acquire,
    add_keys,
    ask_who_has,
    busy,
    compute,
    execute,
    failure,
    finished,
    free,
    garbled,
    gather,
    gathered,
    lost,
    pause,
    released,
    remove_replicas,
    remove_worker,
    reschedule,
    retry_later,
    scatter,
    secede,
    seceded,
    steal,
    stolen,
    success,
    unpause,
)
from support.core.situations import (
    duel,
    in_flight,
    resumed_to_fetch,
    resumed_to_waiting,
    with_running,
)
from support.core.stories import Unstorable

RUNNING = pytest.mark.parametrize("running", ["executing", "long-running"])
OUTCOMES = pytest.mark.parametrize("outcome", [success, failure, reschedule])


# --- cancelled(executing), cancelled(long-running)


@RUNNING
@OUTCOMES
def test_outcome_of_a_cancelled_task_is_dropped(running: str, outcome: Callable) -> None:
    d = with_running(running)
    assert d(free("x")) == []
    assert d.states() == {"x": f"cancelled({running})"}
    assert d.state.all_running_tasks == {d.state.tasks["x"]}
    assert d.state.available_resources == {"GPU": 0}
    assert d(free("x")) == []
    assert d(outcome("x")) == []
    assert d.states() == {} and d.state.data == {} and not d.state.all_running_tasks
    assert d.state.available_resources == {"GPU": 1} and d.state.executed_count == 1
    d.finish()


@OUTCOMES
def test_cancelled_task_keeps_its_thread(outcome: Callable) -> None:
    d = with_running("executing")
    d(free("x"))
    assert d(compute("y")) == []
    assert d.states() == {"x": "cancelled(executing)", "y": "ready"}
    assert d(outcome("x")) == [execute("y")]
    d.finish()


@RUNNING
@OUTCOMES
def test_cancelled_task_is_wanted_again(running: str, outcome: Callable) -> None:
    """It is as if nothing had happened, but for the priority and the run."""
    d = with_running(running)
    d(free("x"))
    back = [seceded("x", compute_duration=None, run_id=2)] if running == "long-running" else []
    assert d(compute("x", priority=(-5,), run_id=2, resource_restrictions={"GPU": 9})) == back
    assert d.states() == {"x": running}
    ts = d.state.tasks["x"]
    assert ts.priority == (-5, -1) and ts.run_id == 2 and not ts.done
    # Those that it holds are those that it will give back.
    assert ts.resource_restrictions == {"GPU": 1}
    instructions = d(outcome("x"))
    assert [type(inst) for inst in instructions] == [
        {
            success: wsm.TaskFinishedMsg,
            failure: wsm.TaskErredMsg,
            reschedule: wsm.RescheduleMsg,
        }[outcome]
    ]
    assert d.state.available_resources == {"GPU": 1}
    d.finish()


def test_secede_while_cancelled() -> None:
    """The scheduler hears of it if and when it wants the task again."""
    d = with_running("executing")
    d(free("x"), compute("y"))
    assert d(secede("x")) == [execute("y")]
    assert d.states() == {"x": "cancelled(long-running)", "y": "executing"}
    assert d.state.executing_count == 1
    assert d(secede("x")) == []
    assert d(compute("x", run_id=2)) == [seceded("x", run_id=2, compute_duration=None)]
    assert d.states() == {"x": "long-running", "y": "executing"}
    d.finish()


def test_dependency_of_a_cancelled_task() -> None:
    d = duel()
    d(scatter(d=1), compute("x", {"d": [HERE]}))
    # Released in whatever order; x still runs, but no task waits for it.
    assert d(free("x")) == []
    assert d(remove_replicas("d")) == [released("d")]
    assert d.states() == {"d": "released", "x": "cancelled(executing)"}
    assert d(success("x")) == []
    assert d.states() == {}
    d.finish()


def test_dependency_survives_a_cancelled_task() -> None:
    d = duel()
    d(scatter(d=1), compute("x", {"d": [HERE]}))
    d(free("x"))
    d(failure("x"))
    assert d.states() == {"d": "memory"}
    assert d.state.tasks["d"].dependents == set()
    d.finish()


@RUNNING
def test_steal_of_a_cancelled_task(running: str) -> None:
    d = with_running(running)
    d(free("x"))
    assert d(steal("x")) == [stolen("x", "cancelled")]
    assert d.states() == {"x": f"cancelled({running})"}
    d.finish()


def test_scatter_over_a_cancelled_task() -> None:
    d = with_running("executing")
    d(free("x"))
    assert d(scatter(x=1)) == []
    assert d.states() == {"x": "cancelled(executing)"}
    d(success("x"))
    assert d.states() == {}
    d.finish()


def test_cancelled_while_paused() -> None:
    d = with_running("executing")
    d(compute("y"), pause(), free("x"))
    assert d(success("x")) == []
    assert d.states() == {"y": "ready"}
    assert d(unpause()) == [execute("y")]
    d.finish()


# --- resumed(executing -> fetch), resumed(long-running -> fetch)


@RUNNING
def test_resumed_task_succeeds(running: str) -> None:
    """For the scheduler it is one more replica."""
    d = resumed_to_fetch(running)
    assert d(success("x")) == [add_keys("x"), execute("y")]
    assert d.states() == {"x": "memory", "y": "executing"}
    assert d.state.available_resources == {"GPU": 1}
    d.finish()


@RUNNING
@pytest.mark.parametrize("outcome", [failure, reschedule])
def test_resumed_task_does_not_succeed(running: str, outcome: Callable) -> None:
    """It is fetched, as it should have been."""
    d = resumed_to_fetch(running)
    assert d(outcome("x")) == [gather(FAR, "x")]
    assert d.states() == {"x": "flight", "y": "waiting"}
    assert not d.state.tasks["x"].done and d.state.available_resources == {"GPU": 1}
    assert d(gathered(FAR, x=1)) == [add_keys("x"), execute("y")]
    d.finish()


@RUNNING
def test_resumed_task_fails_and_its_replica_is_gone(running: str) -> None:
    d = resumed_to_fetch(running)
    assert d(remove_worker(FAR)) == []
    assert d(failure("x")) == []
    assert d.states() == {"x": "missing", "y": "waiting"}
    d.finish()


def test_resumed_task_has_a_value_that_cannot_be_stored() -> None:
    """distributed forgets what the task was resumed for before it stores the value."""
    d = resumed_to_fetch("executing")
    with pytest.raises(AssertionError):
        d(success("x", Unstorable()))


@RUNNING
def test_resumed_task_is_freed(running: str) -> None:
    d = resumed_to_fetch(running)
    assert d(free("y")) == []
    assert d.states() == {"x": f"cancelled({running})"}
    assert d(success("x")) == []
    assert d.states() == {}
    d.finish()


@RUNNING
def test_resumed_task_is_to_be_computed_here_after_all(running: str) -> None:
    d = resumed_to_fetch(running)
    expect = [seceded("x", compute_duration=None)] if running == "long-running" else []
    assert d(compute("x", run_id=3)) == expect
    assert d.states() == {"x": running, "y": "waiting"}
    assert d(success("x", run_id=3)) == [finished("x", run_id=3), execute("y")]
    d.finish()


def test_secede_while_resumed() -> None:
    d = resumed_to_fetch("executing")
    d(compute("z"))
    assert d(secede("x")) == [execute("z")]
    assert d.state_of("x") == "resumed(long-running->fetch)"
    assert d(secede("x")) == []
    assert d(success("x")) == [add_keys("x")]
    assert d.state_of("y") == "ready"
    d.finish()


def test_more_dependents_of_a_resumed_task() -> None:
    d = resumed_to_fetch("executing")
    assert d(compute("z", {"x": [NEAR]}), acquire({"x": [NEAR]})) == []
    assert d.state_of("x") == "resumed(executing->fetch)"
    assert d.state.tasks["x"].who_has == {NEAR}
    assert d(failure("x")) == [gather(NEAR, "x")]
    d.finish()


def test_executing_task_becomes_a_dependency() -> None:
    """The scheduler need not free it first."""
    d = with_running("executing")
    assert d(compute("y", {"x": [FAR]})) == []
    assert d.states() == {"x": "resumed(executing->fetch)", "y": "waiting"}
    d.finish()


# --- cancelled(flight)


@pytest.mark.parametrize(
    "answer,expect",
    [
        (lambda worker: gathered(worker, x=1), []),
        (gathered, []),
        (lost, []),
        (garbled, []),
        (busy, [retry_later(FAR)]),
    ],
    ids=["full", "empty", "lost", "garbled", "busy"],
)
def test_outcome_of_a_cancelled_transfer_is_dropped(answer: Callable, expect: list) -> None:
    d = in_flight()
    assert d(free("x")) == []
    assert d.states() == {"x": "cancelled(flight)"}
    assert d.state.in_flight_tasks == {d.state.tasks["x"]}
    instructions = d(answer(FAR))
    if answer is busy:
        # It knows no other peer, so it asks, although it will not need the answer.
        expect = [*expect, ask_who_has("x")]
    assert instructions == expect
    assert d.states() == {} and not d.state.in_flight_tasks
    assert d.state.transfer_incoming_bytes == 0
    d.finish()


def test_cancelled_transfer_is_wanted_again() -> None:
    d = in_flight()
    d(free("x"))
    assert d(compute("y", {"x": [FAR]})) == []
    assert d.states() == {"x": "flight", "y": "waiting"}
    assert d(gathered(FAR, x=1)) == [add_keys("x"), execute("y")]
    d.finish()


def test_cancelled_transfer_is_wanted_again_from_elsewhere() -> None:
    d = in_flight()
    d(free("x"))
    assert d(acquire({"x": [NEAR]})) == []
    assert d.states() == {"x": "flight"} and d.state.tasks["x"].coming_from == FAR
    assert d(gathered(FAR)) == [gather(NEAR, "x")]
    assert d.state.tasks["x"].coming_from == NEAR
    d.finish()


def test_cancelled_transfer_and_scatter() -> None:
    d = in_flight()
    d(free("x"))
    assert d(scatter(x=1)) == []
    assert d.states() == {"x": "cancelled(flight)"}
    assert d(gathered(FAR, x=1)) == []
    assert d.states() == {}
    d.finish()


# --- resumed(flight -> waiting)


def test_transfer_comes_before_the_computation() -> None:
    """The scheduler waits for a result, so it gets one."""
    d = resumed_to_waiting()
    (msg,) = d(gathered(FAR, x=1))
    assert isinstance(msg, wsm.TaskFinishedMsg)
    assert (msg.key, msg.run_id, msg.nbytes, msg.startstops) == ("x", 1, 1, [])
    assert d.states() == {"x": "memory"} and d.state.data == {"x": 1}
    d.finish()


@pytest.mark.parametrize("answer", [gathered, lost, garbled, busy])
@pytest.mark.parametrize("blocked", [False, True])
def test_transfer_fails_and_the_task_is_computed(answer: Callable, blocked: bool) -> None:
    d = resumed_to_waiting()
    if blocked:
        d(compute("other", priority=(-1,)))
    instructions = d(answer(FAR))
    assert d.state_of("x") == ("ready" if blocked else "executing")
    assert (execute("x") in instructions) is not blocked
    assert not any(isinstance(inst, wsm.TaskErredMsg) for inst in instructions)
    ts = d.state.tasks["x"]
    assert not ts.done and ts.previous is None and ts.next is None
    if blocked:
        assert d(success("other")) == [finished("other"), execute("x")]
    assert d(success("x")) == [finished("x")]
    d.finish()


def test_resumed_task_with_dependencies() -> None:
    """They are not fetched unless the transfer of the task itself fails."""
    d = in_flight()
    d(free("x"))
    assert d(compute("x", {"d": [NEAR]})) == []
    assert d.states() == {"x": "resumed(flight->waiting)", "d": "released"}
    assert d.state.task_counter.current_count(by_prefix=False) == {"resumed": 1, "released": 1}
    assert d(lost(FAR)) == [gather(NEAR, "d")]
    assert d.states() == {"x": "waiting", "d": "flight"}
    assert d(gathered(NEAR, d=1)) == [add_keys("d"), execute("x")]
    d.finish()


def test_resumed_task_with_dependencies_arrives() -> None:
    d = in_flight()
    d(free("x"), compute("x", {"d": [NEAR]}))
    assert d(gathered(FAR, x=1)) == [finished("x")]
    assert d.states() == {"x": "memory", "d": "released"}
    assert d(free("x")) == [released("x")]
    assert d.states() == {}
    d.finish()


def test_resumed_transfer_is_freed() -> None:
    d = resumed_to_waiting()
    assert d(free("x")) == []
    assert d.states() == {"x": "cancelled(flight)"}
    assert d(gathered(FAR, x=1)) == []
    assert d.states() == {}
    d.finish()


def test_resumed_transfer_is_to_be_fetched_after_all() -> None:
    d = resumed_to_waiting()
    assert d(compute("y", {"x": [FAR]})) == []
    assert d.states() == {"x": "flight", "y": "waiting"}
    assert d(gathered(FAR, x=1)) == [add_keys("x"), execute("y")]
    d.finish()


def test_peer_is_lost_after_the_task_was_resumed() -> None:
    d = resumed_to_waiting()
    assert d(remove_worker(FAR)) == []
    assert d.states() == {"x": "resumed(flight->waiting)"}
    assert d(lost(FAR)) == [execute("x")]
    d.finish()


def test_flying_task_is_to_be_computed() -> None:
    """Without being freed first."""
    d = in_flight()
    assert d(compute("x")) == []
    assert d.states() == {"x": "resumed(flight->waiting)"}
    d.finish()


def test_resources_of_a_resumed_transfer() -> None:
    """It holds none yet, so the new ones count."""
    d = in_flight(resources={"GPU": 1})
    d(free("x"), compute("x", resource_restrictions={"GPU": 1}))
    assert d.state.available_resources == {"GPU": 1}
    assert d(lost(FAR)) == [execute("x")]
    assert d.state.available_resources == {"GPU": 0}
    d.finish()
