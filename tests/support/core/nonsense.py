"""What no scheduler, peer or executor should ever say. Both machines must fail in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import distributed.worker_state_machine as wsm
from distributed.protocol.serialize import Serialize

from support.core.events import HERE
from support.core.stories import Recommend

if TYPE_CHECKING:
    from support.core.generator import World

STATES = sorted({state for pair in wsm.WorkerState._TRANSITIONS_TABLE for state in pair})

#: States that end in cancelled when they should be released, and what can come after that.
UNRELEASABLE = {"executing", "long-running", "flight", "cancelled", "resumed"}
FROM_CANCELLED = {f for start, f in wsm.WorkerState._TRANSITIONS_TABLE if start == "cancelled"}


def recommendation(world: World) -> Recommend | None:
    """That some task should go to some state, out of the blue."""
    rng, tasks = world.rng, world.state.tasks
    if not tasks:
        return None
    key = rng.choice(list(tasks))
    finish: Any = rng.choice(STATES)
    if tasks[key].state in UNRELEASABLE and finish not in FROM_CANCELLED:
        return None  # goes round in circles until Python has had enough
    if tasks[key].priority is None and finish in ("waiting", "ready", "fetch"):
        return None  # the queue says so before an assertion does
    args = {
        "memory": (world.value(), rng.choice((-1, 1))),
        "error": (Serialize("no"), None, "no", "", 1),
        "flight": (rng.choice(world.peers),),
        "long-running": (1.5,),
    }.get(finish)
    return Recommend(key, (finish, *args) if args else finish)


def say(world: World) -> wsm.StateMachineEvent | Recommend:
    rng = world.rng
    key = rng.choice([*world.keys, "never heard of"])
    worker = rng.choice([*world.peers, "tcp://10.0.0.9:1"])
    n = rng.randrange(13)
    if n > 9:
        return recommendation(world) or world.compute_event(next(iter(world.keys)))
    if n == 0 and key in world.keys:
        return world.done_event(key, rng.choice((-1, 0, 1)))
    if n == 1:
        keys = rng.sample(list(world.keys), min(3, len(world.keys)))
        return world.gathered_event(worker, keys, rng.choice((0, 1, 100)))
    if n == 2:
        return wsm.SecedeEvent(key=key, compute_duration=0.0, stimulus_id="absurd")
    if n == 3:
        return wsm.CancelComputeEvent(key=key, stimulus_id="absurd")
    if n == 4:
        return wsm.UpdateDataEvent(data={key: world.value()}, stimulus_id="absurd")
    if n == 5:
        return wsm.RemoveReplicasEvent(keys=[key], stimulus_id="absurd")
    if n == 6:
        keys = rng.sample(list(world.keys), min(3, len(world.keys)))
        return wsm.FreeKeysEvent(keys=[*keys, key], stimulus_id="absurd")
    if n == 7 and key in world.keys:
        event: Any = world.compute_event(key)
        if rng.random() < 0.5:
            dependency = rng.choice(list(world.keys))
            event.who_has = {dependency: rng.choice(([], [HERE], [worker, worker], [worker]))}
            event.nbytes = {dependency: rng.choice((0, 1, 10**9))}
        event.actor = rng.random() < 0.3
        event.resource_restrictions = rng.choice(({}, {"unheard-of": 1}, {"GPU": 100}))
        return event
    if n == 8:
        return wsm.AcquireReplicasEvent(
            who_has={key: rng.choice(([], [HERE], [worker]))},
            nbytes={rng.choice((key, "another")): 1},
            stimulus_id="absurd",
        )
    return wsm.RefreshWhoHasEvent(who_has={key: [worker]}, stimulus_id="absurd")
