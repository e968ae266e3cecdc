"""A stock scheduler as it comes and the same with the low-latency lane, in turn.

The tasks do next to nothing, so the figures are what a task waits for: timers, if there are any,
and the scheduler and the worker themselves. Each worker has one thread.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from distributed import Client, wait

from clusters import OURS, PATIENCE, STOCK, cluster
from fastworker.demo.launcher import Kind
from fastworker.scheduler import low_latency_client
from versus import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TASKS = 1_000
STEPS = 100


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def a_map(client: Client, tasks: int = TASKS) -> float:
    with client.as_current():
        return seconds(lambda: wait(client.map(operator.neg, range(tasks), pure=False), PATIENCE))


def a_tree(client: Client) -> float:
    """Half of the tasks are the leaves."""
    name = f"tree-{time.time()}"
    layer: list[Any] = [(f"{name}-0", i) for i in range(TASKS // 2)]
    graph: dict[Any, Any] = {key: (operator.neg, key[1]) for key in layer}
    depth = 0
    while len(layer) > 1:
        depth += 1
        pairs = [layer[i : i + 2] for i in range(0, len(layer), 2)]
        layer = [(f"{name}-{depth}", i) for i in range(len(pairs))]
        graph.update({key: (sum, pair) for key, pair in zip(layer, pairs, strict=True)})
    return seconds(lambda: client.get(graph, layer[0], optimize_graph=False))


def a_chain(client: Client) -> float:
    name = f"chain-{time.time()}"
    graph: dict[Any, Any] = {(name, 0): 0}
    graph.update({(name, i): (operator.add, (name, i - 1), 1) for i in range(1, STEPS)})
    return seconds(lambda: client.get(graph, (name, STEPS - 1), optimize_graph=False))


def submissions(client: Client) -> float:
    def one_by_one() -> None:
        for i in range(STEPS):
            client.submit(operator.neg, i, pure=False).result(PATIENCE)

    return seconds(one_by_one)


class Workload(NamedTuple):
    """``run`` does so many operations and returns the seconds; the target is in that unit."""

    run: Callable[[Client], float]
    operations: int
    unit: str
    at_most: float | None


WORKLOADS = {
    "map": Workload(a_map, TASKS, "us/task", 350),
    "tree": Workload(a_tree, TASKS, "us/task", 550),
    "chain": Workload(a_chain, STEPS, "us/step", 900),
    "submit": Workload(submissions, STEPS, "us/result", None),
}


def test_lane(record: Record, tmp_path: Path) -> None:
    """One fastworker on either side; ``submit`` with the client's own lane too, on our side."""
    best: dict[str, dict[str, float]] = {name: {} for name in WORKLOADS}
    with cluster(tmp_path, "stock", [OURS]) as stock:
        with cluster(tmp_path, "lane", [OURS], "--preload", "fastworker.scheduler") as ours:
            low_latency_client(ours)
            for turn in range(3 if record.short else 6):
                for name, load in WORKLOADS.items():
                    for side, client in (("stock", stock), ("ours", ours)):
                        micros = 1e6 * load.run(client) / load.operations
                        if turn:  # the first one warms up
                            best[name][side] = min(micros, best[name].get(side, micros))
    for name, load in WORKLOADS.items():
        record(f"lane/{name}", unit=load.unit, at_most=load.at_most, **best[name])


MANY = 5_000
LANE = ("--preload", "fastworker.scheduler")


def test_halves_of_the_lane(record: Record, tmp_path: Path) -> None:
    """What a user gains step by step: fastworker, the scheduler's lane, the client's lane.

    Two workers. Each step is compared with stock workers and a scheduler as it comes. Not judged:
    ``test_lane`` and the benchmarks of workers are what regresses.
    """
    loads: dict[str, tuple[Callable[[Client], float], float]] = {
        "map": (lambda client: a_map(client, MANY), 1e3),
        "submit": (submissions, 1e3 / STEPS),
    }
    best: dict[str, dict[str, float]] = {name: {} for name in loads}
    with contextlib.ExitStack() as stack:

        def start(name: str, kind: Kind, *options: str) -> Client:
            return stack.enter_context(cluster(tmp_path, name, [kind, kind], *options))

        clients = {
            "stock": start("stock", STOCK),
            "fastworker": start("fastworker", OURS),
            "scheduler": start("scheduler", OURS, *LANE),
            "both": start("both", OURS, *LANE),
        }
        low_latency_client(clients["both"])
        for turn in range(2 if record.short else 4):
            for load, (run, scale) in loads.items():
                for side, client in clients.items():
                    millis = run(client) * scale
                    if turn:  # the first one warms up
                        best[load][side] = min(millis, best[load].get(side, millis))
    for load, found in best.items():
        stock = found.pop("stock")
        for side, millis in found.items():
            record(f"lane/halves/{load}/{side}", stock=stock, ours=millis, unit="ms", judged=False)
