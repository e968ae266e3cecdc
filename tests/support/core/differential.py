"""Random differential test of the native core against distributed's WorkerState.

Run as a program (see ``ci/differential``), or through :func:`run` in tests.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import fastworker.core
from support.core.compare import Divergence
from support.core.generator import World
from support.core.mutants import MUTANTS
from support.core.oracle import STOCK
from support.core.shrink import kind, replay, shrink, source
from support.core.stories import Duel, Script, Setup, quiet

#: Stories have about this many steps, from very short to three times that.
STEPS = 300


@dataclass
class Found:
    """A divergence, and the story that led there."""

    seed: str
    divergence: Divergence
    setup: Setup
    script: Script

    def report(self, candidate: type, *, seconds: float) -> str:
        """What differs, with a shortened story; spends about `seconds` on shortening it."""
        until = monotonic() + seconds
        setup, script = shrink(
            candidate, self.setup, self.script, out_of_time=lambda: monotonic() > until
        )
        again, _ = replay(candidate, setup, script)
        return "\n".join(
            [
                f"Divergence from distributed's WorkerState in story {self.seed}, "
                f"PYTHONHASHSEED={os.environ.get('PYTHONHASHSEED', 'random')}:",
                "",
                str(self.divergence),
                "",
                f"The story has {len(self.script)} steps; shortened to {len(script)}"
                + (":" if again else ", but it does not diverge when played again:"),
                "",
                source(setup, script),
                "",
                str(again) if again and kind(again) == kind(self.divergence) else "",
            ]
        )


@dataclass
class Tally:
    """What a run went through."""

    stories: int = 0
    events: Counter[str] = field(default_factory=Counter)
    #: states that the oracle's tasks were seen in, sampled after every step
    states: Counter[str] = field(default_factory=Counter)
    #: (state before, state asked for), as far as the logs reach back at the end of a story
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: how stories ended that ended in the same exception on both sides
    errors: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        transitions = {f"{start} -> {finish}": n for (start, finish), n in self.transitions.items()}
        return {**vars(self), "transitions": transitions}

    @property
    def n_events(self) -> int:
        return sum(self.events.values())


def tell_story(candidate: type, rng: random.Random, steps: int, tally: Tally) -> None:
    """Generate one story and play it; raises :class:`Divergence` with a ``found`` attribute."""
    world = World(rng)
    setup = world.make_setup()
    duel: Duel | None = None
    try:
        duel = Duel(candidate, setup, thorough=False)
        world.state = duel.oracle.state
        for _ in range(steps):
            step = world.step()
            if isinstance(step, tuple):
                tally.events.update(type(event).__name__ for event in step)
            world.observe(duel.play(step))
            for ts in duel.oracle.state.tasks.values():
                tally.states[ts.state] += 1
        duel.finish()
    except Divergence as divergence:
        divergence.story = (setup, duel.script if duel else [])  # type: ignore[attr-defined]
        raise
    except Exception as error:
        if duel is None:
            raise
        tally.errors[type(error).__name__] += 1
        with suppress(Exception):
            for _ in range(10):
                duel.aftermath(world.step())
    finally:
        tally.stories += 1
        if duel is not None:
            for record in duel.oracle.state.log:
                if len(record) == 7 and isinstance(record[4], dict):
                    tally.transitions[record[1], record[2]] += 1


def run(candidate: type, seed: int, n_events: int, tally: Tally) -> Found | None:
    """Play stories ``seed/0``, ``seed/1``, ... until `n_events` events were compared."""
    enough = tally.n_events + n_events
    n = 0
    with quiet():
        while tally.n_events < enough:
            name = f"{seed}/{n}"
            found = run_one(candidate, name, tally)
            if found is not None:
                return found
            n += 1
    return None


def run_one(candidate: type, name: str, tally: Tally) -> Found | None:
    """Play the story of that name."""
    rng = random.Random(name)
    steps = int(STEPS * rng.choice((0.1, 0.5, 1, 1, 3)))
    try:
        with quiet():
            tell_story(candidate, rng, steps, tally)
    except Divergence as divergence:
        setup, script = divergence.story  # type: ignore[attr-defined]
        return Found(name, divergence, setup, script)
    return None


def candidates() -> dict[str, Any]:
    return {"fastworker": fastworker.core.WorkerState, "stock": STOCK, **MUTANTS}


def self_test(n_events: int) -> int:
    """Whether every broken machine is found out, one line each; the exit status."""
    missed = 0
    for name, mutant in MUTANTS.items():
        tally = Tally()
        found = run(mutant, 0, n_events, tally)
        missed += found is None
        what = f"{found.divergence.where}: {found.divergence.actual!r:.60}" if found else "MISSED"
        print(f"{name} {tally.n_events} {what}".splitlines()[0], flush=True)
    return int(missed > 0)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="ci/differential",
        description="Play random stories on fastworker's core and on distributed's, and compare"
        " instructions and state after every event. Exits with 1 at the first divergence,"
        " after printing a short story that shows it.",
    )
    parser.add_argument("events", nargs="?", type=int, default=1_000_000, help="how many to play")
    parser.add_argument(
        "--seed", type=int, nargs="*", default=[], help="one run per seed; default: 0, 1, 2, ..."
    )
    parser.add_argument("--story", help="play only this story, for example 17/3")
    parser.add_argument(
        "--shrink", type=float, default=60, metavar="SECONDS", help="time to shorten a story"
    )
    parser.add_argument(
        "--candidate",
        default="fastworker",
        choices=sorted(candidates()),
        metavar="NAME",
        help="what to test: fastworker, stock, or one of the broken machines of mutants.py",
    )
    parser.add_argument(
        "--self-test", action="store_true", help="play each broken machine until it is found out"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was played there")
    parser.add_argument("--quiet", action="store_true", help="print only the last line")
    args = parser.parse_args(argv)
    if args.self_test:
        return self_test(args.events)
    candidate = candidates()[args.candidate]

    tally = Tally()
    began = monotonic()
    found = None
    if args.story:
        found = run_one(candidate, args.story, tally)
    else:
        chunk = 10_000
        seeds = iter(args.seed) if args.seed else iter(range(sys.maxsize))
        per_seed = -(-args.events // len(args.seed)) if args.seed else chunk
        for seed in seeds:
            left = min(per_seed, args.events - tally.n_events)
            if left <= 0:
                break
            found = run(candidate, seed, left, tally)
            if found is not None:
                break
            if not args.quiet:
                rate = (monotonic() - began) / tally.n_events
                print(
                    f"seed {seed}: {tally.n_events:,} events, {tally.stories:,} stories,"
                    f" {1e3 * rate:.2f} ms/event",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(tally.as_dict()))
    if found is not None:
        print(found.report(candidate, seconds=args.shrink))
        return 1
    if not args.quiet:
        for title, counter in (
            ("events", tally.events),
            ("states", tally.states),
            ("errors", tally.errors),
        ):
            print(f"{title}: " + ", ".join(f"{k} {n:,}" for k, n in counter.most_common()))
        print(f"kinds of transitions: {len(tally.transitions)}")
    print(f"{tally.n_events:,} events in {tally.stories:,} stories: no divergence")
    return 0


if __name__ == "__main__":
    sys.exit(main())
