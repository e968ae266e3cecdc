"""Faults: what happens to a cluster while a graph runs. Each is one function."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from distributed.comm import CommClosedError

from support.faults import tasks

if TYPE_CHECKING:
    from support.faults.cluster import Member
    from support.faults.episode import Episode

Fault = Callable[["Episode", random.Random], None]
FAULTS: dict[str, Fault] = {}
WEIGHTS: dict[str, int] = {}

#: What a client's request ends with when the worker that it is for goes meanwhile.
GONE = (CommClosedError, OSError, TimeoutError, KeyError, ValueError)


def fault(weight: int = 2) -> Callable[[Fault], Fault]:
    def register(function: Fault) -> Fault:
        name = function.__name__.replace("_", "-")
        FAULTS[name] = function
        WEIGHTS[name] = weight
        return function

    return register


def _one(episode: Episode, chance: random.Random) -> Member:
    return chance.choice(episode.cluster.members)


# Processes


@fault(4)
def kill(episode: Episode, chance: random.Random) -> None:
    episode.cluster.signal(_one(episode, chance).worker_pid(), signal.SIGKILL)


@fault(2)
def kill_nanny(episode: Episode, chance: random.Random) -> None:
    """The process at the top, whose worker has to follow."""
    member = _one(episode, chance)
    episode.cluster.hard_deaths += 1  # the worker's, which follows at once
    episode.cluster.signal(member.process.pid, signal.SIGKILL)


@fault(3)
def stop_and_continue(episode: Episode, chance: random.Random) -> None:
    pid = _one(episode, chance).worker_pid()
    episode.cluster.signal(pid, signal.SIGSTOP)
    time.sleep(chance.uniform(0.1, 2))
    episode.cluster.signal(pid, signal.SIGCONT)


@fault(3)
def terminate(episode: Episode, chance: random.Random) -> None:
    member = _one(episode, chance)
    member.process.ask_to_stop()


@fault(2)
def terminate_worker_under_nanny(episode: Episode, chance: random.Random) -> None:
    episode.cluster.signal(_one(episode, chance).worker_pid(), signal.SIGTERM)


# Life


@fault(3)
def nanny_restart(episode: Episode, chance: random.Random) -> None:
    nannied = [each.address for each in episode.cluster.members if each.nannied]
    if nannied:
        with suppress(*GONE):
            episode.client.restart_workers([chance.choice(nannied)], timeout=30)


@fault(1)
def restart(episode: Episode, chance: random.Random) -> None:
    time.sleep(0.2)  # what the client sends may not overtake this, or the task runs in vain
    episode.cancelled = True
    episode.cluster.hard_deaths += len(episode.cluster.members)  # those that are slow to end
    # RuntimeError, TimeoutError: some that had to come back have not, as they were ending already
    with suppress(*GONE, RuntimeError):
        episode.client.restart(timeout=30, wait_for_workers=chance.random() < 0.5)


@fault(3)
def join(episode: Episode, chance: random.Random) -> None:
    if len(episode.cluster.members) < 5:
        episode.cluster.add_member(chance.choice(episode.plan.nannied))


@fault(3)
def retire(episode: Episode, chance: random.Random) -> None:
    member = _one(episode, chance)
    with suppress(*GONE):
        episode.client.retire_workers([member.address])


@fault(3)
def leave(episode: Episode, chance: random.Random) -> None:
    with suppress(*GONE):
        episode.client.run(tasks.leave, workers=[_one(episode, chance).address])


@fault(3)
def pause(episode: Episode, chance: random.Random) -> None:
    address = [_one(episode, chance).address]
    with suppress(*GONE):
        episode.client.run(tasks.set_status, "paused", workers=address)
    time.sleep(chance.uniform(0, 1))
    with suppress(*GONE):
        episode.client.run(tasks.set_status, "running", workers=address)


# Network. Connections of a worker to the scheduler are one proxy's, those to the worker another's.


def _proxy(episode: Episode, chance: random.Random):
    member = _one(episode, chance)
    return chance.choice([member.to_worker, member.to_worker, member.to_scheduler])


@fault(4)
def reset(episode: Episode, chance: random.Random) -> None:
    proxy = _proxy(episode, chance)
    proxy.with_reset = chance.random() < 0.7
    episode.cluster.proxies.call(proxy.reset, chance.choice([0.5, 1]), chance)


@fault(5)
def cut(episode: Episode, chance: random.Random) -> None:
    """In the middle of a message."""
    proxy = _proxy(episode, chance)
    proxy.with_reset = chance.random() < 0.7
    most = chance.choice([100, 10_000, 1_000_000])
    episode.cluster.proxies.call(proxy.cut_after, most, chance.choice([0.5, 1]), chance)
    time.sleep(chance.uniform(0, 1))


@fault(2)
def refuse(episode: Episode, chance: random.Random) -> None:
    """No peer can connect for a while, and some connections are lost."""
    proxy = _proxy(episode, chance)
    proxy.refusing = True
    episode.cluster.proxies.call(proxy.reset, 0.5, chance)
    time.sleep(chance.uniform(0, 2))
    proxy.refusing = False


@fault(3)
def slow(episode: Episode, chance: random.Random) -> None:
    proxy = _proxy(episode, chance)
    proxy.delay = chance.choice([0.01, 0.1, 0.5])
    proxy.rate = chance.choice([0, 100_000, 1_000_000])
    time.sleep(chance.uniform(0, 2))
    proxy.delay = proxy.rate = 0.0


@fault(2)
def cancel(episode: Episode, chance: random.Random) -> None:
    """Tasks whose futures are let go while they run."""
    futures = episode.client.map(
        tasks.slow_node, range(40), size=1000, key=f"{episode.next_name()}-unwanted", pure=False
    )
    time.sleep(chance.uniform(0, 0.2))
    if chance.random() < 0.5:
        episode.client.cancel(futures)
    del futures
