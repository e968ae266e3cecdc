"""Runs the job of `observed_job` on a cluster and writes down all that can be seen of it."""

from __future__ import annotations

import gzip
import re
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from distributed import Client, get_task_stream, performance_report, span, wait

from fastworker.demo.launcher import Kind, wait_for
from support.cluster import observed_job
from support.cluster.launcher import Launcher

#: Their names, and how many threads they have.
WORKERS = {"left": 2, "right": 4}
N = 6

#: How long tasks spin, and the profiler's interval: some forty looks at each of them.
SPIN = 0.2
CONFIG = {
    "DASK_DISTRIBUTED__WORKER__PROFILE__INTERVAL": "5ms",
    "DASK_DISTRIBUTED__WORKER__PROFILE__CYCLE": "500ms",
    # Tasks and data stay where they are sent
    "DASK_DISTRIBUTED__SCHEDULER__WORK_STEALING": "False",
    "DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__START": "False",
}


@dataclass
class Observations:
    """Of one cluster. Workers go by their names, keys are the same on every cluster."""

    elapsed: float  # seconds that the job took, as the client saw it
    report: str  # HTML
    stream: list[dict[str, Any]]
    profile: dict[str, Any]
    profile_of_key: dict[str, Any]
    server_profile: dict[str, Any]
    call_stacks: dict[str, list[str]]  # by key
    span_metrics: dict[tuple[Any, ...], float]
    span_states: dict[str, int]
    span_nbytes: int
    scheduler_metrics: dict[tuple[Any, ...], float]
    workers: dict[str, dict[str, Any]]  # what look_at gives, by the name of the worker
    pages: dict[str, str]  # /metrics, by the name of the worker
    logs: dict[str, list[str]]
    dump: dict[str, Any]  # of the cluster state
    stories: dict[str, list[tuple[Any, ...]]]  # by key, from client.story


def observe(launcher: Launcher, kind: Kind, directory: Path) -> Observations:
    """Start a cluster of two workers of that kind, run the job, and look."""
    scheduler = launcher.scheduler(env=CONFIG)
    for name, nthreads in WORKERS.items():
        options = [f"--nthreads={nthreads}", "--no-nanny", f"--name={name}"]
        launcher.worker(scheduler.address, *options, kind=kind, env=CONFIG)
    with launcher.client(scheduler, len(WORKERS)) as client:
        return _observe(client, directory)


def _observe(client: Client, directory: Path) -> Observations:
    info = client.scheduler_info(n_workers=-1)["workers"]
    names = {address: worker["name"] for address, worker in info.items()}
    report = directory / "report.html"

    with performance_report(filename=str(report)), get_task_stream(client) as stream:
        start = time.monotonic()
        with span("job"):
            futures = _submit(client)
        wait(futures, timeout=60)
        elapsed = time.monotonic() - start
        finished = [future for future in futures if future.status == "finished"]
        assert len(finished) == len(futures) - 2
        client.gather(finished)
    client.run(keep_the_loop_busy, 0.5)  # or its profile may happen to find it at rest each time
    _beat(client)

    files = [str(directory / "enough"), str(directory / "enough-outside")]
    held = [
        client.submit(observed_job.hold, files[0], key="hold-0", workers="left"),
        client.submit(observed_job.hold_outside, files[1], key="outside-0", workers="left"),
    ]
    stacks: dict[str, list[str]] = {}

    def both_run():
        stacks.clear()
        for by_key in client.call_stack().values():
            stacks.update(by_key)
        return len(stacks) == 2 and all("wait_for_file" in "".join(s) for s in stacks.values())

    wait_for(both_run, 20, "both tasks show their stacks")
    for file in files:
        Path(file).touch()
    client.gather(held)
    _beat(client)

    looks = client.run(look_at, [future.key for future in futures])
    return Observations(
        elapsed=elapsed,
        report=report.read_text(),
        stream=[{**record, "worker": names[record["worker"]]} for record in stream.data],
        profile=client.profile(),
        profile_of_key=client.profile(key="spin"),
        server_profile=client.profile(server=True),
        call_stacks=stacks,
        **client.run_on_scheduler(look_at_scheduler),
        workers={names[address]: look for address, look in looks.items()},
        pages={names[address]: _metrics_page(address, w) for address, w in info.items()},
        logs={
            names[address]: [message for _, message in lines]
            for address, lines in client.get_worker_logs().items()
        },
        dump=_dump(client, directory, names),
        stories={
            key: [
                (names.get(entry[0], entry[0]), *_timeless(entry[1:]))
                for entry in client.story(key)
            ]
            for key in ("spin-0", "double-0", "fail-0", "async-0")
        },
    )


