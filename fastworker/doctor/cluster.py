"""Checks of a running cluster, from a client of it."""

from __future__ import annotations

import contextlib
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

import distributed

from fastworker.doctor.findings import Finding, found
from fastworker.doctor.here import look
from fastworker.scheduler import LowLatency

#: Packages that must be the same everywhere, to their minor release: messages and pickles depend
#: on them.
MUST_AGREE = ("python", "distributed", "dask")

_STOCK = "distributed's own"

#: Seconds that a clock may be off before times in dashboards and logs mislead.
CLOCK_OFF = 0.5


def examine(address: str, timeout: float) -> tuple[list[Finding], dict[str, list[Finding]]]:
    """What there is to say about a cluster.

    Parameters
    ----------
    address
        Of the scheduler.
    timeout
        Seconds to wait for it.

    Returns
    -------
    The findings about the cluster, and ``{address: findings}`` of the workers that have fastworker.
    """
    try:
        client = distributed.Client(address, timeout=timeout, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        return [_no_scheduler(address, error)], {}
    with client:
        checks = [versions, workers, lane, clocks]
        findings = found([partial(check, client) for check in checks])
        return findings, _of_workers(client)


def _no_scheduler(address: str, error: BaseException) -> Finding:
    while error.__cause__ is not None:
        error = error.__cause__
    why = str(error)
    if isinstance(error, ConnectionError) and error.errno:
        why = os.strerror(error.errno)  # asyncio's text only says that the call failed
    return Finding(
        "scheduler",
        f"none answers at {address}: {why}",
        "problem",
        "check that it runs, that no firewall is between, and that both ends have TLS or neither",
    )


def versions(client: distributed.Client) -> Iterator[Finding]:
    """Packages of scheduler, workers and this client."""
    answer = client.get_versions()
    nodes = {"scheduler": answer["scheduler"], "client": answer["client"], **answer["workers"]}
    by_package: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for node, information in nodes.items():
        if information is None:
            continue
        host = {name: str(value) for name, value in information.get("packages", {}).items()}
        for package, version in host.items():
            by_package[package][version].append(node)
    differing = {package: where for package, where in by_package.items() if len(where) > 1}
    for package, where in differing.items():
        text = "; ".join(f"{version} at {_listed(nodes)}" for version, nodes in where.items())
        minors = {version.rsplit(".", 1)[0] for version in where}
        serious = package in MUST_AGREE and len(minors) > 1
        yield Finding(
            "versions",
            f"{package} differs: {text}",
            "problem" if serious else "note",
            "install the same release everywhere",
        )
    if not differing:
        here = answer["client"]["packages"]["distributed"]
        yield Finding("versions", f"{len(by_package)} packages agree; distributed {here}")


def workers(client: distributed.Client) -> Iterator[Finding]:
    """Of which kind the workers are, and whether they take tasks."""
    known = client.scheduler_info(n_workers=-1)["workers"]
    if not known:
        yield Finding("workers", "none", "note", "start some: 'fastworker ADDRESS' on each machine")
        return
    kinds: dict[str, list[str]] = defaultdict(list)
    for address, information in known.items():
        version = information.get("fastworker")
        kind = (
            f"fastworker {version}, comm {information.get('fastworker_comm')}"
            if version
            else _STOCK
        )
        kinds[kind].append(address)
    text = "; ".join(f"{len(addresses)} of {kind}" for kind, addresses in kinds.items())
    if _STOCK in kinds:
        yield Finding(
            "workers",
            text,
            "note",
            "to have fastworker everywhere, start the rest with 'fastworker', or 'dask worker "
            f"--worker-class fastworker.Worker': {_listed(kinds[_STOCK])}",
        )
    else:
        yield Finding("workers", text)
    paused = [a for a, information in known.items() if information.get("status") == "paused"]
    if paused:
        yield Finding(
            "paused",
            f"{len(paused)}: {_listed(paused)}",
            "note",
            "their memory is full: raise --memory-limit, start fewer threads, or look for a leak",
        )


def lane(client: distributed.Client) -> Iterator[Finding]:
    """Whether the scheduler has the low-latency lane."""
    name = LowLatency.name
    plugins = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.plugins))
    if name in plugins:
        yield Finding("low-latency lane", "in the scheduler")
    else:
        yield Finding(
            "low-latency lane",
            "not in the scheduler",
            "note",
            "short tasks wait without it: start 'fastworker scheduler', or load it with "
            "client.register_plugin(fastworker.scheduler.LowLatency())",
        )


def clocks(client: distributed.Client) -> Iterator[Finding]:
    """How far the clocks of scheduler and workers are from this machine's."""
    before = time.time()
    off = {"scheduler": offset(before, client.run_on_scheduler(time.time), time.time())}
    before = time.time()
    answers = client.run(time.time, on_error="ignore")
    after = time.time()
    off.update({worker: offset(before, clock, after) for worker, clock in answers.items()})
    wrong = {node: seconds for node, seconds in off.items() if seconds > CLOCK_OFF}
    if wrong:
        text = ", ".join(f"{node} by {seconds:.1f} s" for node, seconds in wrong.items())
        yield Finding(
            "clocks",
            f"differ from this machine's: {text}",
            "note",
            "run NTP or chrony everywhere: dashboards and logs have wrong times",
        )
    else:
        yield Finding("clocks", f"agree to {max([0.1, *off.values()]):.1f} s")


def offset(before: float, clock: float, after: float) -> float:
    """Seconds that a clock is off at least, if it was read between two readings of ours."""
    return max(before - clock, clock - after, 0.0)


def _of_workers(client: distributed.Client) -> dict[str, list[Finding]]:
    """The findings of each worker that has fastworker, made there."""
    known = client.scheduler_info(n_workers=-1)["workers"]
    able = [address for address, information in known.items() if information.get("fastworker")]
    answers: dict[str, Any] = {}
    with contextlib.suppress(OSError):  # the workers have left
        answers = client.run(look, workers=able, on_error="return") if able else {}
    return {
        address: answer
        if isinstance(answer, list)
        else [Finding("worker", f"cannot be asked: {answer!r}", "note", "look into its log")]
        for address, answer in answers.items()
    }


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
