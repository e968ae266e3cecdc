"""Checks of a running cluster, from a client of it."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import distributed
from distributed.comm import connect
from distributed.security import Security

from fastworker.doctor.findings import Finding, cannot_be_looked_at
from fastworker.doctor.here import look
from fastworker.scheduler import LowLatency

#: Packages that must be the same everywhere, to their minor release: messages and pickles depend
#: on them.
MUST_AGREE = ("python", "distributed", "dask")

#: What distributed's own workers are called.
THEIRS = "distributed's own"

#: Seconds that a clock may be off before times in dashboards and logs mislead.
CLOCK_OFF = 0.5

NO_SCHEDULER = (
    "check that it runs, that no firewall is between, and that both ends have TLS or neither"
)


@dataclass(frozen=True)
class Report:
    """What there is to say about a cluster, and about each worker that has fastworker."""

    cluster: list[Finding]
    workers: dict[str, list[Finding]]


class Asked:
    """A cluster that is asked.

    Parameters
    ----------
    client
        An asynchronous client of it.
    known
        ``{address: identity}`` of its workers.
    timeout
        Seconds for each answer.
    """

    def __init__(
        self, client: distributed.Client, known: dict[str, dict[str, Any]], timeout: float
    ) -> None:
        self.client = client
        self.known = known
        self.timeout = timeout

    async def answer(self, question: Awaitable[Any]) -> Any:
        """Raises TimeoutError, which says how long it waited."""
        try:
            return await asyncio.wait_for(question, self.timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer within {self.timeout:g} s") from None

    async def of_worker(self, address: str, function: Callable[..., Any]) -> Any:
        """What ``function`` returns there, or the error that the question ended with."""
        try:
            answers = await self.answer(self.client.run(function, workers=[address]))
        except Exception as error:
            return error
        return answers[address]


def examine(address: str, security: Security, timeout: float) -> Report:
    """What there is to say about the cluster of the scheduler at an address.

    ``timeout`` is in seconds, for the connection and for each answer.
    """
    return asyncio.run(_examine(address, security, timeout))


async def _examine(address: str, security: Security, timeout: float) -> Report:
    try:
        identity = await asyncio.wait_for(_identity_of(address, security, timeout), 2 * timeout)
    except Exception as error:
        return Report([_no_scheduler(address, error, timeout)], {})
    kind = identity.get("type")
    if kind != "Scheduler":
        its = f"; its scheduler is {identity['scheduler']}" if "scheduler" in identity else ""
        text = f"a {kind} answers at {address}{its}"
        return Report([Finding("scheduler", text, "problem", "name the scheduler's address")], {})
    known = identity["workers"]
    try:
        client = await distributed.Client(
            address, asynchronous=True, security=security, timeout=timeout, set_as_default=False
        )
    except Exception as error:
        return Report([_no_scheduler(address, error, timeout)], {})
    async with client:
        asked = Asked(client, known, timeout)
        checks = [versions, workers, lane, clocks]
        findings = await asyncio.gather(*(_of(check, asked) for check in checks))
        return Report([f for some in findings for f in some], await _of_workers(asked))


async def _identity_of(address: str, security: Security, timeout: float) -> dict[str, Any]:
    comm = await connect(address, timeout=timeout, **security.get_connection_args("client"))
    try:
        await comm.write({"op": "identity", "reply": True})
        answer: dict[str, Any] = await comm.read()
        return answer
    finally:
        comm.abort()


def _no_scheduler(address: str, error: BaseException, timeout: float) -> Finding:
    while error.__cause__ is not None:
        error = error.__cause__
    why = str(error) or f"no answer within {timeout:g} s"
    if isinstance(error, ConnectionError) and error.errno:
        why = os.strerror(error.errno)  # asyncio's text only says that the call failed
    return Finding("scheduler", f"none answers at {address}: {why}", "problem", NO_SCHEDULER)


async def _of(check: Callable[[Asked], Awaitable[list[Finding]]], asked: Asked) -> list[Finding]:
    """What a check finds. One that raises is a finding too: the others are made."""
    try:
        return await check(asked)
    except Exception as error:
        return [cannot_be_looked_at(check.__name__, error)]


async def versions(asked: Asked) -> list[Finding]:
    """Packages of scheduler, workers and this client."""
    return list(_compared(await asked.answer(asked.client.get_versions())))


def _compared(answer: dict[str, Any]) -> Iterator[Finding]:
    nodes = {"scheduler": answer["scheduler"], "client": answer["client"], **answer["workers"]}
    by_package: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for node, information in nodes.items():
        if information is None:
            continue
        for package, version in information.get("packages", {}).items():
            by_package[package][str(version)].append(node)
    differing = {package: where for package, where in by_package.items() if len(where) > 1}
    for package, where in differing.items():
        text = "; ".join(f"{version} at {_listed(at)}" for version, at in where.items())
        minors = {tuple(version.split(".")[:2]) for version in where}  # of Python: 3.11.7.final.0
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


async def workers(asked: Asked) -> list[Finding]:
    """Of which kind the workers are, and whether they take tasks."""
    return list(_kinds(asked.known))


def _kinds(known: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    if not known:
        yield Finding("workers", "none", "note", "start some: 'fastworker ADDRESS' on each machine")
        return
    kinds: dict[str, list[str]] = defaultdict(list)
    for address, information in known.items():
        version = information.get("fastworker")
        kind = (
            f"fastworker {version}, comm {information.get('fastworker_comm')}"
            if version
            else THEIRS
        )
        kinds[kind].append(address)
    ours_first = sorted(kinds.items(), key=lambda kind: kind[0] == THEIRS)
    text = "; ".join(f"{len(addresses)} of {kind}" for kind, addresses in ours_first)
    if THEIRS in kinds:
        yield Finding(
            "workers",
            text,
            "note",
            "they are to be started with 'fastworker', or 'dask worker --worker-class "
            f"fastworker.Worker', if all are to have it: {_listed(kinds[THEIRS])}",
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


async def lane(asked: Asked) -> list[Finding]:
    """Whether the scheduler has the low-latency lane."""
    return [_lane(await asked.answer(asked.client.run_on_scheduler(_plugins)))]


def _plugins(dask_scheduler: Any) -> list[str]:
    return list(dask_scheduler.plugins)


def _lane(plugins: list[str]) -> Finding:
    if LowLatency.name in plugins:
        return Finding("low-latency lane", "in the scheduler")
    return Finding(
        "low-latency lane",
        "not in the scheduler",
        "note",
        "short tasks wait without it: start 'fastworker scheduler' in the place of 'dask "
        "scheduler'; the README says how to load it into one that runs",
    )


async def clocks(asked: Asked) -> list[Finding]:
    """How far the clocks of scheduler and workers are from this machine's."""
    off = {}
    before = time.time()
    clock = await asked.answer(asked.client.run_on_scheduler(time.time))
    off["scheduler"] = offset(before, clock, time.time())

    async def ask(address: str) -> None:
        before = time.time()  # of each question: a worker that hangs takes long
        clock = await asked.of_worker(address, time.time)
        if isinstance(clock, float):
            off[address] = offset(before, clock, time.time())

    await asyncio.gather(*map(ask, asked.known))
    wrong = {node: seconds for node, seconds in off.items() if seconds > CLOCK_OFF}
    if not wrong:
        return [Finding("clocks", f"agree to {max([0.1, *off.values()]):.1f} s")]
    text = ", ".join(f"{node} by {seconds:.1f} s" for node, seconds in wrong.items())
    return [
        Finding(
            "clocks",
            f"differ from this machine's: {text}",
            "note",
            "run NTP or chrony everywhere: dashboards and logs have wrong times",
        )
    ]


def offset(before: float, clock: float, after: float) -> float:
    """Seconds that a clock is off at least, if it was read between two readings of ours."""
    return max(before - clock, clock - after, 0.0)


async def _of_workers(asked: Asked) -> dict[str, list[Finding]]:
    """The findings of each worker that has fastworker, made there."""
    able = [at for at, identity in asked.known.items() if identity.get("fastworker")]
    answers = await asyncio.gather(*(asked.of_worker(address, look) for address in able))
    return {
        address: answer if isinstance(answer, list) else [cannot_be_looked_at("worker", answer)]
        for address, answer in zip(able, answers, strict=True)
    }


def _listed(names: list[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
