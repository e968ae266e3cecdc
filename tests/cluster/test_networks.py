"""A cluster on two hosts whose network is bad, or is gone: results are right, no process hangs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastworker.demo.launcher import wait_for
from support import python_path
from support.cluster import job_across_hosts
from support.networks import Disturbance, Network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

BAD = {
    "loss": Disturbance(delay=0.002, jitter=0.001, loss=0.02),
    "all of it": Disturbance(
        0.005, jitter=0.003, early=0.1, loss=0.01, corrupt=0.005, duplicate=0.02
    ),
}
FAR = pytest.mark.parametrize("network", [Disturbance(delay=0.05)], ids=["far"], indirect=True)
"""So far that what crosses the cable takes a second."""
MIDST = 0.6
"""Seconds after which it is under way."""


class Cluster:
    """A scheduler, the worker a and the client on the first host, the worker b on the second."""

    def __init__(self, network: Network, directory: Path) -> None:
        self.network = network
        self.directory = directory
        found = directory / "scheduler.json"
        host = network.addresses[0]
        self.start(0, "scheduler", "dask", "scheduler", "--host", host, "--port", "0",
                   "--no-dashboard", "--scheduler-file", str(found))  # fmt: skip
        wait_for(found.exists, 30, "the scheduler serves")
        self.address = json.loads(found.read_text())["address"]
        for side, name in enumerate("ab"):
            self.start(side, name, "fastworker", self.address, "--name", name, "--nthreads", "1",
                       "--no-nanny", "--host", network.addresses[side])  # fmt: skip

    def start(self, host: int, name: str, *command: str, **options) -> subprocess.Popen[str]:
        with (self.directory / f"{name}.log").open("w") as log:
            options = {"stdout": log, "stderr": log, **options}
            return self.network.start(
                host,
                *command,
                cwd=self.directory,
                env={"PYTHONPATH": python_path()},
                **options,
            )

    def client(self, what: str) -> subprocess.Popen[str]:
        script = job_across_hosts.__file__
        child = self.start(
            0, "client", sys.executable, script, self.address, what, stdout=subprocess.PIPE
        )
        self.says(child, "ready")
        return child

    def says(self, client: subprocess.Popen[str], word: str) -> None:
        said = client.stdout.readline()
        assert said == f"{word}\n", "\n".join(
            f"---- {log.name}\n{log.read_text()}" for log in self.directory.glob("*.log")
        )


@pytest.fixture
def cluster(network, tmp_path):
    return Cluster(network, tmp_path)


@pytest.mark.parametrize("network", BAD.values(), ids=BAD.keys(), indirect=True)
def test_bad_network(cluster):
    cluster.says(cluster.client("tree"), "right")


def pulled_in_the_midst(cluster: Cluster) -> subprocess.Popen[str]:
    client = cluster.client("fetch")
    cluster.says(client, "made")
    time.sleep(MIDST)
    cluster.network.cable("down")
    return client


@FAR
def test_the_cable_is_pulled_for_good(cluster):
    """The worker beyond it counts as lost, and the other one makes anew what it had."""
    cluster.says(pulled_in_the_midst(cluster), "right")


@FAR
def test_the_cable_is_pulled_for_a_while(cluster):
    client = pulled_in_the_midst(cluster)
    with pytest.raises(subprocess.TimeoutExpired):
        client.wait(4)
    cluster.network.cable("up")
    cluster.says(client, "right")
