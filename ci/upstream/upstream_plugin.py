"""A pytest plugin that runs distributed's own tests with fastworker's classes in place.

Load it with ``-p upstream_plugin`` from the root of a distributed checkout, with this directory
on ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any, TextIO

import in_place
import pytest

#: Children of a test run read from here which classes they put in place.
ENVIRONMENT = "FASTWORKER_IN_PLACE"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastworker")
    group.addoption(
        "--fastworker",
        default="worker,state,task,comm",
        help="what to put in place: worker, state, task, comm, or none (default: %(default)s)",
    )
    group.addoption(
        "--fastworker-record",
        metavar="FILE",
        help="append a JSON line to FILE for each test that starts and each that ends",
    )
    group.addoption(
        "--fastworker-skip",
        metavar="FILE",
        help="leave out the tests whose ids are in FILE, one a line",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    # distributed's conftest.py imports utils_test, and it is loaded right after this hook.
    options = early_config.known_args_namespace
    try:
        names = in_place.parse(options.fastworker)
        places = in_place.place(names)
    except (ValueError, in_place.CannotPlace) as exc:
        raise pytest.UsageError(f"--fastworker={options.fastworker}: {exc}") from exc
    if names:
        _patch_children(names)
    early_config.stash[_places] = places


def pytest_configure(config: pytest.Config) -> None:
    # Upstream marks tests for pytest-rerunfailures; the reader of the record retries anyway.
    config.addinivalue_line("markers", "flaky(...): rerun by pytest-rerunfailures upstream")
    path = config.getoption("--fastworker-record")
    if path:
        config.pluginmanager.register(Record(path), "fastworker_record")


def pytest_report_header(config: pytest.Config) -> list[str]:
    import distributed

    return [
        f"distributed: {os.path.dirname(distributed.__file__)}",
        f"fastworker in place of: {', '.join(config.stash[_places]) or 'nothing (stock)'}",
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    stale = in_place.left_behind()
    if stale:
        raise pytest.UsageError(f"still distributed's own class: {', '.join(stale)}")
    path = config.getoption("--fastworker-skip")
    if path:
        with open(path) as file:
            skip = set(file.read().splitlines())
        dropped = [item for item in items if item.nodeid in skip]
        items[:] = [item for item in items if item.nodeid not in skip]
        config.hook.pytest_deselected(items=dropped)


_places = pytest.StashKey[list[str]]()


class Record:
    """Writes what happened to a file as it happens, so that a crash loses nothing.

    A line ``{"start": id}`` when a test starts; ``{"id", "outcome", "seconds", "text"}`` when it
    ended, where outcome is passed, failed, error (in set-up or tear-down), skipped, xfailed or
    xpassed; ``{"end": exit status}`` when the session ended.
    """

    def __init__(self, path: str) -> None:
        self._file: TextIO = open(path, "a")  # noqa: SIM115  (closed when the session ends)
        self._reports: list[pytest.TestReport] = []

    def _write(self, **line: Any) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._reports = []
        self._write(start=nodeid, time=time.time())

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        outcomes = [_outcome(report) for report in self._reports]
        outcome = next((o for o in _WORST_FIRST if o in outcomes), "error")
        texts = [_text(r) for r, o in zip(self._reports, outcomes, strict=True) if o == outcome]
        self._write(
            id=nodeid,
            outcome=outcome,
            seconds=round(sum(report.duration for report in self._reports), 3),
            text="\n".join(filter(None, texts))[-20_000:],
        )

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(uncollected=report.nodeid, text=_text(report))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._write(end=int(exitstatus))
        self._file.close()


_WORST_FIRST = ("failed", "error", "xpassed", "xfailed", "skipped", "passed")


def _outcome(report: pytest.TestReport) -> str:
    if report.failed:
        return "failed" if report.when == "call" else "error"
    if hasattr(report, "wasxfail"):
        return "xfailed" if report.skipped else "xpassed"
    return report.outcome


def _text(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The traceback or the reason for a skip; nothing for a test that passed."""
    if isinstance(report.longrepr, tuple):  # a skip: file, line, reason
        return report.longrepr[2]
    return report.longreprtext


def _patch_children(names: list[str]) -> None:
    """Have ``utils_test.cluster()`` put the classes in place in its worker processes, too."""
    import distributed.utils_test

    os.environ[ENVIRONMENT] = ",".join(names)
    distributed.utils_test.run_worker = run_worker
    distributed.utils_test.run_nanny = run_nanny


def run_worker(*args: Any, **kwargs: Any) -> None:
    """``utils_test.run_worker`` in a child process, after the exchange."""
    in_place.place(in_place.parse(os.environ[ENVIRONMENT]))
    from distributed.utils_test import run_worker

    run_worker(*args, **kwargs)


def run_nanny(*args: Any, **kwargs: Any) -> None:
    """``utils_test.run_nanny`` in a child process, after the exchange."""
    in_place.place(in_place.parse(os.environ[ENVIRONMENT]))
    from distributed.utils_test import run_nanny

    run_nanny(*args, **kwargs)
