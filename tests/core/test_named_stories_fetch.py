"""Fetching from peers, message by message: fetch, flight, missing, and what can go wrong between.

Each story is played on the native core and on distributed's state machine at once.
"""

from __future__ import annotations

import math
from typing import Any

import distributed.worker_state_machine as wsm
import pytest

from support.core.events import (
    FAR,
    FARTHER,
    HERE,
    NEAR,
    acquire,
    add_keys,
    ask_who_has,
    busy,
    compute,
    erred,
    execute,
    failure,
    find_missing,
    finished,
    free,
    garbled,
    gather,
    gathered,
    lost,
    pause,
    refresh,
    released,
    remove_replicas,
    remove_worker,
    retry_busy,
    retry_later,
    scatter,
    success,
    unpause,
)
from support.core.situations import duel
from support.core.stories import Unstorable

# --- replicas that were asked for


def test_acquire_replicas() -> None:
    d = duel()
    assert d(acquire({"x": [FAR], "y": [FAR]}, nbytes=4)) == [gather(FAR, "x", "y", total_nbytes=8)]
    # Fetched after what computations of normal priority need, before those of low priority.
    assert d.state.tasks["x"].priority == (1,)
    instructions = d(gathered(FAR, 8, x=1, y=2))
    assert sorted(inst.keys for inst in instructions) == [["x"], ["y"]]
    assert {type(inst) for inst in instructions} == {wsm.AddKeysMsg}
    assert d.states() == {"x": "memory", "y": "memory"} and d.state.nbytes == 8
    # Once more: it is here already.
    assert d(acquire({"x": [NEAR]}, nbytes=99)) == []
    assert d.state.tasks["x"].nbytes == 4 and d.state.tasks["x"].who_has == {NEAR}
    d.finish()


def test_replica_of_a_failed_task() -> None:
    d = duel()
    d(compute("x"))
    d(failure("x"))
    assert d(acquire({"x": [FAR]})) == []
    # On its way through released it forgot the peer that it had just heard of.
    assert d.states() == {"x": "missing"}
    assert d(refresh({"x": [FAR]})) == [gather(FAR, "x")]
    assert d(gathered(FAR, x=1)) == [add_keys("x")]
    d.finish()


def test_acquire_checks_its_arguments() -> None:
    for event in (
        wsm.AcquireReplicasEvent(who_has={"x": [FAR]}, nbytes={"y": 1}, stimulus_id=""),
        acquire({"x": []}),
    ):
        with pytest.raises(AssertionError):
            duel()(event)
        # Not in production.
        d = duel(validate=False)
        d(event)
        assert set(d.states().values()) == {"missing"}


def test_nearly_everything_of_a_peer_in_one_message() -> None:
    """What is fetched from one peer is fetched at once, whatever asked for it."""
    d = duel()
    d(pause())
    d(compute("t", {"a": [FAR], "b": [NEAR]}), acquire({"c": [FAR], "e": [NEAR, FAR]}))
    assert d.state.fetch_count == 4
    # Those of the task come first, and of the two peers the one on this host.
    assert d(unpause()) == [gather(NEAR, "b", "e"), gather(FAR, "a", "c")]
    assert d.state.fetch_count == 0 and not any(d.state.data_needed.values())
    assert d.state.in_flight_tasks_count == 4 and d.state.transfer_incoming_count == 2
    d.finish()


def test_peer_with_more_to_give_comes_first() -> None:
    d = duel(transfer_incoming_bytes_limit=1)
    d(pause())
    d(acquire({"a": [FAR], "b": [FARTHER], "c": [FARTHER]}))
    # Recommendations are taken last in, first out.
    assert d(unpause()) == [gather(FARTHER, "c")]
    d.finish()


def test_best_priority_comes_first() -> None:
    d = duel(transfer_message_bytes_limit=1)
    d(pause())
    d(compute("later", {"a": [FAR]}, priority=(2,)))
    d(compute("sooner", {"b": [FAR]}, priority=(1,)))
    d(acquire({"c": [FAR]}))
    assert d(unpause()) == [gather(FAR, "c")]
    assert d(gathered(FAR, c=1)) == [add_keys("c"), gather(FAR, "b")]
    assert d(gathered(FAR, b=1)) == [add_keys("b"), execute("sooner"), gather(FAR, "a")]
    assert d(gathered(FAR, a=1)) == [add_keys("a")]
    assert d.states()["later"] == "ready"
    d.finish()


