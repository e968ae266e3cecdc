"""``fastworker scheduler``, as a process of its own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys

import pytest
from distributed import Client
from distributed.cli.dask_scheduler import main as dask_scheduler

from fastworker.deploy.scheduler import scheduler_command
from support.lane import stream_types

COMMAND = [sys.executable, "-m", "fastworker"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "scheduler", *arguments], capture_output=True, text=True, timeout=60
    )


def test_the_options_are_those_of_dask_scheduler():
    theirs, ours = ({p.name for p in c.params} for c in (dask_scheduler, scheduler_command()))
    assert ours == theirs


@pytest.mark.parametrize("preload", [[], ["--preload", "fastworker"], ["--preload", "json"]])
def test_two_commands_make_a_cluster(tmp_path, preload):
    file = str(tmp_path / "scheduler.json")
    arguments = ["--port", "0", "--no-dashboard", "--host", "127.0.0.1", "--scheduler-file", file]
    scheduler = subprocess.Popen(
        [*COMMAND, "scheduler", *arguments, *preload], stderr=subprocess.PIPE, text=True
    )
    worker = subprocess.Popen(
        [*COMMAND, "--scheduler-file", file, "--no-dashboard", "--nthreads", "1"],
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(scheduler_file=file) as client:
            client.wait_for_workers(1, timeout=60)
            assert client.submit(sum, [1, 2, 3]).result() == 6
            assert client.run_on_scheduler(stream_types)["workers"] == ["EagerSend"]
        for process in (worker, scheduler):
            process.send_signal(signal.SIGTERM)
            process.wait(60)
        assert scheduler.returncode == 0
        log = scheduler.stderr.read()
        assert log.count("Low-latency lane installed") == 1
        assert "Traceback" not in log
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()
        scheduler.stderr.close()


def test_help_and_version():
    assert "low-latency lane" in run("--help").stdout
    assert run("--version").stdout.startswith("fastworker scheduler, version ")
    whole = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
    assert "fastworker scheduler  start a Dask scheduler" in whole.stdout


@pytest.mark.parametrize("port", ["x", "70000", "-1", "8786,y"])
def test_what_is_no_port(port):
    done = run(f"--port={port}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: --port {port}: expected a port")
    assert "Traceback" not in done.stderr


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert f"--host 127.0.0.1, --port {port}" in last
    assert os.strerror(errno.EADDRINUSE) in last
    assert "Traceback" not in done.stderr


def test_a_preload_that_is_not_there():
    done = run("--preload", "no_such_module", "--port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: --preload no_such_module: No module named 'no_such_module'\n"
