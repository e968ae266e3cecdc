"""The ``fastworker`` command, as a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import distributed
import pytest
from dask.utils_test import inc
from distributed.cli.dask_worker import main as dask_worker

import fastworker
from fastworker.cli import worker_command
from fastworker.demo.launcher import Launcher
from support.certificates import Authority

COMMAND = [sys.executable, "-m", "fastworker"]
NOBODY = "tcp://127.0.0.1:1"


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **(env or {})},
    )


@contextmanager
def running(*arguments: str, command: list[str] = COMMAND) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
        assert process.poll() is None, process.communicate()[0]
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        assert "Traceback" not in output, output
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=60)


def workers(client: distributed.Client) -> list[dict]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def kinds(client: distributed.Client) -> list[str]:
    def kind(dask_worker):
        return f"{type(dask_worker).__module__}.{type(dask_worker).__qualname__}"

    return list(client.run(kind).values())


def address(client: distributed.Client) -> str:
    return client.scheduler.address


# it works


@pytest.mark.parametrize("nanny", [True, False], ids=["nanny", "no-nanny"])
def test_it_joins_and_works(client, nanny):
    options = ["--nthreads", "2", "--name", "hal", "--no-dashboard"]
    with running(address(client), *options, "--nanny" if nanny else "--no-nanny"):
        client.wait_for_workers(1, timeout=30)
        [worker] = workers(client)
        assert (worker["nthreads"], worker["name"]) == (2, "hal")
        assert bool(worker["nanny"]) is nanny
        assert kinds(client) == ["fastworker.worker.Worker"]
        futures = client.map(inc, range(20), pure=False)
        assert client.gather(futures) == list(range(1, 21))
        del futures


def test_options_mean_what_they_mean_to_dask_worker(client, tmp_path):
    preload = tmp_path / "mark.py"
    preload.write_text("def dask_setup(worker):\n    worker.marked = 'by preload'\n")
    pid_file = tmp_path / "pid"
    with running(
        address(client),
        *["--nworkers", "2", "--nthreads", "1", "--name", "pair", "--memory-limit", "1GB"],
        *["--resources", "GPU=2 MEM=1e9", "--preload", str(preload), "--pid-file", str(pid_file)],
        *["--local-directory", str(tmp_path / "scratch"), "--host", "127.0.0.1"],
    ) as process:
        client.wait_for_workers(2, timeout=30)
        assert pid_file.read_text() == str(process.pid)
        found = workers(client)
        assert {worker["name"] for worker in found} == {"pair-0", "pair-1"}
        for worker in found:
            assert worker["memory_limit"] == 10**9
            assert worker["resources"] == {"GPU": 2, "MEM": 1e9}
            assert worker["local_directory"].startswith(str(tmp_path / "scratch"))
        marks = client.run(lambda dask_worker: dask_worker.marked)
        assert list(marks.values()) == ["by preload"] * 2
    assert not pid_file.exists()


def test_the_scheduler_file(client, tmp_path):
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"address": address(client)}))
    with running("--scheduler-file", str(file), "--no-nanny"):
        client.wait_for_workers(1, timeout=30)
        assert kinds(client) == ["fastworker.worker.Worker"]


def test_the_configured_scheduler(client, monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address(client))
    with running("--no-nanny"):
        client.wait_for_workers(1, timeout=30)


def test_another_worker_class(client):
    with running(address(client), "--no-nanny", "--worker-class", "distributed.Worker"):
        client.wait_for_workers(1, timeout=30)
        assert kinds(client) == ["distributed.worker.Worker"]


@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
def test_dask_worker_with_our_class(client, nanny):
    command = [sys.executable, "-m", "dask", "worker"]
    with running(address(client), nanny, "--worker-class", "fastworker.Worker", command=command):
        client.wait_for_workers(1, timeout=30)
        assert kinds(client) == ["fastworker.worker.Worker"]
        assert client.submit(inc, 1).result(timeout=30) == 2


def test_it_ends_when_the_scheduler_does():
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        process = subprocess.Popen(
            [*COMMAND, cluster.scheduler_address, "--no-nanny"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with distributed.Client(cluster) as client:
            client.wait_for_workers(1, timeout=30)
    try:
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()


def test_shutdown_ends_the_command(client):
    """The worker, its nanny, and with the last of them the command itself."""
    command = [*COMMAND, address(client)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            client.wait_for_workers(1, timeout=30)
            [found] = client.scheduler_info()["workers"]
            assert fastworker.shutdown([found]) == [found]
            assert process.wait(60) == 0
        finally:
            if process.poll() is None:
                process.kill()


# what it says of itself


@pytest.mark.parametrize("entry", ["fastworker", "fastworker.cli"])
def test_version(entry):
    done = subprocess.run(
        [sys.executable, "-m", entry, "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"fastworker, version {fastworker.__version__}\n"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(option):
    done = run(option)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: fastworker [OPTIONS] [SCHEDULER]")
    assert "fastworker.Worker" in done.stdout
    assert "fastworker demo" in done.stdout
    assert "low-latency lane" in " ".join(done.stdout.split())


def test_it_has_the_options_of_dask_worker():
    ours = {param.name: param for param in worker_command().params}
    theirs = {param.name: param for param in dask_worker.params}
    assert ours.keys() == theirs.keys()
    for name in theirs.keys() - {"version"}:
        assert ours[name].opts == theirs[name].opts
        assert ours[name].type is theirs[name].type
        same_default = ours[name].default == theirs[name].default
        assert same_default is (name != "worker_class")
    assert ours["worker_class"].default == "fastworker.Worker"
    assert theirs["worker_class"].default == "dask.distributed.Worker"
    ours_settings = worker_command().context_settings
    assert ours_settings.pop("help_option_names") == ["-h", "--help"]
    assert ours_settings == dask_worker.context_settings


def test_demo_is_a_command_of_its_own(monkeypatch):
    import types

    seen = []

    @click.command()
    @click.option("--size", type=int)
    def demo_command(size):
        seen.append(size)

    monkeypatch.setitem(
        sys.modules, "fastworker.demo.command", types.SimpleNamespace(demo_command=demo_command)
    )
    with pytest.raises(SystemExit) as caught:
        fastworker.cli.main(["demo", "--size", "3"])
    assert caught.value.code == 0
    assert seen == [3]
    with pytest.raises(SystemExit) as caught:
        fastworker.cli.main(["demo", "--nope"])
    assert caught.value.code == 2


# errors


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "no scheduler given; name one like 'fastworker tcp://10.0.0.1:8786', or use --sch"),
        ([""], "no scheduler given"),
        (["foo bar"], "'foo bar' is no address of a scheduler; expected one like tcp://10.0.0.1"),
        (["doctr"], "there is no command 'doctr'; did you mean 'doctor'?"),
        (["help"], "'help' is no address of a scheduler .*; 'fastworker --help' lists the options"),
        (["tcp://10.0.0.1"], r"is no address of a scheduler \(missing port number in address"),
        (["tcp://10.0.0.1:x"], "'tcp://10.0.0.1:x' is no address of a scheduler"),
        (["tcp://:8786"], "'tcp://:8786' names no host"),
        (["pigeon://host:1"], r"is no address of a scheduler \(unknown address scheme 'pigeon'"),
        ([NOBODY, "--worker-class", "nope.Worker"], "--worker-class nope.Worker: No module named"),
        ([NOBODY, "--worker-class", "fastworker.Nope"], "--worker-class fastworker.Nope: module"),
        (
            [NOBODY, "--worker-class", "fastworker.Wroker"],
            "--worker-class fastworker.Wroker: .*no attribute 'Wroker'; did you mean 'Worker'?",
        ),
        (
            [NOBODY, "--worker-class", "fastworker.Nanny"],
            "--worker-class fastworker.Nanny: that is a nanny; use fastworker.Worker, the nanny",
        ),
        ([NOBODY, "--worker-class", "distributed.Nanny"], "use fastworker.Worker, the nanny"),
        ([NOBODY, "--nworkers", "some"], "--nworkers some: invalid literal for int"),
        ([NOBODY, "--worker-port", "x"], "--worker-port x: invalid literal for int"),
        ([NOBODY, "--worker-port", "99999"], "--worker-port 99999: expected a port or a range"),
        ([NOBODY, "--memory-limit=-8GB"], "--memory-limit -8GB: expected bytes like 8GB"),
        ([NOBODY, "--memory-limit", "8QB"], "--memory-limit 8QB: expected bytes like 8GB"),
        (
            [NOBODY, "--no-nanny", "--preload", "no_such"],
            "--preload no_such: No module named 'no_such'",
        ),
        ([NOBODY, "--nanny-port", "x:y"], "--nanny-port x:y: invalid literal for int"),
        ([NOBODY, "--resources", "GPU"], "--resources GPU: expected pairs like GPU=2, got 'GPU'"),
        ([NOBODY, "--resources", "GPU=x"], "--resources GPU=x: could not convert string to float"),
        ([NOBODY, "--death-timeout", "soon"], "--death-timeout soon: expected a time like 30,"),
        ([NOBODY, "--lifetime", "long"], "--lifetime long: expected a time like 30,"),
        ([NOBODY, "--memory-limit", "much"], "--memory-limit much: expected bytes like 8GB"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_one_line(arguments, says):
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    said = [line for line in done.stderr.splitlines() if " - INFO - " not in line]
    assert len(said) == 1, done.stderr
    assert re.match(f"Error: .*{says}", said[0]), said


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([NOBODY, "--no-such-option"], "No such option"),
        ([NOBODY, "--nthreads", "many"], "'many' is not a valid integer"),
        ([NOBODY, "--nthreads"], "requires an argument"),
        ([NOBODY, "--tls-cert", "/no/such/file"], "'/no/such/file' does not exist"),
        ([NOBODY, "another"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option(arguments, says):
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["--no-nanny", "--nworkers", "2"], "You cannot use the --no-nanny argument"),
        (["--nworkers", "0"], "Must specify --nworkers so that there's at least one process"),
        (["--contact-address", "tcp://127.0.0.1:2"], "Must specify --listen-address"),
        (["--listen-address", "here"], "Failed to launch worker"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_go_together(arguments, says):
    done = run(NOBODY, *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
@pytest.mark.parametrize("scheduler", [NOBODY, "tcp://no-such-host.invalid:1"])
def test_a_scheduler_that_is_not_there(scheduler, nanny):
    started = time.monotonic()
    done = run(scheduler, nanny, "--death-timeout", "1")
    assert done.returncode == 1
    assert time.monotonic() - started >= 1
    assert "Timed out starting worker" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("nanny", ["--nanny", "--no-nanny"])
def test_it_says_what_it_waits_for(nanny):
    command = [*COMMAND, "tcp://no-such-host.invalid:1", nanny]
    says = (
        "Still waiting for a scheduler at tcp://no-such-host.invalid:1: unknown host no-such-host"
    )
    assert interrupted(command, says).returncode == 0


def test_it_says_which_file_it_waits_for(tmp_path):
    file = str(tmp_path / "none.json")
    says = f"Still waiting for a scheduler, which is to write {file}"
    assert interrupted([*COMMAND, "--scheduler-file", file], says).returncode == 1


def interrupted(command: list[str], says: str) -> subprocess.Popen[str]:
    """The process, after Ctrl-C has ended it while it waits, which it does without a traceback."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it runs in the background ignore Ctrl-C, the tests themselves perhaps
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stderr is not None
        assert any(says in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, output = process.communicate(timeout=60)
        assert "Traceback" not in output
        return process
    finally:
        process.kill()
        process.communicate()


def test_the_pid_file_while_there_is_no_scheduler_file(tmp_path):
    """It is there as soon as with dask worker, and gone in the end."""
    pid = tmp_path / "pid"
    arguments = ["--scheduler-file", str(tmp_path / "none.json"), "--pid-file", str(pid)]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert pid.read_text() == str(process.pid)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert not pid.exists()


def test_a_scheduler_file_that_is_not_there(tmp_path):
    done = run("--scheduler-file", str(tmp_path / "none.json"), "--no-nanny", "--death-timeout=1")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_scheduler_that_comes_later():
    """There is no hurry: the worker waits for it."""
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
    process = subprocess.Popen(
        [*COMMAND, f"tcp://127.0.0.1:{port}", "--no-nanny"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert any("Waiting to connect to" in line for line in process.stderr)
        with distributed.LocalCluster(
            n_workers=0,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            scheduler_port=port,
            dashboard_address=":0",
        ) as cluster:
            with distributed.Client(cluster) as client:
                client.wait_for_workers(1, timeout=30)
                assert client.submit(inc, 1).result(timeout=30) == 2
        process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=60)


@pytest.mark.parametrize("options", [("--no-nanny", "--worker-port"), ("--nanny", "--nanny-port")])
def test_a_port_that_is_taken(options):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run(NOBODY, "--host", "127.0.0.1", *options, str(port))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr or options[0] == "--nanny"
    last = done.stderr.splitlines()[-1]
    says = rf"Error: \w+ failed to start.* Address already in use \({options[1]} {port}\)"
    assert re.match(says, last), done.stderr


# what is wrong is said in one line


@pytest.mark.parametrize("arguments", [["tcp://127.0.0.1:1"], ["scheduler"], ["demo"]])
def test_a_distributed_that_is_too_old(tmp_path, arguments):
    (tmp_path / "sitecustomize.py").write_text(
        "import distributed\ndistributed.__version__ = '2024.1.0'\n"
    )
    done = run(*arguments, env={"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"Error: fastworker needs distributed 2025\.12\.0 or newer, and 2024\.1\.0 is installed; "
        r"pip install --upgrade .*\n",
        done.stderr,
    )


def options(authority: Authority) -> list[str]:
    certificate, key = authority.issue()
    return [f"--tls-ca-file={authority.ca_file}", f"--tls-cert={certificate}", f"--tls-key={key}"]


@pytest.mark.parametrize(
    ("scheduler", "worker", "scheme", "said"),
    [
        ("ours", None, "tls", "certificates are named by --tls-ca-file"),
        ("ours", None, "tcp", "the address of a scheduler with TLS is like tls://"),
        ("ours", "theirs", "tls", "certificates are named by --tls-ca-file"),
        (None, "ours", "tls", "the address of a scheduler without TLS is like tcp://"),
    ],
)
def test_tls_that_does_not_match(tmp_path, scheduler, worker, scheme, said):
    authorities = {name: Authority(tmp_path, name) for name in ("ours", "theirs")}
    with Launcher(tmp_path) as launcher:
        tls = ["--protocol=tls", *options(authorities[scheduler])] if scheduler else []
        address = launcher.scheduler("--no-dashboard", *tls).address
        address = f"{scheme}://{address.partition('://')[2]}"
        done = run(address, "--no-dashboard", *(options(authorities[worker]) if worker else []))
    assert done.returncode == 1
    *_, line = done.stderr.splitlines()
    assert line.startswith("Error: Nanny failed to start.")
    assert said in line
    assert "Traceback" not in done.stderr
