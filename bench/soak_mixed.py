"""Mixed load on two workers with nannies: memory, descriptors, threads and latency stay flat.

    sh ci/soak mixed [MINUTES] [--worker fastworker|stock] [--plot FILE]

Tiny tasks, tasks that fail, transfers, results that are spilled, tasks that are cancelled, and
clients that come and go, until the time is over. Prints figures, writes a plot of them, and exits
with 1 if the last fifth of the time has more of something than the second fifth, beyond what it
may. The first fifth is for getting warm.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from distributed import Client, wait

from soak_plot import write_plot
from support.cluster.launcher import Launcher, collect
from support.cluster.tasks import array_of, checksum, increment, sleep_and_return

CYCLES_OF_A_CLIENT = 5
OPTIONS = ["--nanny", "--nthreads", "2", "--memory-limit", "500 MB"]
CONFIG = {
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "0.02",  # 10 MB: large results are spilled
    # So that logs are full soon. The slowest are those of the profiler: a tree of stacks a second
    "DASK_DISTRIBUTED__ADMIN__LOW_LEVEL_LOG_LENGTH": "100",
    # By default an hour of the figures of the process, twice a second: 2 MB
    "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__LOG_LENGTH": "100",
}
PATIENCE = 120.0
"""Seconds after which something that does not happen is an error."""


class Sample(NamedTuple):
    """The figures at one time: the sum over both workers, and of the client's the latency."""

    minutes: float
    rss: float  # MiB
    descriptors: float
    threads: float
    latency: float  # ms, the median of single tasks from submission to result


#: How much more of each the end may have than the time after the start: a share, and an amount.
MAY_GROW = {
    "rss": (0.05, 8.0),
    "descriptors": (0.0, 4.0),
    "threads": (0.0, 2.0),
    "latency": (0.5, 1.0),  # others use the machine too
}


def fail(x: int) -> None:
    raise ValueError(x)


def one_cycle(client: Client, n: int, workers: list[str]) -> float:
    """All kinds of load once; the median latency of a task in seconds."""
    assert collect(client, client.map(increment, range(500), pure=False), PATIENCE)[-1] == 500
    failing = client.map(fail, range(20), pure=False)
    wait(failing, timeout=PATIENCE)
    assert all(future.status == "error" for future in failing)
    made = [client.submit(array_of, 1, seed, workers=workers[0], pure=False) for seed in range(8)]
    sums = [client.submit(checksum, each, workers=workers[1], pure=False) for each in made]
    collect(client, sums, PATIENCE)
    large = client.map(array_of, [2] * 20, range(20), pure=False)
    collect(client, client.map(checksum, large, pure=False), PATIENCE)
    unwanted = client.map(sleep_and_return, range(50), seconds=0.02, pure=False)
    client.cancel(unwanted)
    with suppress(CancelledError):
        wait(unwanted, timeout=PATIENCE)
    times = []
    for x in range(20):
        start = time.perf_counter()
        assert client.submit(increment, x + n, pure=False).result(PATIENCE) == x + n + 1
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def soak(minutes: float, kind: str, directory: Path) -> list[Sample]:
    samples: list[Sample] = []
    print(f"{'minutes':>8} {'RSS MiB':>9} {'fds':>6} {'threads':>8} {'latency ms':>11}", flush=True)
    with Launcher(directory, CONFIG) as launcher:
        scheduler = launcher.scheduler()
        for _ in range(2):
            launcher.worker(scheduler.address, *OPTIONS, kind=kind)
        # It looks on; the load is that of others
        with launcher.client(scheduler, 2, set_as_default=False) as watcher:
            pids = watcher.run(lambda dask_worker: __import__("os").getpid())
            workers = [psutil.Process(pid) for pid in pids.values()]
            start, cycle = time.monotonic(), 0
            while time.monotonic() < start + minutes * 60:
                latencies = []
                with Client(scheduler.address, set_as_default=False) as client:
                    for _ in range(CYCLES_OF_A_CLIENT):
                        cycle += 1
                        with client.as_current():
                            latencies.append(one_cycle(client, cycle, list(pids)))
                time.sleep(0.5)  # what was let go has gone
                samples.append(
                    Sample(
                        (time.monotonic() - start) / 60,
                        sum(each.memory_info().rss for each in workers) / 2**20,
                        sum(each.num_fds() for each in workers),
                        sum(each.num_threads() for each in workers),
                        statistics.median(latencies) * 1e3,
                    )
                )
                if len(samples) % 5 == 1:
                    print(
                        "{:>8.1f} {:>9.1f} {:>6} {:>8} {:>11.2f}".format(*samples[-1]), flush=True
                    )
            assert watcher.run(lambda dask_worker: __import__("os").getpid()) == pids
        launcher.stop()
        launcher.check()
    print(f"{cycle} cycles of some 650 tasks, {cycle // CYCLES_OF_A_CLIENT} clients")
    return samples


def is_flat(samples: list[Sample]) -> bool:
    """Say how much each figure has grown; whether all have by no more than they may."""
    fifth = len(samples) // 5
    flat = True
    for name, (share, amount) in MAY_GROW.items():
        values = [getattr(sample, name) for sample in samples]
        before = statistics.median(values[fifth : 2 * fifth])
        after = statistics.median(values[-fifth:])
        most = max(before * (1 + share), before + amount)
        verdict = "flat" if after <= most else "GROWS"
        print(f"{name:>12}: {before:9.2f} -> {after:9.2f} (up to {most:.2f} allowed)  {verdict}")
        flat &= after <= most
    return flat


def main(args: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="soak mixed", description=__doc__.split("\n", 1)[0])
    parser.add_argument("minutes", nargs="?", type=float, default=30.0)
    parser.add_argument("--worker", choices=["fastworker", "stock"], default="fastworker")
    parser.add_argument("--plot", type=Path, default=Path("soak.svg"), help="default: soak.svg")
    options = parser.parse_args(args)
    with tempfile.TemporaryDirectory() as directory:
        samples = soak(options.minutes, options.worker, Path(directory))
    if len(samples) < 10:
        print(f"{len(samples)} samples say nothing: let it run for longer")
        return 1
    columns = {name: [getattr(each, name) for each in samples] for name in Sample._fields}
    minutes = columns.pop("minutes")
    write_plot(options.plot, minutes, columns, "minutes")
    print(f"plot: {options.plot.resolve()}")
    return 0 if is_flat(samples) else 1
