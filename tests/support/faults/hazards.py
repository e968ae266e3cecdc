"""Faults that are tasks: each submits some that do harm, and says what has to come of them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NamedTuple

from distributed import Future

from fastworker.demo.launcher import wait_for
from support.faults import tasks
from support.faults.cluster import MEMORY_LIMIT
from support.faults.kinds import fault

if TYPE_CHECKING:
    from support.faults.episode import Episode


class Expected(NamedTuple):
    """A future with what it has to come to."""

    future: Future
    says: str
    fits: Callable[[object], bool]
    """Of its value, or of the exception where one is raised."""


def _value(future: Future, value: object) -> Expected:
    return Expected(future, f"the value {value!r}", lambda got: got == value)


def _error(future: Future, text: str) -> Expected:
    def fits(got: object) -> bool:
        return isinstance(got, BaseException) and text in f"{got!r} {got.__cause__!r}"

    return Expected(future, f"an error that says {text!r}", fits)


def _die(episode: Episode, chance: random.Random, how: str) -> None:
    for _ in range(chance.choice([1, 1, 3])):
        name = episode.next_name()
        times = 1 if episode.plan.allowed_failures == 1 else chance.choice([1, 2])
        episode.cluster.hard_deaths += times
        episode.crashes += times * (how == "segfault")
        file = str(episode.cluster.directory / f"count-{name}")
        x = chance.randrange(1000)
        future = episode.client.submit(tasks.die_first, x, how, file, times, key=f"{how}-{name}")
        episode.expect(_value(future, 2 * x))


@fault(2)
def task_exits(episode: Episode, chance: random.Random) -> None:
    _die(episode, chance, "exit")


@fault(2)
def task_segfaults(episode: Episode, chance: random.Random) -> None:
    _die(episode, chance, "segfault")


@fault(2)
def task_raises_system_exit(episode: Episode, chance: random.Random) -> None:
    _die(episode, chance, chance.choice(["system-exit", "system-exit", "keyboard-interrupt"]))


@fault(2)
def task_always_exits(episode: Episode, chance: random.Random) -> None:
    """The scheduler gives it up, where it does so soon."""
    if episode.plan.allowed_failures > 1:
        return _die(episode, chance, "kill")
    name = episode.next_name()
    episode.cluster.hard_deaths += 2
    file = str(episode.cluster.directory / f"count-{name}")
    future = episode.client.submit(tasks.die_first, 1, "exit", file, 1000, key=f"exit-{name}")
    episode.expect(_error(future, "KilledWorker"))


@fault(2)
def task_deadlocks(episode: Episode, chance: random.Random) -> None:
    """It must hold up no other, and go away when it is cancelled."""
    if episode.plan.nthreads == 1:
        return
    name = episode.next_name()
    file = episode.cluster.directory / f"let-go-{name}"
    future = episode.client.submit(tasks.deadlock, str(file), key=f"deadlock-{name}")

    def at_the_end() -> None:
        if not episode.cancelled:
            wait_for(lambda: future.status != "lost", 10, "the deadlock is known")
            assert future.status in ("pending", "error"), f"a deadlock is {future.status}"
        future.cancel(reason="deadlock")
        try:
            future.result(timeout=30)
        except CancelledError:
            pass
        except Exception as error:
            if not episode.excuses(error):
                raise
        file.touch()

    episode.afterwards.append(at_the_end)


@fault(2)
def task_forks(episode: Episode, chance: random.Random) -> None:
    for x in range(3):
        future = episode.client.submit(tasks.fork, x, chance.uniform(0, 0.5), pure=False)
        episode.expect(_value(future, 2 * x))


@fault(2)
def task_exhausts_descriptors(episode: Episode, chance: random.Random) -> None:
    episode.exhausted = True
    seconds = chance.uniform(0, 1.5)
    future = episode.client.submit(tasks.exhaust_descriptors, 7, seconds, pure=False)
    episode.expect(_value(future, 14))


@fault(2)
def task_hogs_memory(episode: Episode, chance: random.Random) -> None:
    """Its nanny ends the worker, which it can where all have one."""
    if not all(episode.plan.nannied):
        return
    name = episode.next_name()
    episode.cluster.hard_deaths += 1
    file = str(episode.cluster.directory / f"count-{name}")
    future = episode.client.submit(tasks.hog_first, 5, file, MEMORY_LIMIT, key=f"hog-{name}")
    episode.expect(_value(future, 10))


@fault(2)
def task_fails(episode: Episode, chance: random.Random) -> None:
    futures = [episode.client.submit(tasks.fail, x, pure=False) for x in range(5)]
    after = episode.client.submit(tasks.take, futures, pure=False)
    for x, future in enumerate(futures):
        episode.expect(_error(future, f"HarmError({x})"))
    episode.expect(_error(after, "HarmError("))


@fault(3)
def function_or_argument_fails_to_pickle(episode: Episode, chance: random.Random) -> None:
    """The client says so; nothing of it gets anywhere."""
    for call in ((tasks.Unpicklable(),), (tasks.take, tasks.Unpicklable())):
        _refused(episode, *call)


def _refused(episode: Episode, *call: Any) -> None:
    try:
        future = episode.client.submit(*call, pure=False)
    except Exception as error:
        assert "not to be pickled" in f"{error!r} {error.__cause__!r}", repr(error)
    else:
        episode.expect(_error(future, "not to be pickled"))


@fault(3)
def function_or_argument_fails_to_load(episode: Episode, chance: random.Random) -> None:
    there = tasks.Unloadable("worker")
    for call in ((there,), (tasks.take, there), (tasks.take, [there])):
        future = episode.client.submit(*call, pure=False)
        episode.expect(_error(future, "not to be loaded by a worker"))


@fault(3)
def result_fails_to_pickle(episode: Episode, chance: random.Random) -> None:
    """It can be used where it is, and cannot be fetched."""
    made = episode.client.submit(tasks.make, "Unpicklable", pure=False)
    episode.expect(_error(made, "not to be pickled"))


@fault(3)
def result_fails_to_load(episode: Episode, chance: random.Random) -> None:
    for where in ("client", "worker"):
        made = episode.client.submit(tasks.make, "Unloadable", where, pure=False)
        taken = episode.client.submit(tasks.take, made, pure=False)
        episode.expect(
            Expected(
                taken,
                "its name, or where it had to be moved an error",
                lambda got: got == "Unloadable" or "not to be loaded by a worker" in repr(got),
            )
        )
        if where == "client":
            episode.expect(_error(made, "not to be loaded by a client"))


@fault(3)
def exception_fails_to_pickle_or_load(episode: Episode, chance: random.Random) -> None:
    for name in ("UnpicklableError", "UnloadableError"):
        future = episode.client.submit(tasks.make_and_raise, name, pure=False)
        episode.expect(Expected(future, "some error", lambda got: isinstance(got, Exception)))


@fault(1)
def calm(episode: Episode, chance: random.Random) -> None:
    """Nothing happens for a moment."""
    time.sleep(chance.uniform(0, 0.3))
