"""What kinds of stories there are: how often things happen in them, and which values occur."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from support.core.stories import SECRET

#: How likely each kind of event is, all else being equal.
WEIGHTS = {
    "compute": 12.0,
    "compute_again": 3.0,
    "finish": 12.0,
    "gathered": 12.0,
    "free": 5.0,
    "cancel_compute": 1.0,
    "steal": 1.5,
    "acquire": 2.5,
    "remove_replicas": 2.0,
    "refresh": 2.5,
    "scatter": 1.0,
    "pause": 0.5,
    "unpause": 3.0,
    "find_missing": 1.5,
    "retry_busy": 3.0,
    "remove_worker": 0.7,
    "secede": 1.5,
    "poke": 1.0,
}

#: Tempers of stories: what happens more, or less, often than usual.
TEMPERS: dict[str, dict[str, float]] = {
    "plain": {},
    "cancelling": {"free": 4, "compute_again": 5, "acquire": 2, "secede": 2, "finish": 0.4},
    "fetching": {"acquire": 3, "gathered": 0.6, "refresh": 2, "finish": 2},
    "flaky": {"remove_worker": 6, "refresh": 2, "find_missing": 3, "gathered": 2},
    "computing": {"acquire": 0.2, "steal": 3, "cancel_compute": 4, "finish": 1.5},
    "pausing": {"pause": 8, "unpause": 2},
    "seceding": {"secede": 8, "acquire": 3, "free": 3, "compute_again": 4, "finish": 0.4},
    "replicas": {"acquire": 5, "remove_replicas": 6, "scatter": 6, "compute": 0.5},
}

#: Numbers around the widths that integers of a priority may have in a native core.
EDGES = [
    2**k + d for k in (0, 7, 8, 15, 16, 23, 24, 31, 32, 39, 40, 52, 53, 63, 64) for d in (-1, 0)
]

PRIORITIES: dict[str, Callable[[random.Random, int], Any]] = {
    "increasing": lambda rng, n: (n,),
    "equal": lambda rng, n: (0,),
    "dask": lambda rng, n: (rng.randrange(-1, 2), rng.randrange(4), rng.randrange(20)),
    "floats": lambda rng, n: (rng.choice((0, 0.0, 0.5, -1.5, 1)), rng.randrange(4)),
    "edges": lambda rng, n: tuple(
        rng.choice((-1, 0, 1)) * rng.choice(EDGES) for _ in range(rng.randrange(5))
    ),
    "odd": lambda rng, n: rng.choice(
        (
            (),
            (0,),
            (0, 1),
            [1, 2, 3],
            (0, 1, 2, 3, 4, 5),
            (2**70, 1),
            (2**53,),
            (2**53 + 1,),
            (float(2**53),),
            (-(2**70),),
            (math.inf,),
            (-math.inf, 1),
            (True, 2),
            (1, 2.0),
        )
    ),
}

#: Values of tasks. Their types go into task-finished messages.
VALUES = (1, "two", b"3", None, 4.0, [5], SECRET)

#: States of a dependency that are not touched when what needs it is released.
KEPT = {"memory", "ready", "constrained", "waiting", "executing", "long-running"}

GATHER_OUTCOMES = ("full", "partial", "empty", "busy", "network", "failure")
