"""Running stages on clusters: with a progress bar to watch, or in turns to measure."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from distributed import wait as wait_for_futures
from rich import box
from rich.table import Table

from fastworker.demo.cluster import Cluster, DemoError
from fastworker.demo.stages import Stage

WATCH_INTERVAL = 0.1  # seconds between two looks at the scheduler's counts
RATIO_WIDTH = 11  # of a column of the table: a figure and its ratio
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

    def tell() -> None:
        ended, left = client.run_on_scheduler(task_counts)
        progress(completed=ended - before, total=ended - before + left or None)

    start = time.monotonic()
    results = _run(stage, cluster, timeout, WATCH_INTERVAL, tell)
    seconds = time.monotonic() - start
    stage.check(results)
    ended = client.run_on_scheduler(task_counts)[0] - before
    progress(completed=ended, total=ended)
    return ended, seconds


def measure(stage: Stage, cluster: Cluster, timeout: float) -> Cost:
    """Run a stage with nothing beside it and check its results. Raises DemoError."""
    cpu = cluster.cpu_seconds()
    start = time.monotonic()
    results = _run(stage, cluster, timeout, CHECK_INTERVAL, lambda: None)
    cost = Cost(time.monotonic() - start, cluster.cpu_seconds() - cpu)
    stage.check(results)
    return cost


def _run(
    stage: Stage,
    cluster: Cluster,
    timeout: float,
    interval: float,
    look: Callable[[], None],
) -> list[Any]:
    """The results of a stage. Every ``interval`` seconds that it waits, ``look`` is called.

    Raises DemoError when a task fails, a process has ended, or it takes longer than ``timeout``.
    """
    start = time.monotonic()
    results: list[Any] = []
    # Each cluster has a client; code that is not told which one takes the current one.
    with cluster.client.as_current():
        for futures in stage.steps(cluster.client):
            while True:
                try:
                    wait_for_futures(futures, timeout=interval)
                    break
                except (TimeoutError, asyncio.TimeoutError):  # one and the same from 3.11 on
                    look()
                    cluster.check()
                    if time.monotonic() - start > timeout:
                        raise DemoError(
                            f"{stage.name} did not end within {timeout:g} s on {cluster.name}"
                        ) from None
            try:
                results += cluster.client.gather(futures)
            except Exception as error:
                raise DemoError(f"{stage.name} failed on {cluster.name}: {error!r}") from error
    return results


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


def comparison_table(costs: dict[tuple[str, str], Cost]) -> Table:
    """What each cluster took, one row a stage and one for the sum.

    The first cluster is the one to compare with: the figures of the others have their ratios to it,
    which are above 1 where they took less.
    """
    stages = list(dict.fromkeys(stage for stage, _ in costs))
    first, *others = dict.fromkeys(cluster for _, cluster in costs)
    table = Table(
        title=f"The same work on each cluster; 2.0x: half of what it takes on {first}",
        box=box.SIMPLE,
        show_edge=False,
        padding=0,
    )
    table.add_column("work", no_wrap=True)
    for what in ("wall s", "CPU s"):
        table.add_column(f"{what}\n{first}", justify="right", min_width=6)
        for name in others:
            table.add_column(name, justify="right", vertical="bottom", max_width=RATIO_WIDTH)

    def add_row(title: str, taken: dict[str, Cost]) -> None:
        cells = [title]
        for figures in (
            {name: cost.wall for name, cost in taken.items()},
            {name: cost.cpu for name, cost in taken.items()},
        ):
            cells.append(f"{figures[first]:.2f}")
            cells += [_beside(figures[first], figures[name]) for name in others]
        table.add_row(*cells)

    for stage in stages:
        add_row(stage, {name: costs[stage, name] for name in (first, *others)})
    table.add_section()
    sums = {
        name: Cost(
            sum(costs[stage, name].wall for stage in stages),
            sum(costs[stage, name].cpu for stage in stages),
        )
        for name in (first, *others)
    }
    add_row("all", sums)
    return table


def _beside(reference: float, figure: float) -> str:
    """A figure with how many times the reference is of it."""
    ratio = f"{reference / figure:.1f}x" if figure > 0 else "-"
    return f"{figure:.2f} [bold]{ratio:>5}[/bold]"