def _submit(client: Client) -> list[Any]:
    spin = client.map(
        observed_job.spin, [SPIN] * N, key=[f"spin-{i}" for i in range(N)], workers="left"
    )
    there = client.map(
        observed_job.double, spin, key=[f"double-{i}" for i in range(N)], workers="right"
    )
    back = client.submit(observed_job.double, there[0], key="back-0", workers="left")
    here = client.map(
        observed_job.double, spin, key=[f"here-{i}" for i in range(N)], workers="left"
    )
    others = [
        client.submit(observed_job.fail, 1, key="fail-0", workers="left", pure=False),
        client.submit(observed_job.wait_a_little, 1, key="async-0", workers="right"),
        client.submit(observed_job.report, 7, key="report-0", workers="right"),
        client.submit(observed_job.report_and_fail, 7, key="unwell-0", workers="right"),
    ]
    return [*spin, *there, *here, back, *others]


def _beat(client: Client) -> None:
    """Have the scheduler know what the workers know."""

    async def heartbeat(dask_worker):
        await dask_worker.heartbeat()

    client.run(heartbeat)


def keep_the_loop_busy(seconds):
    """Runs on the worker, in the thread of its event loop."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


async def look_at(keys, dask_worker):
    """What a worker knows of itself and of those tasks. Runs on the worker."""
    total = dict(dask_worker.digests_total)
    largest = dict(dask_worker.digests_max)
    state = dask_worker.state
    return {
        "metrics": {k: type(v).__name__ for k, v in (await dask_worker.get_metrics()).items()},
        "identity": set(dask_worker.identity()),
        "digests_total": {_without_span(k): v for k, v in total.items()},
        "digests_max": {_without_span(k): v for k, v in largest.items()},
        "task_counts": dict(state.task_counter.current_count(by_prefix=False)),
        "task_counts_by_prefix": dict(state.task_counter.current_count(by_prefix=True)),
        # Other states may be over before they are noticed
        "states_with_times": {
            (prefix, name)
            for prefix, name in state.task_counter.cumulative_elapsed(by_prefix=True)
            if name in ("executing", "memory", "error")
        },
        "executed_count": state.executed_count,
        "threads": {key: type(state.threads[key]).__name__ for key in keys if key in state.threads},
        "startstops": {
            key: [(s["action"], s["start"], s["stop"]) for s in state.tasks[key].startstops]
            for key in keys
            if key in state.tasks
        },
        "stories": {key: [_timeless(entry) for entry in state.story(key)] for key in keys},
        "stimuli": {
            key: [
                (type(event).__name__, sorted(event._to_dict()))
                for event in state.stimulus_story(key)
            ]
            for key in keys
        },
        "active": (dict(dask_worker.active_threads), set(dask_worker.active_keys)),
        "call_stack": dask_worker.get_call_stack(),
        "counters": set(dask_worker.periodic_callbacks),
    }


def _without_span(name):
    if isinstance(name, tuple) and name[0] == "execute":
        return (name[0], *name[2:])
    return name


def _timeless(entry):
    """An entry of a story without times and addresses; what a stimulus was about, not its id."""

    def plain(part):
        if isinstance(part, str):
            return re.sub(r"-\d+\.\d+$|^tcp://.*", "", part)
        if isinstance(part, dict):
            return sorted(part.items())
        return sorted(part) if isinstance(part, set) else part

    return tuple(plain(part) for part in entry if not isinstance(part, float))


async def look_at_scheduler(dask_scheduler):
    """What the scheduler knows. Runs on the scheduler."""
    (job,) = dask_scheduler.extensions["spans"].spans_search_by_name["job",]
    return {
        "span_metrics": dict(job.cumulative_worker_metrics),
        "span_states": dict(job.states),
        "span_nbytes": job.nbytes_total,
        "scheduler_metrics": dict(dask_scheduler.cumulative_worker_metrics),
    }


def _metrics_page(address: str, worker: dict[str, Any]) -> str:
    url = f"http://{worker['host']}:{worker['services']['dashboard']}/metrics"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as page:
        return page.read().decode()


def _dump(client: Client, directory: Path, names: dict[str, str]) -> dict[str, Any]:
    client.dump_cluster_state(str(directory / "dump"), format="msgpack")
    with gzip.open(directory / "dump.msgpack.gz") as file:
        dump = msgpack.unpack(file, strict_map_key=False)
    dump["workers"] = {names[address]: worker for address, worker in dump["workers"].items()}
    return dump


def functions(profile: dict[str, Any]) -> Counter[str]:
    """How often each function was seen to call another, anywhere in a profile."""
    seen = Counter({profile["description"]["name"]: profile["count"]})
    for child in profile["children"].values():
        seen.update(functions(child))
    return seen


def user_frames(stack: list[str]) -> list[str]:
    """The functions of the job in a call stack, the outermost first."""
    return [
        frame.split("\n")[0].rpartition(" in ")[2] for frame in stack if "observed_job" in frame
    ]


def samples(page: str) -> dict[str, float]:
    """What stands on a page for Prometheus, by name and labels."""
    lines = [line for line in page.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
