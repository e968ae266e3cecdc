"""Fixtures for whole clusters: real scheduler and worker processes, logs shown on failure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from distributed import Client

from fastworker.demo.launcher import START_TIMEOUT
from support.cluster.launcher import Launcher

_open: list[Launcher] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Add the logs of every live cluster to the report of a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for launcher in _open:
            report.sections.append(("processes of the cluster", launcher.logs()))


@contextmanager
def _launcher(factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with Launcher(factory.mktemp("cluster")) as launcher:
        _open.append(launcher)
        try:
            yield launcher
            launcher.stop()
            launcher.check()
        finally:
            _open.remove(launcher)


@pytest.fixture
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A launcher for one test that breaks its cluster."""
    with _launcher(tmp_path_factory) as launcher:
        yield launcher


@pytest.fixture(scope="module")
def new_launcher(tmp_path_factory: pytest.TempPathFactory):
    """``with new_launcher() as launcher``: for fixtures that tests of a module share."""
    return lambda: _launcher(tmp_path_factory)


@pytest.fixture
def connect(launcher: Launcher) -> Iterator:
    """``connect(address, n_workers=0)``: a Client that is closed after the test."""
    clients: list[Client] = []

    def open_client(address: str, n_workers: int = 0, **kwargs) -> Client:
        client = Client(address, timeout=START_TIMEOUT, **kwargs)
        clients.append(client)
        launcher.await_workers(client, n_workers)
        return client

    yield open_client
    for client in clients:
        client.close(timeout=5)
