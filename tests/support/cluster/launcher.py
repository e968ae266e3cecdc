"""Starts the processes of a real cluster, keeps their logs, and always ends them."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil
from distributed import Client, Future, wait

from support import python_path

Kind = Literal["fastworker", "worker-class", "stock"]

START_TIMEOUT = 30.0  # seconds a process may take until it serves
STOP_TIMEOUT = 10.0  # seconds a process may take to leave after SIGTERM

# A worker that wrote one of these has a broken state machine or broken memory, whatever the
# results of its tasks were.
TROUBLE = re.compile(
    r"InvalidTransition|InvalidTaskState|TransitionCounterMaxExceeded|RecommendationsConflict"
    r"|Segmentation fault|Fatal Python error|double free|corrupted"
)


def collect(client: Client, futures: Sequence[Future], timeout: float = 60.0) -> list:
    """The results of ``futures``; TimeoutError when one is not there in time."""
    with client.as_current():
        wait(futures, timeout=timeout)
    return client.gather(futures)


def wait_for(condition: Callable[[], object], timeout: float, what: str) -> None:
    """Return once ``condition()`` is true; raise TimeoutError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s in vain until {what}")
        time.sleep(0.05)


# Loaded here, for little is safe to call between a fork and the exec that follows it.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Have the kernel kill this child should the test process die without cleaning up."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """One child process with a process group of its own; its output goes to ``log``."""

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
                # Neither the checkout nor the tests may become importable by chance.
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
        return self.log.read_text(errors="replace")

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

    def stop(self) -> None:
        """End the process and whatever it started: politely first, then for certain."""
        family = []
        with suppress(psutil.Error):
            family = [p.pid for p in psutil.Process(self.pid).children(recursive=True)]
        self.ask_to_stop()
        try:
            with suppress(subprocess.TimeoutExpired):
                self.popen.wait(STOP_TIMEOUT)
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            for pid in family:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.popen.wait()


class Launcher:
    """The processes of one cluster; a context manager that ends them all.

    ``env`` is added to the environment of every process it starts.
    """

    def __init__(self, directory: Path, env: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.env = dict(env or {})
        self.processes: list[Process] = []

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(
        self, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> Process:
        """Start any command; names are made unique by a number."""
        environ = {
            **os.environ,
            "PYTHONPATH": python_path(),
            "PYTHONFAULTHANDLER": "1",
            "PYTHONUNBUFFERED": "1",
            **self.env,
            **(env or {}),
        }
        process = Process(f"{name}-{len(self.processes)}", argv, self.directory, environ)
        self.processes.append(process)
        return process

    def scheduler(self, *options: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a stock ``dask scheduler`` on a free port and wait for its address."""
        file = self.directory / f"scheduler-{len(self.processes)}.json"
        argv = [sys.executable, "-m", "dask", "scheduler", "--scheduler-file", str(file)]
        argv += ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        process = self.start("scheduler", [*argv, *options], env)

        def serves() -> bool:
            if not process.running:
                raise RuntimeError(f"the scheduler ended:\n{process.text()}")
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
        if kind == "fastworker":
            argv = [sys.executable, "-m", "fastworker", address]
        else:
            argv = [sys.executable, "-m", "dask", "worker", address]
            if kind == "worker-class":
                argv += ["--worker-class", "fastworker.Worker"]
        if "--listen-address" not in options:
            argv += ["--host", "127.0.0.1"]
        argv += ["--local-directory", str(self.directory / "scratch")]
        return self.start(kind, [*argv, *options], {**(env or {}), "CLUSTER_ROLE": "worker"})

    def await_workers(self, client: Client, n_workers: int) -> None:
        """Return once ``n_workers`` joined; raise RuntimeError when a process ended instead."""

        def joined() -> bool:
            ended = [process.name for process in self.processes if not process.running]
            if ended:
                raise RuntimeError(f"ended before the cluster was complete: {', '.join(ended)}")
            return len(client.nthreads()) >= n_workers

        wait_for(joined, START_TIMEOUT, f"{n_workers} workers joined")

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
        workers = [p for p in self.processes if not p.address]
        for process in workers:
            process.ask_to_stop()
        for process in [*workers, *(p for p in self.processes if p.address)]:
            process.stop()

    def check(self) -> None:
        """Raise AssertionError when a process crashed or logged a broken state machine."""
        for process in self.processes:
            assert process.popen.returncode not in (-signal.SIGSEGV, -signal.SIGABRT), self.logs()
            found = TROUBLE.search(process.text())
            assert found is None, f"{process.name} logged {found and found[0]}\n{self.logs()}"
