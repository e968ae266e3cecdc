"""Running stages on clusters: with a progress bar to watch, or in turns to measure."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import Future
from distributed import wait as wait_for_futures
from rich.table import Table

from fastworker.demo.cluster import Cluster, DemoError
from fastworker.demo.stages import Stage

WATCH_INTERVAL = 0.1  # seconds between two looks at the scheduler's counts
CHECK_INTERVAL = 2.0  # seconds between two looks at whether all processes live


class Progress(Protocol):
    """Told how many tasks have ended and how many are known of."""

    def __call__(self, *, completed: float, total: float | None) -> None: ...


@dataclass(frozen=True)
class Cost:
    """What one stage took: wall time and CPU time of all workers, in seconds."""

    wall: float
    cpu: float


def task_counts(dask_scheduler: Any) -> tuple[int, int]:
    """How many tasks have ended so far and how many are still to run; runs on the scheduler."""
    to_run = ("waiting", "no-worker", "queued", "processing")
    ended = left = 0
    for prefix in dask_scheduler.task_prefixes.values():
        ended += prefix.state_counts["memory"] + prefix.state_counts["erred"]
        left += sum(prefix.states.get(state, 0) for state in to_run)
    return ended, left


def watch(stage: Stage, cluster: Cluster, timeout: float, progress: Progress) -> tuple[int, float]:
    """Run a stage, telling ``progress`` how far it is, and check its results.

    Returns how many tasks it had and the seconds it took. Raises DemoError.
    """
    client = cluster.client
    before, _ = client.run_on_scheduler(task_counts)
    start = time.monotonic()
    with client.as_current():
        futures = stage.start(client)
    while not all(future.done() for future in futures):
        ended, left = client.run_on_scheduler(task_counts)
        progress(completed=ended - before, total=ended - before + left or None)
        _check(stage, cluster, start, timeout)
        time.sleep(WATCH_INTERVAL)
    results = _collect(stage, cluster, futures)
    seconds = time.monotonic() - start
    stage.check(results)
    ended = client.run_on_scheduler(task_counts)[0] - before
    progress(completed=ended, total=ended)
    return ended, seconds


def measure(stage: Stage, cluster: Cluster, timeout: float) -> Cost:
    """Run a stage with nothing beside it and check its results. Raises DemoError."""
    cpu = cluster.cpu_seconds()
    start = time.monotonic()
    # Each cluster has a client; code that is not told which one takes the current one.
    with cluster.client.as_current():
        futures = stage.start(cluster.client)
        while True:
            try:
                wait_for_futures(futures, timeout=CHECK_INTERVAL)
                break
            except (TimeoutError, asyncio.TimeoutError):  # one and the same from 3.11 on
                _check(stage, cluster, start, timeout)
    results = _collect(stage, cluster, futures)
    cost = Cost(time.monotonic() - start, cluster.cpu_seconds() - cpu)
    stage.check(results)
    return cost


def compare(
    stages: Sequence[Stage],
    clusters: Sequence[Cluster],
    rounds: int,
    timeout: float,
    begin: Callable[[int], None],
    step: Callable[[], None],
) -> dict[tuple[str, str], Cost]:
    """The costs of every stage on every cluster, by names (stage, cluster); raises DemoError.

    The clusters take turns, stage by stage, and the first one to go changes from round to round, so
    that other load on the machine meets all alike. The lower of two figures counts, the median of
    more. ``begin`` is called with the number of each round, from 1, before it, ``step``
    after each measurement.
    """
    costs: dict[tuple[str, str], list[Cost]] = {}
    for number in range(rounds):
        begin(number + 1)
        for stage in stages:
            for cluster in clusters if number % 2 == 0 else reversed(clusters):
                cost = measure(stage, cluster, timeout)
                costs.setdefault((stage.name, cluster.name), []).append(cost)
                step()
    typical = min if rounds <= 2 else statistics.median
    return {
        names: Cost(typical([c.wall for c in taken]), typical([c.cpu for c in taken]))
        for names, taken in costs.items()
    }


def comparison_table(costs: dict[tuple[str, str], Cost], stock: str, ours: str) -> Table:
    """distributed's workers beside ours with their ratios, one row a stage and one for the sum."""
    table = Table(title="The same work on stock workers and on fastworker")
    table.add_column("work")
    for what in ("wall s", "CPU s"):
        table.add_column(f"{what}\nstock", justify="right")
        table.add_column("\nfastworker", justify="right")
        table.add_column("\nratio", justify="right", style="bold")
    names = list(dict.fromkeys(stage for stage, _ in costs))
    rows = [(name, costs[name, stock], costs[name, ours]) for name in names]
    for name, theirs, mine in rows:
        table.add_row(name, *_cells(theirs, mine))
    table.add_section()
    table.add_row(
        "all",
        *_cells(
            Cost(sum(row[1].wall for row in rows), sum(row[1].cpu for row in rows)),
            Cost(sum(row[2].wall for row in rows), sum(row[2].cpu for row in rows)),
        ),
    )
    return table


def _cells(theirs: Cost, mine: Cost) -> list[str]:
    cells = []
    for stock, ours in ((theirs.wall, mine.wall), (theirs.cpu, mine.cpu)):
        ratio = f"{stock / ours:.2f}" if ours > 0 else "-"
        cells += [f"{stock:.2f}", f"{ours:.2f}", ratio]
    return cells


def _collect(stage: Stage, cluster: Cluster, futures: list[Future]) -> list[Any]:
    try:
        results: list[Any] = cluster.client.gather(futures)
    except Exception as error:
        raise DemoError(f"{stage.name} failed on {cluster.name}: {error!r}") from error
    return results


def _check(stage: Stage, cluster: Cluster, start: float, timeout: float) -> None:
    cluster.check()
    if time.monotonic() - start > timeout:
        raise DemoError(f"{stage.name} did not end within {timeout:g} s on {cluster.name}")