def test_equals_are_fetched_oldest_first() -> None:
    d = duel(transfer_message_bytes_limit=2)
    d(pause())
    for key in "abcde":
        d(acquire({key: [FAR]}))
    assert d(unpause()) == [gather(FAR, "a", "b")]
    assert d(gathered(FAR, 2, a=1, b=1))[-1:] == [gather(FAR, "c", "d")]
    d.finish()


def test_random_choice_among_equal_peers() -> None:
    """Drawn from a generator that starts the same in every worker."""
    d = duel(transfer_incoming_bytes_limit=1)
    peers = [f"tcp://10.0.1.{i}:1" for i in range(20)]
    d(pause())
    d(acquire({f"x-{i}": [peer] for i, peer in enumerate(peers)}))
    first = d(unpause())[0].worker
    chosen = {first}
    for _ in range(5):
        (key,) = d.state.in_flight_workers[first]
        first = d(gathered(first, **{key: 1}))[-1].worker
        chosen.add(first)
    assert len(chosen) == 6
    d.finish()


# --- how much at once


def test_first_transfer_is_never_too_large() -> None:
    d = duel(transfer_incoming_bytes_limit=10, transfer_message_bytes_limit=10)
    assert d(acquire({"x": [FAR]}, nbytes=1000)) == [gather(FAR, "x", total_nbytes=1000)]
    assert d(acquire({"y": [NEAR]}, nbytes=1)) == []
    assert d(gathered(FAR, 1000, x=1)) == [add_keys("x"), gather(NEAR, "y")]
    d.finish()


def test_bytes_limit_holds_for_all_peers_together() -> None:
    d = duel(transfer_incoming_bytes_limit=10)
    assert d(acquire({"a": [FAR]}, nbytes=6)) == [gather(FAR, "a")]
    assert d(acquire({"b": [NEAR]}, nbytes=5)) == []
    assert d(acquire({"c": [FARTHER]}, nbytes=4)) == []  # b comes first
    assert d.state.transfer_incoming_bytes == 6
    d(gathered(FAR, 6, a=1))
    assert d.state.transfer_incoming_bytes == 9
    assert d.state_of("b") == d.state_of("c") == "flight"
    d.finish()


def test_count_limit_needs_many_bytes() -> None:
    d = duel(transfer_incoming_count_limit=1)
    threshold = d.state.transfer_incoming_bytes_throttle_threshold
    assert threshold == 10_000_000
    assert d(acquire({"a": [FAR]}, nbytes=threshold - 1)) == [gather(FAR, "a")]
    assert d(acquire({"b": [NEAR]}, nbytes=1)) == [gather(NEAR, "b")]
    assert d(acquire({"c": [FARTHER]}, nbytes=1)) == []
    assert d(gathered(NEAR, 1, b=1)) == [add_keys("b"), gather(FARTHER, "c")]
    d.finish()


def test_unknown_size() -> None:
    """distributed.scheduler.default-data-size stands in for it."""
    d = duel(validate=False)
    event = wsm.AcquireReplicasEvent(
        who_has={"x": [FAR]}, nbytes={"x": None}, stimulus_id="acquire"
    )
    assert d(event) == [gather(FAR, "x", total_nbytes=1024)]
    d(gathered(FAR, 1024, x=b"12345"))
    assert d.state.tasks["x"].nbytes == d.state.nbytes == 5


# --- partial answers


