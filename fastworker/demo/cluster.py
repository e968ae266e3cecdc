"""A scheduler and worker processes on this machine, and the CPU time that the workers spend."""

from __future__ import annotations

import json
import os
import signal
import site
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from distributed import Client

import fastworker

START_TIMEOUT = 60.0  # seconds until a process must serve
STOP_TIMEOUT = 5.0  # seconds that all processes together get to leave by themselves
LOG_LINES = 20  # of a process that failed, shown to the user

HOST = "127.0.0.1"


class DemoError(Exception):
    """Something that ends the demo; its text is for the user."""


class Cluster:
    """A stock scheduler and ``n_workers`` processes of one worker command.

    ``worker`` is the command without the scheduler's address, which follows it. Everything the
    processes write, their logs included, goes below ``directory``.
    """

    def __init__(self, name: str, worker: Sequence[str], directory: Path) -> None:
        self.name = name
        self.worker = list(worker)
        self.directory = directory
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []
        self.address = ""
        self._client: Client | None = None
        directory.mkdir()

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
        file = self.directory / "scheduler.json"
        dashboard = (
            ["--no-dashboard", "--dashboard-address", f"{HOST}:0"]
            if dashboard_port is None
            else ["--dashboard-address", f"{HOST}:{dashboard_port}"]
        )
        self.scheduler = self._spawn(
            "scheduler",
            [sys.executable, "-m", "dask", "scheduler"],
            ["--host", HOST, "--port", str(port), "--scheduler-file", str(file), *dashboard],
        )
        self._wait_until(lambda: self._read_address(file), "the scheduler did not start")
        for number in range(n_workers):
            options = ["--nthreads", str(n_threads), "--no-nanny", "--host", HOST]
            options += ["--name", f"{self.name}-{number}"]
            options += ["--local-directory", str(self.directory)]
            self.workers.append(
                self._spawn(f"worker-{number}", self.worker, [self.address, *options])
            )
        client = self._client = Client(self.address, timeout=START_TIMEOUT, set_as_default=False)
        self._wait_until(
            lambda: len(client.nthreads()) == n_workers, "not every worker joined the scheduler"
        )

    def dashboard(self) -> str:
        """The address of the dashboard, wherever it found a free port."""
        link: str = self.client.dashboard_link
        return link

    def cpu_seconds(self) -> float:
        """What all workers and their children have spent until now, user and system time."""
        total = 0.0
        for worker in self.workers:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(worker.pid)
                times = process.cpu_times()
                # Children that ended are in the parent's account, the living in their own.
                total += times.user + times.system
                total += times.children_user + times.children_system
                for child in process.children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        child_times = child.cpu_times()
                        total += child_times.user + child_times.system
        return total

    def check(self) -> None:
        """Raise DemoError when a process has ended by itself."""
        for name, process in self._processes().items():
            if process.poll() is not None:
                lines = (self.directory / f"{name}.log").read_text(errors="replace").splitlines()
                raise DemoError(
                    f"{self.name}: the process of {name} ended with status {process.returncode}; "
                    "its last words:\n" + "\n".join(lines[-LOG_LINES:])
                )

    def stop(self) -> None:
        """End all processes; those that do not leave in time are killed."""
        if self._client is not None:
            with suppress(Exception):  # the scheduler may be gone already
                self._client.close(timeout=2)
        processes = list(self._processes().values())
        for process in reversed(processes):
            with suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        for process in reversed(processes):
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _processes(self) -> dict[str, subprocess.Popen[bytes]]:
        processes = {} if self.scheduler is None else {"scheduler": self.scheduler}
        for number, worker in enumerate(self.workers):
            processes[f"worker-{number}"] = worker
        return processes

    def _spawn(
        self, name: str, command: Sequence[str], options: Sequence[str]
    ) -> subprocess.Popen[bytes]:
        with (self.directory / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [*command, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # "python -m" looks into the working directory first: let it find nothing.
                cwd=self.directory,
                env=_environment(),
                # Ctrl-C reaches only the demo, which then ends its children in good order.
                start_new_session=True,
            )

    def _read_address(self, file: Path) -> bool:
        try:
            self.address = json.loads(file.read_text())["address"]
        except (OSError, ValueError):
            return False  # not written yet, or not to its end
        return True

    def _wait_until(self, condition: Callable[[], bool], failure: str) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"{self.name}: {failure} within {START_TIMEOUT:.0f} s")
            time.sleep(0.05)


def fastworker_cluster(directory: Path) -> Cluster:
    """A cluster of our workers, not started."""
    return Cluster("fastworker", [sys.executable, "-m", "fastworker"], directory / "fastworker")


def stock_cluster(directory: Path) -> Cluster:
    """A cluster of distributed's workers, not started."""
    return Cluster("stock", [sys.executable, "-m", "dask", "worker"], directory / "stock")


def _environment() -> dict[str, str]:
    """The environment of child processes: this package importable, one thread per BLAS call."""
    environment: dict[str, Any] = dict(os.environ)
    package = str(Path(fastworker.__file__).resolve().parents[1])
    if package not in {*site.getsitepackages(), site.getusersitepackages()}:
        path = [package, *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(path)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment.setdefault(variable, "1")  # as a Nanny does for its worker
    return environment
