"""The processes of a cluster: started, logged to files, and ended in any case.

The demo, the tests and the benchmarks start their clusters with this.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import psutil
from distributed import Client

Kind = Literal["fastworker", "worker-class", "stock"]

HOST = "127.0.0.1"
START_TIMEOUT = 60.0  # seconds until a process must serve
STOP_TIMEOUT = 10.0  # seconds that processes get to leave after SIGTERM, before SIGKILL
LOG_LINES = 20  # of a process that failed, shown to the user

COMMANDS: dict[Kind, list[str]] = {
    "fastworker": ["fastworker"],
    "worker-class": ["dask", "worker", "--worker-class", "fastworker.Worker"],
    "stock": ["dask", "worker"],
}
"""What ``python -m`` runs as a worker of each kind."""


class ProcessEnded(RuntimeError):
    """A process of a cluster ended by itself; the text has the end of its log."""


def wait_for(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Return once ``condition()`` is true; raise TimeoutError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}")
        time.sleep(0.05)


# Loaded here: between a fork and the exec that follows it, loading a library is not safe.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Have the kernel kill this child when the thread that started it ends without cleaning up."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child process in a session of its own, which Ctrl-C in a terminal does not reach.

    Its output goes to ``directory``/``name``.log, which is also its working directory: "python -m"
    looks there first, and neither a checkout nor a test may become importable by chance.
    """

    def __init__(
        self, name: str, argv: Sequence[str], directory: Path, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = directory / f"{name}.log"
        self.address = ""  # where a scheduler serves; empty for a worker
        self.asked_to_stop = False
        with self.log.open("wb") as out:
            self.popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,
                env=dict(env),
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def check_running(self) -> None:
        """Raise ProcessEnded unless it runs."""
        if not self.running:
            raise ProcessEnded(
                f"the process of {self.name} ended with status {self.popen.returncode}; "
                "its last words:\n" + "\n".join(self.text().splitlines()[-LOG_LINES:])
            )

    def signal(self, number: int) -> None:
        """Send a signal to this process alone."""
        self.popen.send_signal(number)

    def wait(self, timeout: float) -> int:
        """The exit status; TimeoutError when it still runs after ``timeout`` seconds."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout:g} s") from None

    def ask_to_stop(self) -> None:
        """Send SIGTERM, which a stopped process gets once it may run again."""
        if self.running and not self.asked_to_stop:
            # Once only: a second one would end it before it has cleaned up.
            self.asked_to_stop = True
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """End the process and its children: SIGTERM, and SIGKILL after ``timeout`` seconds."""
        family: list[psutil.Process] = []
        with suppress(psutil.Error):
            family = psutil.Process(self.pid).children(recursive=True)
        self.ask_to_stop()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(timeout)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            for child in family:
                with suppress(psutil.Error):
                    child.kill()
            self.popen.wait()


class Launcher:
    """The processes of one cluster; a context manager that ends them all.

    ``env`` is added to the environment of every process. Processes end with the thread that starts
    them: use a launcher in a thread that lives as long as its cluster.
    """

    stop_timeout = STOP_TIMEOUT

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.env = dict(env or {})
        self.processes: list[Process] = []
        self._names: Counter[str] = Counter()

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """The environment of every process that it starts."""
        return {**os.environ, **self.env}

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        """Start any command; a name that is taken gets a number."""
        self._names[name] += 1
        unique = name if self._names[name] == 1 else f"{name}-{self._names[name]}"
        process = Process(unique, argv, self.directory, {**self.environment(), **(env or {})})
        self.processes.append(process)
        return process

    def scheduler(self, *options: str, env: Mapping[str, str] | None = None) -> Process:
        """Start ``dask scheduler`` on free ports and wait for its address.

        ``options`` come last, so they take precedence. Raises ProcessEnded, TimeoutError.
        """
        file = self.directory / f"scheduler-{self._names['scheduler'] + 1}.json"
        argv = [sys.executable, "-m", "dask", "scheduler", "--scheduler-file", str(file)]
        argv += ["--host", HOST, "--port", "0", "--dashboard-address", f"{HOST}:0"]
        process = self.start("scheduler", [*argv, *options], env)

        def serves() -> bool:
            process.check_running()
            try:
                process.address = json.loads(file.read_text())["address"]
            except (OSError, ValueError):
                return False  # not written yet, or not to its end
            return True

        wait_for(serves, START_TIMEOUT, "the scheduler serves")
        return process

    def worker(
        self,
        address: str,
        *options: str,
        kind: Kind = "fastworker",
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a worker command; it does not wait for it to join."""
        argv = [sys.executable, "-m", *COMMANDS[kind], address]
        if "--listen-address" not in options:
            argv += ["--host", HOST]
        argv += ["--local-directory", str(self.directory / "scratch")]
        return self.start("worker", [*argv, *options], env)

    def check_running(self) -> None:
        """Raise ProcessEnded when a process has ended by itself."""
        for process in self.processes:
            process.check_running()

    def await_workers(self, client: Client, n_workers: int) -> None:
        """Return once ``n_workers`` have joined; raises ProcessEnded, TimeoutError."""

        def joined() -> bool:
            self.check_running()
            return len(client.nthreads()) >= n_workers

        wait_for(joined, START_TIMEOUT, f"{n_workers} workers joined")

    @contextmanager
    def client(self, scheduler: Process, n_workers: int, **kwargs: Any) -> Iterator[Client]:
        """A Client, once so many workers have joined; ``kwargs`` are Client's.

        Raises ProcessEnded, TimeoutError.
        """
        with Client(scheduler.address, timeout=START_TIMEOUT, **kwargs) as client:
            self.await_workers(client, n_workers)
            yield client

    def logs(self, limit: int = 6000) -> str:
        """The end of every process's log, at most ``limit`` characters of each."""
        parts = []
        for process in self.processes:
            state = "runs" if process.running else f"exit status {process.popen.returncode}"
            parts.append(f"--- {process.name} ({state}): {' '.join(process.argv)}")
            parts.append(process.text()[-limit:])
        return "\n".join(parts)

    def stop(self) -> None:
        """End every process, workers before schedulers."""
        schedulers = [process for process in self.processes if process.address]
        workers = [process for process in self.processes if not process.address]
        for group in (workers, schedulers):
            for process in group:
                process.ask_to_stop()
            deadline = time.monotonic() + self.stop_timeout
            for process in group:
                process.stop(max(0.0, deadline - time.monotonic()))
