"""The demo's clusters, and the CPU time that their workers spend."""

from __future__ import annotations

import os
import site
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from distributed import Client

import fastworker
from fastworker.demo.launcher import HOST, START_TIMEOUT, Kind, Launcher, Process, ProcessEnded
from fastworker.scheduler import LowLatency, low_latency_client


class DemoError(Exception):
    """Something that ends the demo; its text is for the user."""


class Cluster:
    """distributed's scheduler and worker processes of one kind.

    ``lane`` says whether the scheduler and the client have the low-latency lane. Everything the
    processes write, their logs included, goes below ``directory``.
    """

    def __init__(self, kind: Kind, directory: Path, lane: bool = False) -> None:
        self.name = f"{kind} + lane" if lane else str(kind)
        self.kind = kind
        self.lane = lane
        self.workers: list[Process] = []
        self.address = ""
        self._client: Client | None = None
        directory = directory / self.name.replace(" + ", "-")
        directory.mkdir()
        self._launcher = Launcher(directory, _environment())
        self._launcher.stop_timeout = 5.0  # the user waits, and nothing of the demo needs saving

    @property
    def client(self) -> Client:
        if self._client is None:
            raise RuntimeError(f"the {self.name} cluster was not started")
        return self._client

    def start(
        self, n_workers: int, n_threads: int, port: int = 0, dashboard_port: int | None = 0
    ) -> None:
        """Start everything and wait for it; raises DemoError when that fails.

        Port 0 is any free one. ``dashboard_port`` None leaves the dashboard out.
        """
        dashboard = (
            ["--no-dashboard"]
            if dashboard_port is None
            else ["--dashboard-address", f"{HOST}:{dashboard_port}"]
        )
        _check_free(port)
        with self._told():
            scheduler = self._launcher.scheduler("--port", str(port), *dashboard)
            self.address = scheduler.address
            for number in range(n_workers):
                options = ["--nthreads", str(n_threads), "--no-nanny"]
                options += ["--name", f"{self.kind}-{number}"]
                self.workers.append(self._launcher.worker(self.address, *options, kind=self.kind))
            self._client = Client(self.address, timeout=START_TIMEOUT, set_as_default=False)
            if self.lane:
                self._client.register_plugin(LowLatency())
                low_latency_client(self._client)
            self._launcher.await_workers(self._client, n_workers)

    def dashboard(self) -> str:
        """The address of the dashboard, wherever it found a free port."""
        link: str = self.client.dashboard_link
        return link

    def cpu_seconds(self) -> float:
        """CPU time of all workers and their children so far, user and system, in seconds."""
        total = 0.0
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(worker.pid)
                times = process.cpu_times()
                # The parent's times include children that have ended, not those that live.
                total += times.user + times.system
                total += times.children_user + times.children_system
                for child in process.children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child_times = child.cpu_times()
                        total += child_times.user + child_times.system
        return total

    def check(self) -> None:
        """Raise DemoError when a process has ended by itself."""
        with self._told():
            self._launcher.check_running()

    def stop(self) -> None:
        """End all processes; those that do not leave in time are killed."""
        if self._client is not None:
            with suppress(Exception):  # the scheduler may be gone already
                self._client.close(timeout=2)
        self._launcher.stop()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an error of a process or of the lane into a DemoError that names the cluster."""
        try:
            yield
        except (ProcessEnded, TimeoutError, NotImplementedError, ValueError) as error:
            raise DemoError(f"{self.name}: {error}") from error


def _check_free(port: int) -> None:
    """Raise DemoError if another process listens on this port."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError as error:
        raise DemoError(f"--port {port}: {os.strerror(error.errno or 0)}") from error


def _environment() -> dict[str, str]:
    """Variables for the processes: this package importable, one thread per BLAS call."""
    environment: dict[str, str] = {}
    package = str(Path(fastworker.__file__).resolve().parents[1])
    if package not in {*site.getsitepackages(), site.getusersitepackages()}:
        path = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[variable] = os.environ.get(variable, "1")  # as a Nanny does for its worker
    return environment
