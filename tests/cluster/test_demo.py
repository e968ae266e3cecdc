"""``fastworker demo``, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import psutil
import pytest
from click.testing import CliRunner
from distributed import Client

from fastworker.demo import command, stages
from fastworker.demo.cluster import Cluster
from fastworker.demo.command import demo_command
from fastworker.demo.launcher import wait_for
from fastworker.scheduler import LowLatency, LowLatencyClient

TIMEOUT = 100
SMALL = ["--scale=0.05", "--rounds=1", "--dashboard-port=0"]


@pytest.fixture
def start_demo(tmp_path):
    """Start the demo with these options; its whole family is ended after the test."""
    started: list[subprocess.Popen] = []

    def start(*options, env=None):
        process = subprocess.Popen(
            [sys.executable, "-m", "fastworker", "demo", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            # A shell may have started these tests with Ctrl-C switched off, as it does with "&".
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "100", **(env or {})},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        process.communicate()


@pytest.mark.slow
def test_runs_and_compares(start_demo):
    process = start_demo(*SMALL)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, out + err
    assert re.search(r"dashboard +http://127\.0\.0\.1:\d+/status", out)
    # A row of the table: stock's figure, and two more with their ratios, for time and for CPU.
    figures = r"( +[\d.]+( +[\d.]+ +([\d.]+x|-)){2}){2} *\n"
    names = [stage.name for stage in stages.STAGES]
    assert {"map", "submit to result", "chain"} < set(names)
    for name in names:
        assert len(re.findall(rf"{name} +\d+ tasks .* right", out)) == 3
        assert re.search(rf"^{name}{figures}", out, re.MULTILINE)
    assert re.search(rf"^all{figures}", out, re.MULTILINE)
    assert re.search(r"stock +fastworker +\+ lane +stock +fastworker +\+ lane", out)
    assert "round 1 of 1" in out
    assert "all results right" in out
    assert "fastworker scheduler" in out


def test_the_lane_is_where_it_says(tmp_path):
    with_lane, without = (Cluster("fastworker", tmp_path, lane) for lane in (True, False))
    try:
        for cluster in (with_lane, without):
            cluster.start(1, 1, dashboard_port=None)
            plugins = cluster.client.run_on_scheduler(
                lambda dask_scheduler: list(dask_scheduler.plugins)
            )
            assert (LowLatency.name in plugins) is cluster.lane
            assert (LowLatencyClient.of(cluster.client) is not None) is cluster.lane
    finally:
        with_lane.stop()
        without.stop()


def test_a_lane_that_cannot_be_is_an_error(start_demo):
    """The scheduler says what is wrong with its configuration."""
    process = start_demo(
        *SMALL, "--workers=1", env={"DASK_FASTWORKER__LOW_LATENCY__QUEUE_DEPTH": "many"}
    )
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert re.search(r"^Error: fastworker \+ lane: fastworker\.low-latency\.queue-depth.*many", err)
    assert "Traceback" not in err


def test_without_optional_packages(start_demo, tmp_path):
    """What cannot be shown is named; the rest goes on."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('bokeh', 'pandas'):\n    sys.modules[name] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start_demo(*SMALL, "--no-compare", env={"PYTHONPATH": path})
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, out + err
    assert "without a dashboard" in out
    assert re.search(r"without dask\.dataframe: .*pandas", out)
    assert re.search(r"dask\.array .* right", out)
    assert "http://" not in out


def test_without_its_extra(start_demo, tmp_path):
    """One line says what to install."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process = start_demo(*SMALL, env={"PYTHONPATH": path})
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert not out
    assert err == (
        "Error: 'fastworker demo' needs rich, which is not installed; "
        "pip install 'fastworker[demo]', or '.[demo]' in its sources, installs what it needs\n"
    )


def test_wrong_result_is_an_error(monkeypatch):
    class Wrong(stages.Map):
        def start(self, client):
            return client.map(stages.collatz_steps, range(2, 12), pure=False)

    monkeypatch.setattr(command, "STAGES", (Wrong,))
    result = CliRunner().invoke(demo_command, ["--scale=0.001", "--no-compare", "--workers=1"])
    assert result.exit_code == 1
    assert "map: wrong result for 1: 1, expected 0" in result.output


def test_failing_task_is_an_error(monkeypatch):
    class Failing(stages.Map):
        def start(self, client):
            return client.map(json.loads, ["not json"], pure=False)

    monkeypatch.setattr(command, "STAGES", (Failing,))
    result = CliRunner().invoke(demo_command, ["--scale=0.001", "--no-compare", "--workers=1"])
    assert result.exit_code == 1
    assert "map failed on fastworker + lane: JSONDecodeError" in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(start_demo, number):
    process = start_demo("--scale=5", "--dashboard-port=0")
    while not process.stdout.readline().startswith("on fastworker"):
        assert process.poll() is None, process.stderr.read()
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.send_signal(number)
    assert process.wait(timeout=30) == 128 + number
    assert "Traceback" not in process.stderr.read()
    wait_for(lambda: not any(child.is_running() for child in children), 10, "its processes left")


def test_hold(start_demo):
    """The cluster serves until Ctrl-C."""
    process = start_demo(*SMALL, "--no-compare", "--workers=1", "--hold")
    lines = []
    while not lines or "stays up" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read()
    (address,) = re.findall(r"scheduler +(tcp://\S+)", "".join(lines))
    with Client(address, timeout=20) as client:
        assert client.submit(sum, [1, 2]).result(timeout=20) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 128 + signal.SIGINT


def test_taken_port_is_an_error(start_demo):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        process = start_demo(*SMALL, f"--port={port}")
        _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert err == f"Error: --port {port}: Address already in use\n"


def test_dead_worker_is_an_error(start_demo):
    process = start_demo("--scale=5", "--dashboard-port=0")
    while not process.stdout.readline().startswith("on fastworker"):
        assert process.poll() is None, process.stderr.read()
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "fastworker" in child.cmdline() and "demo" not in child.cmdline()
    ]
    workers[0].kill()
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert re.search(r"the process of worker(-\d)? ended with status -9", err)


@pytest.mark.parametrize("option", ["--workers=0", "--scale=0", "--rounds=x", "--nonsense"])
def test_bad_options(option):
    result = CliRunner().invoke(demo_command, [option])
    assert result.exit_code == 2
    assert option.partition("=")[0] in result.output
