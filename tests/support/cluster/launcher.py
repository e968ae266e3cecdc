"""The launcher of ``fastworker.demo``; its processes can import ``support`` and must not crash."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence

from distributed import Client, Future, wait

from fastworker.demo import launcher
from fastworker.demo.launcher import Kind, Process
from support import python_path

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


class Launcher(launcher.Launcher):
    """The processes of one cluster, whose logs are looked at in the end."""

    def __enter__(self) -> Launcher:
        return self

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "PYTHONPATH": python_path(),
            "PYTHONFAULTHANDLER": "1",
            "PYTHONUNBUFFERED": "1",
            **self.env,
        }

    def worker(
        self,
        address: str,
        *options: str,
        kind: Kind = "fastworker",
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a worker command; plugins of tests tell by CLUSTER_ROLE where they are."""
        env = {**(env or {}), "CLUSTER_ROLE": "worker"}
        return super().worker(address, *options, kind=kind, env=env)

    def check(self) -> None:
        """Raise AssertionError when a process crashed or logged a broken state machine."""
        for process in self.processes:
            assert process.popen.returncode not in (-signal.SIGSEGV, -signal.SIGABRT), self.logs()
            found = TROUBLE.search(process.text())
            assert found is None, f"{process.name} logged {found and found[0]}\n{self.logs()}"
