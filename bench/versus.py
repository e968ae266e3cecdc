"""What every benchmark here shares: taking turns with stock, and keeping the ratios.

A benchmark never stands alone. ``versus`` runs stock and fastworker in turn, A B A B ..., in one
process, and the figure that counts is the ratio stock / ours of their best rounds (above 1 means
fastworker is the cheaper one). Machines differ and drift; that ratio moves little. The clock is the
thread's CPU time, so that whatever else the machine does is not counted.

``pytest bench --ratios FILE`` writes the ratios as JSON for ``ci/bench_compare.py``;
``--short`` takes fewer rounds, for a look in between.
"""

from __future__ import annotations

import contextlib
import gc
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, thread_time
from typing import Any, NamedTuple

import distributed
import pytest

import fastworker

FORMAT = 1
SECONDS, SECONDS_SHORT = 6.0, 2.0
"""How long a benchmark takes its turns, preparations included."""
MIN_ROUNDS, MAX_ROUNDS = 5, 2_000


class Side(NamedTuple):
    """One of the two that take turns: ``run(*prepare())`` is one round, only ``run`` is timed."""

    prepare: Callable[[], tuple[Any, ...]]
    run: Callable[..., object]


@dataclass
class Ratio:
    """Stock's figure, ours in the same unit, and stock / ours.

    One that is not `judged` is for information: its getting worse is not a regression.
    """

    stock: float
    ours: float
    unit: str
    ratio: float
    test: str
    slow: bool
    judged: bool
    target: str
    met: bool | None


class Recorder:
    """The ratios of this session by benchmark name."""

    def __init__(self, short: bool) -> None:
        self.short = short
        self.ratios: dict[str, Ratio] = {}

    def as_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "environment": {
                "python": platform.python_version(),
                "cpu": cpu_model(),
                "machine": platform.machine(),
                "system": platform.system(),
                "distributed": distributed.__version__,
                "fastworker": fastworker.__version__,
            },
            "ratios": {name: asdict(r) for name, r in sorted(self.ratios.items())},
        }


def cpu_model() -> str:
    """What the ratios were measured on; caches and branch predictors have a say in them."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


RECORDER = pytest.StashKey[Recorder]()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection while timing: its cost depends on what else the process holds.

    This favours stock, which makes more objects that the collector has to look at.
    """
    gc.collect()
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


class Record:
    """Keeps one ratio under a name, with the test that measured it."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self.recorder = request.config.stash[RECORDER]
        self.short = self.recorder.short
        self.test = request.node.nodeid
        self.slow = request.node.get_closest_marker("slow") is not None

    def __call__(
        self,
        name: str,
        *,
        stock: float,
        ours: float,
        unit: str,
        at_least: float | None = None,
        at_most: float | None = None,
        judged: bool = True,
    ) -> Ratio:
        """Record stock's and our figure (both in `unit`, smaller is better).

        `at_least` is a target for the ratio, `at_most` one for our own figure. Missing a target
        is shown, not an error: what fails a run is a regression, see ``ci/bench_compare.py``.
        """
        if name in self.recorder.ratios:
            raise ValueError(f"two benchmarks are called {name!r}")
        ratio = stock / ours
        target, met = "", None
        if at_least is not None:
            target, met = f">= {at_least:g} times", ratio >= at_least
        elif at_most is not None:
            target, met = f"<= {at_most:g} {unit}", ours <= at_most
        out = Ratio(stock, ours, unit, ratio, self.test, self.slow, judged, target, met)
        self.recorder.ratios[name] = out
        return out


class Versus:
    """Times two or more sides in turn.

    Our rounds are pytest-benchmark's own; the others run between them, so whatever slows the
    machine down for a while slows all of them.
    """

    def __init__(self, benchmark: Any, record: Record) -> None:
        self.benchmark = benchmark
        self.record = record

    def __call__(
        self,
        name: str,
        *,
        stock: Side,
        ours: Side,
        per: int,
        others: dict[str, Side] | None = None,
        unit: str = "us",
        at_least: float | None = None,
        at_most: float | None = None,
        judged: bool = True,
    ) -> None:
        """Record the ratio stock / ours as `name`, and one for each of `others` as `name/other`.

        Only the first one may be judged: it says all that there is to say about ours. `per` is how
        many operations one round does; figures are microseconds for one of them.
        """
        if not self.benchmark.enabled:
            for side in (stock, *(others or {}).values(), ours):
                timed(side)
            pytest.skip("--benchmark-disable: each side ran once, nothing was compared")
        rivals = {"": stock, **(others or {})}
        times: dict[str, list[float]] = {other: [] for other in rivals}

        def rivals_then_prepare_ours() -> tuple[tuple[Any, ...], dict[str, Any]]:
            for other, side in rivals.items():
                times[other].append(timed(side))
            args = ours.prepare()
            gc.collect()
            return args, {}

        with quiet():
            start = perf_counter()
            for side in (*rivals.values(), ours):
                timed(side)
            turn = perf_counter() - start
            seconds = SECONDS_SHORT if self.record.short else SECONDS
            rounds = min(MAX_ROUNDS, max(MIN_ROUNDS, round(seconds / turn)))
            self.benchmark.pedantic(ours.run, setup=rivals_then_prepare_ours, rounds=rounds)
        scale = 1e6 / per
        our_best = self.benchmark.stats.stats.min * scale
        for other, samples in times.items():
            ratio = self.record(
                f"{name}/{other}" if other else name,
                stock=min(samples) * scale,
                ours=our_best,
                unit=unit,
                at_least=None if other else at_least,
                at_most=None if other else at_most,
                judged=judged and not other,
            )
            self.benchmark.extra_info[other or "stock"] = asdict(ratio)


def timed(side: Side) -> float:
    """CPU seconds that one round of `side` takes."""
    args = side.prepare()
    gc.collect()
    start = thread_time()
    side.run(*args)
    return thread_time() - start
