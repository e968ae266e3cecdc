"""Random stories on the native core and on distributed's state machine, compared at every step."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import distributed.worker_state_machine as wsm
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastworker.core
from support import python_path
from support.core import differential
from support.core.compare import Divergence, uncompared_fields
from support.core.events import RUN_SPEC
from support.core.generator import World
from support.core.mutants import MUTANTS
from support.core.oracle import STOCK, ExactQueue
from support.core.shrink import replay, shrink, source
from support.core.stories import SECRET, Duel, Poke, Recommend, Setup, quiet

SEEDS = range(10)
EVENTS_PER_SEED = 12_000


def python(*args: Any, hash_seed: int = 0, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run Python in a process of its own, with the modules of tests/support.

    A story depends on the order of sets of strings, so a seed says nothing without
    PYTHONHASHSEED, which can only be set before Python starts.
    """
    package = Path(fastworker.__file__).parent.parent
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": python_path(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def play(*args: Any, **kwargs: Any) -> subprocess.CompletedProcess:
    """Run ``ci/differential``'s program; see `python`."""
    return python(differential.__file__, *args, **kwargs)


@pytest.fixture(scope="module")
def tallies(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """What the runs of test_no_divergence went through, by seed."""
    return {}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_divergence(seed: int, tallies: dict, tmp_path: Path) -> None:
    result = play(
        EVENTS_PER_SEED, "--seed", seed, "--json", tmp_path / "tally", hash_seed=seed, timeout=390
    )
    assert result.returncode == 0, result.stdout
    tallies[seed] = json.loads((tmp_path / "tally").read_text())
    assert sum(tallies[seed]["events"].values()) >= EVENTS_PER_SEED


@pytest.mark.slow
def test_stories_go_everywhere(tallies: dict) -> None:
    """The runs above saw every kind of event, every state and nearly every transition."""
    if len(tallies) < len(SEEDS):
        pytest.skip("needs the tallies of all runs of test_no_divergence")
    total: dict[str, Counter[str]] = {
        name: sum((Counter(tally[name]) for tally in tallies.values()), Counter())
        for name in ("events", "states", "transitions", "errors")
    }
    assert sum(total["events"].values()) >= 100_000

    def leaves(cls: type) -> set[str]:
        # Other tests have derived events of their own
        below = [sub for sub in cls.__subclasses__() if sub.__module__ == cls.__module__]
        return set().union(*map(leaves, below)) if below else {cls.__name__}

    assert set(total["events"]) == leaves(wsm.StateMachineEvent)
    # Tasks pass through the other two, but never between two events.
    states = {state for pair in STOCK._TRANSITIONS_TABLE for state in pair}
    assert set(total["states"]) == states - {"forgotten", "rescheduled"}
    table = {f"{start} -> {finish}" for start, finish in STOCK._TRANSITIONS_TABLE}
    # No event leads there; see test_named_stories.py::test_every_recommendation.
    table -= {"cancelled -> missing", "missing -> error"}
    assert table <= set(total["transitions"])
    assert set(total["errors"]) >= {
        "AssertionError",
        "InvalidTaskState",
        "InvalidTransition",
        "KeyError",
        "RuntimeError",
        "TransitionCounterMaxExceeded",
    }
    # An error is the end of a story; most must get further than that.
    stories = sum(tally["stories"] for tally in tallies.values())
    assert sum(total["errors"].values()) < 0.5 * stories


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.randoms(use_true_random=False), st.integers(1, 60))
def test_no_divergence_hypothesis(rng: random.Random, steps: int) -> None:
    """Few and short stories, but hypothesis has a say in them."""
    try:
        with quiet():
            differential.tell_story(fastworker.core.WorkerState, rng, steps, differential.Tally())
    except Divergence as divergence:
        pytest.fail(f"{divergence}\n\n{source(*divergence.story)}")


# --- can this test fail?


def test_stock_does_not_diverge_from_itself() -> None:
    result = play(10_000, "--candidate", "stock")
    assert result.returncode == 0, result.stdout


@pytest.fixture(scope="module")
def found_out() -> dict[str, tuple[int, str]]:
    """Broken machine -> after how many events it was found out, and what gave it away."""
    result = play("--self-test", 60_000)
    out = {}
    for line in result.stdout.splitlines():
        name, events, what = line.split(maxsplit=2)
        out[name] = (int(events), what)
    return out


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", MUTANTS)
def test_bug_is_found(name: str, found_out: dict[str, tuple[int, str]]) -> None:
    events, what = found_out[name]
    assert what != "MISSED", f"not found in {events} events"
    # A broken machine that is itself broken proves nothing.
    for error in ("TypeError", "AttributeError", "NameError", "UnboundLocalError"):
        assert error not in what


