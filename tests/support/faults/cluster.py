"""The cluster of an episode: a scheduler, workers behind proxies, those that have left included."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from distributed import Client

from fastworker.demo.launcher import Kind, Process
from support.cluster.launcher import Launcher
from support.faults.plan import Plan
from support.faults.proxy import Proxies, Proxy

MEMORY_LIMIT = 600 << 20  # bytes, of a worker with a nanny
DISK = "3m"  # the size of a small disk

PRELOAD = "support.faults.preload"

CONFIG = {
    "DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "10s",
    "DISTRIBUTED__WORKER__MEMORY__TARGET": "0.004",  # 2.5 MB: payloads are spilled
    "DISTRIBUTED__WORKER__MEMORY__SPILL": "false",
    "DISTRIBUTED__WORKER__MEMORY__PAUSE": "0.8",
    "DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.95",
    "DISTRIBUTED__SCHEDULER__WORK_STEALING_INTERVAL": "50ms",
}


@dataclass
class Member:
    """A worker, with the processes and proxies that are its own."""

    process: Process
    nannied: bool
    port: int
    to_worker: Proxy
    to_scheduler: Proxy
    directory: Path

    @property
    def address(self) -> str:
        """How the scheduler and the others know it, whatever process serves there."""
        return f"tcp://127.0.0.1:{self.to_worker.port}"

    def worker_pid(self) -> int | None:
        """The process that runs tasks; None where the nanny has none just now."""
        if not self.nannied:
            return self.process.pid if self.process.running else None
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children():
                if any("spawn_main" in word for word in child.cmdline()):
                    return child.pid
        return None


class Cluster:
    """All processes of an episode. ``directory`` holds all that they write."""

    def __init__(self, plan: Plan, kind: Kind, options: list[str], directory: Path) -> None:
        self.plan = plan
        self.kind = kind
        self.options = options  # further ones, of the workers' command
        self.directory = directory
        self.mark = f"{os.getpid()}-{time.time_ns()}"
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        self.launcher = Launcher(directory, self.environment())
        self.proxies = Proxies()
        self.members: list[Member] = []
        self.hard_deaths = 0
        """Processes that could not clean up: it is not theirs to have left nothing."""
        self.disks: list[Path] = []
        self.n_made = 0

    def environment(self) -> dict[str, str]:
        config = {
            **CONFIG,
            "DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": str(self.plan.allowed_failures),
            "DISTRIBUTED__SCHEDULER__VALIDATE": str(self.plan.validate),
            "DISTRIBUTED__WORKER__VALIDATE": str(self.plan.validate),
        }
        return {
            **{f"DASK_{name}": value for name, value in config.items()},
            "TMPDIR": str(self.temporary),
            "FAULT_EPISODE": self.mark,
        }

    def __enter__(self) -> Cluster:
        self.proxies.__enter__()
        try:
            options = ["--preload", PRELOAD]
            if self.plan.lane:
                options += ["--preload", "fastworker.scheduler"]
            self.scheduler = self.launcher.scheduler(*options)
            self.scheduler_port = int(self.scheduler.address.rpartition(":")[2])
            for nannied in self.plan.nannied:
                self.add_member(nannied)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.resume()
        self.launcher.stop()
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()
        self.proxies.__exit__()
        for disk in self.disks:
            subprocess.run(["umount", "--lazy", str(disk)], check=False)

    def add_member(self, nannied: bool) -> Member:
        self.n_made += 1
        directory = self.directory / f"scratch-{self.n_made}"
        directory.mkdir()
        if self.plan.small_disk:
            self.mount_small_disk(directory)
        port = free_port()
        to_worker = self.proxies.to(port)
        to_scheduler = self.proxies.to(self.scheduler_port)
        process = self.launcher.worker(
            f"tcp://127.0.0.1:{to_scheduler.port}",
            *("--listen-address", f"tcp://127.0.0.1:{port}"),
            *("--contact-address", f"tcp://127.0.0.1:{to_worker.port}"),
            *("--local-directory", str(directory), "--nthreads", str(self.plan.nthreads)),
            *("--memory-limit", str(MEMORY_LIMIT), "--death-timeout", "30"),
            *("--preload", PRELOAD, "--no-dashboard"),
            *(("--nanny", "--preload-nanny", PRELOAD) if nannied else ("--no-nanny",)),
            *self.options,
            kind=self.kind,
        )
        member = Member(process, nannied, port, to_worker, to_scheduler, directory)
        self.members.append(member)
        return member

    def mount_small_disk(self, directory: Path) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "faults", str(directory)]
        subprocess.run(command, check=True, capture_output=True)
        self.disks.append(directory)

    def signal(self, pid: int | None, number: int) -> None:
        if pid is None:
            return
        if number == signal.SIGKILL:
            self.hard_deaths += 1
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def processes(self) -> list[psutil.Process]:
        """All that run with this episode's mark in their environment, at any depth."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.status() != psutil.STATUS_ZOMBIE and (
                    process.environ().get("FAULT_EPISODE") == self.mark
                ):
                    found.append(process)
        return found

    def resume(self) -> None:
        """Nothing is stopped, nothing disturbed any more."""
        for process in self.processes():
            with suppress(psutil.Error):
                if process.status() == psutil.STATUS_STOPPED:
                    process.resume()
        for proxy in self.proxies.proxies:
            self.proxies.call(proxy.calm)

    def replace_ended(self) -> None:
        """Start a worker for each that has ended, where there are fewer than planned."""
        self.members = [each for each in self.members if each.process.running]
        while len(self.members) < len(self.plan.nannied):
            self.add_member(self.plan.nannied[len(self.members)])

    def make_whole(self, client: Client, patience: float) -> None:
        """Replace members that have left; TimeoutError when one neither joins nor ends."""
        end = time.monotonic() + patience
        most_made = self.n_made + 20
        while True:
            if self.n_made > most_made:
                raise RuntimeError(
                    f"workers end again and again:\n{self.launcher.logs(500)[-5000:]}"
                )
            joined = set(client.scheduler_info(n_workers=-1)["workers"])
            self.replace_ended()
            missing = [m.process.name for m in self.members if m.address not in joined]
            if not missing:
                return
            if time.monotonic() > end:
                raise TimeoutError(f"neither joined nor ended: {', '.join(missing)}")
            time.sleep(0.1)

    def dump_stacks(self) -> None:
        """Have every process that can log its stacks."""
        for process in self.processes():
            with suppress(psutil.Error, OSError):
                if catches(process.pid, signal.SIGUSR1):
                    process.send_signal(signal.SIGUSR1)
        time.sleep(1)


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, which would end it otherwise."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name == "SigCgt":
            return bool(int(mask, 16) >> (number - 1) & 1)
    return False


def free_port() -> int:
    """A port that is free and that the kernel gives only to a process that asks for it."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.SystemRandom().randrange(10_000, low)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