def test_key_is_not_where_it_should_be() -> None:
    d = duel()
    assert d(compute("t", {"x": [FAR, NEAR], "y": [NEAR]})) == [gather(NEAR, "x", "y")]
    assert d(gathered(NEAR, 2, y=1)) == [add_keys("y"), gather(FAR, "x")]
    assert d.state.tasks["x"].who_has == {FAR} and d.state.has_what[NEAR] == {"y"}
    assert d(gathered(FAR)) == []
    assert d.state_of("x") == "missing" and d.state.missing_dep_flight
    assert d(find_missing()) == [ask_who_has("x")]
    assert d(refresh({"x": [FARTHER]})) == [gather(FARTHER, "x")]
    assert d(gathered(FARTHER, x=1)) == [add_keys("x"), execute("t")]
    d.finish()


def test_more_keys_than_asked_for() -> None:
    d = duel()
    d(acquire({"x": [FAR]}))
    assert d(gathered(FAR, x=1, y=2)) == [add_keys("x")]
    assert d.states() == {"x": "memory"} and d.state.data == {"x": 1}
    d.finish()


def test_value_from_a_peer_cannot_be_stored() -> None:
    d = duel()
    d(compute("t", {"x": [FAR]}))
    assert d(gathered(FAR, x=Unstorable())) == [erred("x", exception_text="Refusal('x', 'x')")]
    assert d.states() == {"t": "waiting", "x": "error"}
    d.finish()


def test_answer_that_cannot_be_read() -> None:
    d = duel()
    d(compute("t", {"x": [FAR, NEAR]}))
    (msg,) = d(garbled(NEAR))
    assert (msg.key, msg.run_id, msg.exception_text) == ("x", wsm.RUN_ID_SENTINEL, "Garbled()")
    assert d.states() == {"t": "waiting", "x": "error"}
    assert d(free("t", "x")) == []
    assert d.states() == {}
    d.finish()


def test_answer_to_nothing() -> None:
    for event in (gathered(FAR), busy(FAR), lost(FAR), garbled(FAR)):
        with pytest.raises(KeyError):
            duel()(event)


# --- busy peers


def test_busy_peer_is_left_alone_for_a_while() -> None:
    d = duel()
    d(acquire({"x": [FAR]}))
    # No other peer has it: the scheduler may know better.
    assert d(busy(FAR)) == [retry_later(FAR), ask_who_has("x")]
    assert d.states() == {"x": "fetch"} and d.state.busy_workers == {FAR}
    assert d(acquire({"y": [FAR]})) == []
    assert d(retry_busy(FAR)) == [gather(FAR, "x", "y")]
    assert d(retry_busy(FAR)) == []
    d.finish()


def test_busy_peer_and_one_that_is_not() -> None:
    d = duel()
    assert d(acquire({"x": [NEAR, FAR]})) == [gather(NEAR, "x")]
    assert d(busy(NEAR)) == [retry_later(NEAR), gather(FAR, "x")]
    assert d(busy(FAR)) == [retry_later(FAR), ask_who_has("x")]
    assert d.state.busy_workers == {NEAR, FAR}
    assert d(refresh({"x": [NEAR, FAR, FARTHER]})) == [gather(FARTHER, "x")]
    d.finish()


def test_busy_peer_is_removed() -> None:
    d = duel()
    d(acquire({"x": [FAR]}))
    d(busy(FAR))
    assert d(remove_worker(FAR)) == []
    assert d.states() == {"x": "missing"} and FAR in d.state.busy_workers
    d(retry_busy(FAR))
    assert not d.state.busy_workers
    d.finish()


# --- peers that go away


def test_network_failure() -> None:
    """Everything that this peer had is fetched elsewhere, or missing."""
    d = duel(transfer_message_bytes_limit=2)
    d(pause())
    d(compute("t", {"a": [NEAR], "b": [NEAR, FAR], "c": [NEAR], "e": [NEAR, FAR]}))
    near, far = d(unpause())
    assert (near.worker, far.worker, near.total_nbytes) == (NEAR, FAR, 2)
    d(lost(NEAR, 2))
    assert NEAR not in d.state.has_what and NEAR not in d.state.data_needed
    for key in "abce":
        assert d.state.tasks[key].who_has == ({FAR} if key in "be" else set())
        assert d.state_of(key) in ({"fetch", "flight"} if key in "be" else {"missing"})
    (ask,) = d(find_missing())
    assert sorted(ask.keys) == ["a", "c"]
    d.finish()


