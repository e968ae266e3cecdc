"""A task's life through the core: compute-task, executing, memory, free.

Tasks come in windows of 100, the way the scheduler sends them: all are asked for (the first runs,
the rest wait in the ready queue), each finishes, each is freed. The events are made before the
clock starts and handed over one at a time, without validation, as in a worker in production.

Our machine is driven twice: through ``handle_stimulus`` with distributed's events, and through
``handle_events``, with the messages that the decoder makes where there are such, and records for an
answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from machines import (
    ADDRESS,
    OURS,
    PEERS,
    STOCK,
    Machine,
    arrived,
    compute,
    done,
    feed,
    free,
    fresh_keys,
    run_spec,
    windows,
)
from support.core.entries import native
from versus import Side, Versus

N = 1_000
WINDOW = 100
DEP_NBYTES = 1_000

Story = tuple[list[Any], list[Any]]
"""Events before the clock starts, and those that are timed."""


def independent(n: int) -> Story:
    """Tasks without dependencies."""
    keys = fresh_keys(n)
    events: list[Any] = []
    for window in windows(n, WINDOW):
        events += [compute(keys[i], i, run_spec(keys[i])) for i in window]
        events += [done(keys[i], i) for i in window]
        events += [free(keys[i]) for i in window]
    return [], events


def in_memory(n: int) -> Story:
    """Every task needs one key that this worker already has."""
    keys, deps = fresh_keys(n), fresh_keys(n, "load")
    before: list[Any] = []
    for i, dep in enumerate(deps):
        before += [compute(dep, i, run_spec(dep)), done(dep, i)]
    events: list[Any] = []
    for window in windows(n, WINDOW):
        events += [
            compute(keys[i], i, run_spec(keys[i]), {deps[i]: (ADDRESS,)}, 28) for i in window
        ]
        events += [done(keys[i], i) for i in window]
        events += [free(keys[i]) for i in window]
    return before, events


def fetched(n: int) -> Story:
    """Every task needs one key that a peer has; the fetched copy is freed with the task."""
    keys, deps = fresh_keys(n), fresh_keys(n, "load")
    events: list[Any] = []
    for window in windows(n, WINDOW):
        peer = {i: PEERS[i % WINDOW] for i in window}
        events += [
            compute(keys[i], i, run_spec(keys[i]), {deps[i]: (peer[i],)}, DEP_NBYTES)
            for i in window
        ]
        events += [arrived(peer[i], deps[i], DEP_NBYTES) for i in window]
        events += [done(keys[i], i) for i in window]
        events += [free(keys[i], deps[i]) for i in window]
    return [], events


STORIES: dict[str, Callable[[int], Story]] = {
    "independent": independent,
    "in-memory": in_memory,
    "fetched": fetched,
}


def through_events(machine: Machine, make: Callable[[int], Story]) -> Side:
    def prepare() -> tuple[Any, list[Any]]:
        before, events = make(N)
        state = machine.state()
        feed(state.handle_stimulus, before)
        return state.handle_stimulus, events

    return Side(prepare, feed)


def feed_native(handle: Callable[[Any], Any], stimuli: list[Any]) -> None:
    for stimulus in stimuli:
        handle((stimulus,))


def through_native(make: Callable[[int], Story]) -> Side:
    def prepare() -> tuple[Any, list[Any]]:
        before, events = make(N)
        state = OURS.state()
        feed(state.handle_stimulus, before)
        return state.handle_events, [native(event) for event in events]

    return Side(prepare, feed_native)


@pytest.fixture(params=STORIES)
def story(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_handle_stimulus(versus: Versus, story: str) -> None:
    versus(
        f"life/events/{story}",
        stock=through_events(STOCK, STORIES[story]),
        ours=through_events(OURS, STORIES[story]),
        per=N,
        at_least=5,
    )


def test_native_entries(versus: Versus, story: str) -> None:
    versus(
        f"life/native/{story}",
        stock=through_events(STOCK, STORIES[story]),
        ours=through_native(STORIES[story]),
        per=N,
        at_most=3 if story == "independent" else None,
    )


def test_same_work(story: str) -> None:
    """What is timed above is the same work, event for event, and all of it gets done."""
    before, events = STORIES[story](2 * WINDOW)
    answers = []
    for machine in (STOCK, OURS):
        state = machine.state()
        feed(state.handle_stimulus, before)
        answers.append([[type(i) for i in state.handle_stimulus(ev)] for ev in events])
        check_end(story, state)
    assert answers[0] == answers[1]
    kinds = Counter(kind.__name__ for answer in answers[0] for kind in answer)
    once = ["Execute", "TaskFinishedMsg", "ReleaseWorkerDataMsg"]
    if story == "fetched":
        once += ["GatherDep", "AddKeysMsg", "ReleaseWorkerDataMsg"]
    assert kinds == Counter(once * 2 * WINDOW)

    state = OURS.state()
    feed(state.handle_stimulus, before)
    feed_native(state.handle_events, [native(event) for event in events])
    check_end(story, state)


def check_end(story: str, state: Any) -> None:
    left = 2 * WINDOW if story == "in-memory" else 0
    assert state.executed_count == 2 * WINDOW + left
    assert len(state.tasks) == len(state.data) == left
    assert not state.ready
    assert not state.executing
    assert not state.in_flight_workers
