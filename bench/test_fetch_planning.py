"""Planning fetches: 10,000 keys spread over 100 peers, one to three replicas of each.

The machine's GatherDep instructions are answered at once, oldest first, until every key is in
memory. The limits are the defaults of a worker: 50 transfers at a time once 10 MB are under way,
50 MB in a message.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

from distributed.worker_state_machine import (
    AcquireReplicasEvent,
    GatherDep,
    GatherDepSuccessEvent,
)

from machines import OURS, PEERS, STOCK, Machine, compute, fresh_keys, run_spec
from versus import Side, Versus

KEYS = 10_000
TASKS = 2_500


def spread(n: int) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """`who_has` and `nbytes` of `n` fresh keys."""
    rng = random.Random(n)
    keys = fresh_keys(n, "load")
    who_has = {key: tuple(rng.sample(PEERS, rng.randint(1, 3))) for key in keys}
    return who_has, {key: rng.randrange(1, 1_000_000) for key in keys}


def state_of(machine: Machine) -> Any:
    return machine.state(transfer_incoming_count_limit=50, transfer_message_bytes_limit=50_000_000)


def replicas(machine: Machine, n: int = KEYS) -> tuple[Any, list[Any]]:
    """One message asks for replicas of all keys."""
    who_has, nbytes = spread(n)
    event = AcquireReplicasEvent(who_has=who_has, nbytes=nbytes, stimulus_id="acquire-replicas")
    return state_of(machine), [event]


def tasks(machine: Machine, n: int = KEYS) -> tuple[Any, list[Any]]:
    """Tasks that need four keys each arrive one by one."""
    who_has, nbytes = spread(n)
    keys = list(who_has)
    events = []
    for i, key in enumerate(fresh_keys(n * TASKS // KEYS)):
        deps = keys[4 * i : 4 * i + 4]
        events.append(
            compute(
                key, i, run_spec(key), {d: who_has[d] for d in deps}, {d: nbytes[d] for d in deps}
            )
        )
    return state_of(machine), events


def drain(state: Any, events: list[Any]) -> int:
    """Hand over the events, answer every GatherDep; returns how many there were."""
    handle = state.handle_stimulus
    waiting: deque[GatherDep] = deque()
    count = 0
    for event in events:
        waiting.extend(i for i in handle(event) if type(i) is GatherDep)
    while waiting:
        gather = waiting.popleft()
        count += 1
        answer = GatherDepSuccessEvent(
            worker=gather.worker,
            total_nbytes=gather.total_nbytes,
            data=dict.fromkeys(gather.to_gather, 1),
            stimulus_id="gather-dep-success",
        )
        waiting.extend(i for i in handle(answer) if type(i) is GatherDep)
    return count


def test_replicas(versus: Versus) -> None:
    versus(
        "fetch/replicas",
        stock=Side(lambda: replicas(STOCK), drain),
        ours=Side(lambda: replicas(OURS), drain),
        per=KEYS,
    )


def test_tasks(versus: Versus) -> None:
    versus(
        "fetch/tasks",
        stock=Side(lambda: tasks(STOCK), drain),
        ours=Side(lambda: tasks(OURS), drain),
        per=KEYS,
    )


def test_same_work() -> None:
    """Every key ends in memory on both machines, after a like number of transfers."""
    for make in (replicas, tasks):
        counts = []
        for machine in (STOCK, OURS):
            state, events = make(machine, 2_000)
            counts.append(drain(state, events))
            assert len(state.data) == 2_000
            assert state.transfer_incoming_bytes == 0
            assert not state.in_flight_tasks
        # Which peer serves a key that several hold is not determined: sets have no order.
        assert abs(counts[0] - counts[1]) <= 0.1 * counts[0]
