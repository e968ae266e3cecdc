"""What an episode is to be, drawn from its seed alone."""

from __future__ import annotations

import os
import random
import shutil
from dataclasses import dataclass, replace


@dataclass
class Plan:
    seed: int
    lane: bool
    """Whether the scheduler has the low-latency lane."""
    nannied: list[bool]
    """One for each worker: whether it has a nanny."""
    nthreads: int
    validate: bool
    allowed_failures: int
    small_disk: bool
    """Whether workers spill to a disk that is soon full."""
    rounds: list[list[tuple[float, str]]]
    """For each round, after how many seconds which fault is to happen."""
    ending: str

    @property
    def n_faults(self) -> int:
        return sum(len(each) for each in self.rounds) + 1

    def describe(self) -> str:
        nannies = "".join("n" if each else "-" for each in self.nannied)
        rounds = " | ".join(" ".join(name for _, name in each) for each in self.rounds)
        flags = [name for name in ("lane", "validate", "small_disk") if getattr(self, name)]
        return f"[{nannies} x{self.nthreads} {' '.join(flags)}] {rounds} || {self.ending}"


def can_mount() -> bool:
    return os.geteuid() == 0 and shutil.which("mount") is not None


def draw_plan(
    seed: int, faults: dict[str, int], endings: dict[str, int], n_rounds: int = 6
) -> Plan:
    """The plan of a seed; ``faults`` and ``endings`` are names with weights."""
    chance = random.Random(f"plan {seed}")
    n_workers = chance.choice([2, 3, 3])
    mode = chance.choice(["all", "none", "mixed"])
    nannied = [mode == "all" or (mode == "mixed" and i % 2 == 0) for i in range(n_workers)]
    rounds = []
    for _ in range(n_rounds):
        n_faults = chance.choice([1, 1, 2, 3])
        names = chance.choices(list(faults), list(faults.values()), k=n_faults)
        rounds.append([(round(chance.uniform(0, 0.6), 2), name) for name in names])
    (ending,) = chance.choices(list(endings), list(endings.values()))
    return Plan(
        seed=seed,
        lane=chance.random() < 0.5,
        nannied=nannied,
        nthreads=chance.choice([1, 2, 2, 4]),
        validate=chance.random() < 0.5,
        allowed_failures=chance.choice([1, 10, 10]),
        small_disk=chance.random() < 0.25,
        rounds=rounds,
        ending=ending,
    )


def with_faults(plan: Plan, names: list[str], ending: str = "") -> Plan:
    """The same, but each round is one of these faults."""
    return replace(plan, rounds=[[(0.2, name)] for name in names], ending=ending or plan.ending)