def test_report_is_short_and_repeatable() -> None:
    """The story that a failure prints is source code that fails in the same way."""
    mutant = MUTANTS["DoesNotReportSecedeInArrears"]
    tally = differential.Tally()
    found = differential.run(mutant, 0, 60_000, tally)
    assert found is not None
    setup, script = shrink(mutant, found.setup, found.script, out_of_time=lambda: False)
    # compute, secede, free, compute again
    assert len(script) <= 6
    again, _ = replay(mutant, setup, script)
    assert again is not None and again.where == found.divergence.where == "instructions"
    text = source(setup, script)
    names = {**vars(wsm), "Duel": Duel, "Setup": Setup, "Poke": Poke, "Recommend": Recommend}
    names |= {"RUN_SPEC": RUN_SPEC, "SECRET": SECRET, "WorkerState": mutant}
    with pytest.raises(Divergence, match="instructions"):
        exec(text, names)
    names["WorkerState"] = fastworker.core.WorkerState
    exec(text, names)
    assert text in found.report(mutant, seconds=60)


def test_failure_is_reported() -> None:
    result = play(10_000, "--candidate", "KeepsNbytes", "--shrink", 10)
    assert result.returncode == 1
    assert "Divergence" in result.stdout
    assert "PYTHONHASHSEED=0" in result.stdout
    assert "duel(FreeKeysEvent(" in result.stdout


def test_story_is_named_and_repeatable() -> None:
    """A story can be played again by its name, up to the same divergence."""
    first = play(10_000, "--candidate", "IgnoresResources", "--shrink", 0, hash_seed=7)
    name = first.stdout.partition("story ")[2].partition(",")[0]
    again = play("--story", name, "--candidate", "IgnoresResources", "--shrink", 0, hash_seed=7)
    assert first.returncode == again.returncode == 1
    assert first.stdout.partition("Divergence")[2] == again.stdout.partition("Divergence")[2]


def test_nothing_is_left_uncompared() -> None:
    """A field that a new version of distributed adds must be added to the comparison."""
    assert uncompared_fields() == set()


def test_world_is_the_oracles_alone() -> None:
    """The story does not depend on the machine under test."""
    scripts = []
    for candidate in (STOCK, fastworker.core.WorkerState):
        rng = random.Random(5)
        world = World(rng)
        duel = Duel(candidate, world.make_setup(), thorough=False)
        world.state = duel.oracle.state
        with quiet():
            for _ in range(150):
                world.observe(duel.play(world.step()))
        scripts.append(source(duel.setup, duel.script))
    assert scripts[0] == scripts[1]
    assert len(scripts[0].splitlines()) > 20


def test_stories_leave_nothing_behind() -> None:
    """Whatever happens, errors included: no task outlives its state.

    In a process of its own, since pytest keeps what was logged, tracebacks included. Finalizers
    that run in one collection can leave what they held to the next.
    """
    result = python(
        "-c",
        """
import gc
from support import python_path
from support.core import differential
from fastworker.core import TaskState, WorkerState

tally = differential.Tally()
assert differential.run(WorkerState, 1234, 8_000, tally) is None
assert tally.n_events >= 8_000
for _ in range(5):
    if not gc.collect():
        break
assert len(TaskState._instances) == 0, list(TaskState._instances)
""",
    )
    assert result.returncode == 0, result.stdout


def test_exact_queue() -> None:
    """The oracle's queue: by key when added, then by age; nothing comes back from the dead."""
    priority = {"a": 3, "b": 1, "c": 2, "d": 1}
    queue = ExactQueue(key=priority.__getitem__)
    for item in "abcd":
        queue.add(item)
    assert list(queue) == list(queue.sorted()) == ["b", "d", "c", "a"]
    priority["b"] = 9
    queue.add("b")  # already there: its place is kept
    assert queue.peek() == "b"
    queue.discard("b")
    queue.discard("b")
    queue.add("b")
    assert [queue.pop() for _ in range(4)] == ["d", "c", "a", "b"]
    assert not queue and len(queue) == 0
    for operation in (queue.pop, queue.peek, lambda: queue.remove("a")):
        with pytest.raises(KeyError):
            operation()
    queue.add("a")
    assert "a" in queue
    queue.clear()
    assert "a" not in queue
