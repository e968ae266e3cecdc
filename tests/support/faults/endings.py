"""How an episode ends; after each, every process of the cluster has to end by itself."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from support.faults import tasks

if TYPE_CHECKING:
    from support.faults.episode import Episode

Ending = Callable[["Episode", random.Random], None]
ENDINGS: dict[str, Ending] = {}


def ending(function: Ending) -> Ending:
    ENDINGS[function.__name__.replace("_", "-")] = function
    return function


def _load(episode: Episode, chance: random.Random) -> None:
    """Something may be going on while all ends."""
    if chance.random() < 0.5:
        episode.unwanted = episode.client.map(
            tasks.slow_node, range(100), size=1000, key="ending", pure=False
        )
        time.sleep(chance.uniform(0, 0.3))


@ending
def scheduler_killed(episode: Episode, chance: random.Random) -> None:
    _load(episode, chance)
    episode.cluster.signal(episode.cluster.scheduler.pid, signal.SIGKILL)


@ending
def scheduler_terminated(episode: Episode, chance: random.Random) -> None:
    _load(episode, chance)
    episode.cluster.scheduler.ask_to_stop()


@ending
def all_terminated(episode: Episode, chance: random.Random) -> None:
    """As when a machine or a job shuts down."""
    _load(episode, chance)
    members = [member.process for member in episode.cluster.members]
    for process in chance.sample([*members, episode.cluster.scheduler], len(members) + 1):
        process.ask_to_stop()
        time.sleep(chance.choice([0, 0, 0.05]))


@ending
def workers_terminated_first(episode: Episode, chance: random.Random) -> None:
    _load(episode, chance)
    for member in episode.cluster.members:
        member.process.ask_to_stop()
    episode.await_end([member.process for member in episode.cluster.members])
    episode.client.close(timeout=10)
    episode.cluster.scheduler.ask_to_stop()


@ending
def client_shuts_down(episode: Episode, chance: random.Random) -> None:
    _load(episode, chance)
    episode.client.shutdown()