@pytest.mark.parametrize(
    "answer",
    [gathered, busy, lost, garbled, lambda worker: gathered(worker, x=1)],
    ids=["empty", "busy", "lost", "garbled", "full"],
)
def test_peer_is_removed_while_it_answers(answer: Any) -> None:
    d = duel()
    d(acquire({"x": [FAR]}))
    assert d(remove_worker(FAR)) == []
    assert d.states() == {"x": "flight"} and d.state.in_flight_workers == {FAR: {"x"}}
    assert d.state.tasks["x"].who_has == set()
    d(answer(FAR))
    assert not d.state.in_flight_workers
    expect = "error" if answer is garbled else "missing"
    if d.state.data:
        expect = "memory"
    assert d.states() == {"x": expect}
    d.finish()


def test_peer_is_removed_before_it_was_asked() -> None:
    d = duel()
    d(pause())
    d(acquire({"x": [FAR], "y": [FAR, NEAR]}))
    assert d(remove_worker(FAR)) == []
    assert d.states() == {"x": "missing", "y": "fetch"}
    assert d(unpause()) == [gather(NEAR, "y")]
    d.finish()


def test_unknown_peer_is_removed() -> None:
    d = duel()
    assert d(remove_worker(FAR)) == []
    d(scatter(x=1))
    d(compute("y", {"x": [HERE, FAR]}))
    assert d(remove_worker(FAR)) == []
    assert d.state.tasks["x"].who_has == set() and d.states()["x"] == "memory"
    d.finish()


# --- who has what


def test_own_address_does_not_count() -> None:
    d = duel()
    assert d(acquire({"x": [HERE]})) == []
    assert d.states() == {"x": "missing"}
    assert d(refresh({"x": [HERE]})) == []
    assert d(refresh({"x": [HERE, FAR]})) == [gather(FAR, "x")]
    assert d.state.tasks["x"].who_has == {FAR} and set(d.state.has_what) == {FAR}
    d.finish()


def test_find_missing() -> None:
    d = duel()
    assert d(find_missing()) == []
    d(acquire({"x": [HERE], "y": [HERE]}))
    (ask,) = d(find_missing())
    assert type(ask.keys) is list and sorted(ask.keys) == ["x", "y"]
    # It happens every second, and is not worth a line.
    assert [type(ev) for ev in d.state.stimulus_log] == [wsm.AcquireReplicasEvent]
    d.finish()


def test_new_replica_while_all_peers_are_taken() -> None:
    d = duel()
    d(acquire({"a": [FAR]}))
    assert d(acquire({"x": [FAR]})) == []
    assert d(refresh({"x": [FAR, NEAR], "unknown": [NEAR]})) == [gather(NEAR, "x")]
    d.finish()


def test_last_replica_disappears() -> None:
    d = duel()
    d(pause())
    d(acquire({"x": [FAR], "y": [FAR]}))
    assert d(refresh({"x": []})) == []
    assert d.states() == {"x": "missing", "y": "fetch"}
    assert d.state.fetch_count == 1
    assert d(refresh({"x": [], "y": [NEAR]})) == []
    assert d(unpause()) == [gather(NEAR, "y")]
    d.finish()


def test_refresh_leaves_other_states_alone() -> None:
    d = duel()
    d(scatter(m=1), compute("e"))
    d(acquire({"f": [FAR]}))
    before = d.states()
    assert d(refresh({"m": [NEAR], "e": [NEAR], "f": [NEAR]})) == []
    assert d.states() == before == {"m": "memory", "e": "executing", "f": "flight"}
    assert d.state.tasks["f"].who_has == {NEAR} and d.state.tasks["f"].coming_from == FAR
    # It comes from the peer that was asked, or is asked for where it is said to be.
    assert d(gathered(FAR)) == [gather(NEAR, "f")]
    d.finish()


def test_replicas_change_while_paused() -> None:
    d = duel()
    d(pause())
    d(acquire({"x": [FAR]}))
    d(refresh({"x": [NEAR, FARTHER]}))
    assert {worker: len(tss) for worker, tss in d.state.data_needed.items() if tss} == {
        NEAR: 1,
        FARTHER: 1,
    }
    d(refresh({"x": (FARTHER,)}))
    assert d(unpause()) == [gather(FARTHER, "x")]
    d.finish()


# --- computed here instead


def test_missing_to_waiting() -> None:
    d = duel()
    d(compute("y", {"x": [HERE]}))
    assert d.states() == {"y": "waiting", "x": "missing"}
    assert d(compute("x", {"w": [FAR]})) == [gather(FAR, "w")]
    assert d.states() == {"y": "waiting", "x": "waiting", "w": "flight"}
    d(gathered(FAR, w=1))
    assert d(success("x")) == [finished("x"), execute("y")]
    d.finish()


def test_fetch_to_waiting() -> None:
    d = duel()
    d(pause())
    d(compute("y", {"x": [FAR]}))
    assert d(compute("x")) == []
    assert d.states() == {"y": "waiting", "x": "ready"}
    assert d.state.fetch_count == 0 and d.state.tasks["x"].who_has == set()
    assert d(unpause()) == [execute("x")]
    d.finish()


def test_fetch_to_waiting_with_something_to_fetch() -> None:
    """distributed contradicts itself there, loudly."""
    d = duel()
    d(pause())
    d(acquire({"x": [FAR]}))
    with pytest.raises(wsm.InvalidTransition) as info:
        d(compute("x", {"w": [FAR]}))
    assert (info.value.key, info.value.start, info.value.finish) == ("x", "fetch", "waiting")
    assert isinstance(info.value.__cause__, wsm.RecommendationsConflict)


def test_ready_to_fetch() -> None:
    d = duel()
    d(compute("running"), compute("x"))
    assert d(acquire({"x": [FAR]})) == []
    assert d.states() == {"running": "executing", "x": "missing"}
    assert d(refresh({"x": [FAR]})) == [gather(FAR, "x")]
    d.finish()


# --- no longer needed


@pytest.mark.parametrize("state", ["fetch", "missing", "memory", "error"])
def test_dependency_is_freed(state: str) -> None:
    d = duel()
    d(pause())
    d(acquire({"x": [HERE if state == "missing" else FAR]}))
    if state in ("memory", "error"):
        d(unpause())
        d(gathered(FAR, x=1) if state == "memory" else garbled(FAR))
    assert d.states() == {"x": state}
    assert d(free("x")) == ([released("x")] if state == "memory" else [])
    assert d.states() == {} and d.state.fetch_count == 0 and not d.state.missing_dep_flight
    assert not any(d.state.has_what.values())
    d.finish()


def test_replica_that_is_needed_again() -> None:
    d = duel()
    d(compute("y", {"x": [FAR]}), pause())
    d(gathered(FAR, x=1))
    assert d(remove_replicas("x")) == [released("x")]
    assert d.states() == {"y": "ready", "x": "released"}
    # Had it been validated, the next one would fail: that x went is the scheduler's mistake.
    with pytest.raises(AssertionError):
        d(unpause())


@pytest.mark.parametrize("limit", [math.inf, 3])
def test_many_peers_many_keys(limit: float) -> None:
    d = duel(transfer_message_bytes_limit=limit)
    peers = [f"tcp://10.0.{i % 7}.1:{i}" for i in range(40)]
    d(pause())
    for i in range(120):
        d(acquire({f"x-{i}": [peers[(i * j) % 40] for j in (1, 3, 7)]}))
    assert d.state.fetch_count == 120
    instructions = d(unpause())
    fetched: set[str] = set()
    while instructions:
        for inst in instructions:
            if isinstance(inst, wsm.GatherDep):
                assert not fetched & inst.to_gather and inst.total_nbytes <= limit
                fetched |= inst.to_gather
        if not d.state.in_flight_workers:
            break
        worker, keys = next(iter(d.state.in_flight_workers.items()))
        instructions = d(gathered(worker, len(keys), **dict.fromkeys(sorted(keys), 1)))
    assert len(fetched) == 120 and set(d.states().values()) == {"memory"}
    d.finish()
