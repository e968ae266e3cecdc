"""The recipes work as they stand in docs/recipes.md; its Python blocks are test_readme's."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from distributed.cli.dask_scheduler import main as dask_scheduler
from distributed.cli.dask_worker import main as dask_worker

from fastworker.cli import worker_command
from fastworker.demo.launcher import wait_for
from fastworker.deploy.scheduler import scheduler_command
from support.certificates import Authority
from support.cluster.launcher import Launcher, collect
from support.cluster.tasks import increment, sleep_and_return, unique_token
from support.lane import stream_types
from support.recipes import PAGE, SOME_SCHEDULER, block

ROOT = PAGE.parents[1]
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: A client that takes its configuration from a file, as the processes of the launcher do.
CLIENT = """
import sys
from distributed import Client
from fastworker.scheduler import LowLatencyClient
with Client(sys.argv[1], timeout=30) as client:
    print(client.submit(sum, [1, 2, 3]).result(timeout=30), LowLatencyClient.of(client) is not None)
"""


def check_command(words: list[str]) -> None:
    """Parse a command line, without the command; click raises for what it does not know."""
    match words:
        case ["fastworker", "scheduler", *args]:
            command = scheduler_command()
        case ["fastworker", *args]:
            command = worker_command()
        case ["dask", "scheduler", *args] | ["dask-scheduler", *args]:
            command = dask_scheduler
        case ["dask", "worker", *args] | ["dask-worker", *args]:
            command = dask_worker
        case _:
            raise AssertionError(f"no command of ours or Dask's: {words}")
    command.make_context(words[0], args)


def shell_commands() -> list[str]:
    """The lines of README and recipes that start a worker or a scheduler."""
    lines = [
        line
        for page in (ROOT / "README.md", PAGE)
        for text in SHELL.findall(page.read_text())
        for line in text.splitlines()
    ]
    return [line for line in lines if re.match(r"fastworker (?!demo|doctor)|dask ", line)]


@pytest.mark.parametrize("line", sorted(set(shell_commands())))
def test_commands_are_understood(line):
    check_command(shlex.split(line, comments=True))


def configured(launcher: Launcher, tmp_path: Path, text: str) -> None:
    """Give all processes of the launcher a configuration file with this text."""
    (tmp_path / "recipe.yaml").write_text(text)
    launcher.env["DASK_CONFIG"] = str(tmp_path)


def said_by_client(launcher: Launcher, address: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, address],
        env=launcher.environment(),
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("way", ["file", "environment"])
def test_lane_by_configuration(launcher, connect, tmp_path, way):
    if way == "file":
        configured(launcher, tmp_path, block("The lane by configuration", "yaml"))
    else:
        for line in block("The lane by configuration", "sh").splitlines():
            [assignment] = shlex.split(line.removeprefix("export "))
            name, _, value = assignment.partition("=")
            launcher.env[name] = value
    scheduler = launcher.scheduler("--no-dashboard")
    launcher.worker(scheduler.address, "--no-nanny", "--no-dashboard")
    client = connect(scheduler.address, 1)
    assert client.run_on_scheduler(stream_types)["workers"] == ["EagerSend"]
    assert said_by_client(launcher, scheduler.address) == "6 True"


def test_tls(launcher, tmp_path):
    text = block("TLS", "yaml")
    authority = Authority(tmp_path)
    text = text.replace("/etc/dask/ca.pem", str(authority.ca_file))
    for role in ("scheduler", "worker", "client"):
        certificate, key = authority.issue(role)
        text = text.replace(f"/etc/dask/{role}.pem", str(certificate))
        text = text.replace(f"/etc/dask/{role}-key.pem", str(key))
    assert "/etc/dask" not in text
    configured(launcher, tmp_path, text)
    scheduler = launcher.scheduler("--protocol", "tls", "--no-dashboard")
    assert scheduler.address.startswith("tls://")
    launcher.worker(scheduler.address, "--no-nanny", "--no-dashboard")
    assert said_by_client(launcher, scheduler.address) == "6 False"


def test_uvloop(launcher, connect, tmp_path):
    pytest.importorskip("uvloop")
    configured(launcher, tmp_path, block("uvloop", "yaml"))
    scheduler = launcher.scheduler("--no-dashboard")
    launcher.worker(scheduler.address, "--no-nanny", "--no-dashboard")
    client = connect(scheduler.address, 1)

    async def loop():
        import asyncio

        return type(asyncio.get_running_loop()).__module__

    assert set(client.run(loop).values()) == {"uvloop"}
    assert client.gather(client.map(increment, range(100))) == [*range(1, 101)]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_unit(tmp_path):
    text = block("systemd", "ini")
    [command] = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    path, *args = shlex.split(command)
    check_command([Path(path).name, *args])
    assert "User=dask\n" in text  # a user who is not here
    unit = tmp_path / "fastworker.service"
    unit.write_text(text.replace(path, sys.executable).replace("User=dask", "User=root"))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_kubernetes_resource():
    resource = yaml.safe_load(block("dask-kubernetes", "yaml"))
    assert (resource["kind"], resource["apiVersion"]) == (
        "DaskCluster",
        "kubernetes.dask.org/v1",
    )
    for role in ("worker", "scheduler"):
        [container] = resource["spec"][role]["spec"]["containers"]
        check_command(container["args"])
    [container] = resource["spec"]["scheduler"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    service = resource["spec"]["scheduler"]["service"]
    assert {port["targetPort"] for port in service["ports"]} == ports
    assert container["readinessProbe"]["httpGet"]["port"] in ports
    assert service["selector"]["dask.org/cluster-name"] == resource["metadata"]["name"]


def test_kube_cluster():
    """dask-kubernetes starts ``worker_command`` with these options and an address in a variable."""
    [call] = [
        node
        for node in ast.walk(ast.parse(block("dask-kubernetes", "python")))
        if isinstance(node, ast.Call)
    ]
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    theirs = ["--name", "$(DASK_WORKER_NAME)", "--dashboard", "--dashboard-address", "8788"]
    check_command([options["worker_command"], *theirs])
    [line] = [
        line
        for line in block("The lane by configuration", "sh").splitlines()
        if "SCHEDULER" in line
    ]
    [[name, value]] = options["env"].items()
    assert shlex.split(line) == ["export", f"{name}={value}"]


def test_helm_values():
    """The chart makes these commands of its values."""
    values = yaml.safe_load(block("Helm", "yaml"))
    scheduler, worker = values["scheduler"], values["worker"]
    address = "dask-scheduler:8786"
    check_command(
        ["dask-scheduler", "--port=8786", "--dashboard-address=:8787", *scheduler["extraArgs"]]
    )
    check_command(
        [
            *[worker["image"]["dask_worker"], address, "--no-dashboard"],
            *["--dashboard-address", "8790", *worker["extraArgs"]],
        ]
    )


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_rolling_change(launcher, connect, tmp_path):
    """Stock workers are replaced one by one while a job runs, and then come back."""
    there = block("A rolling change, and back", "python")
    assert there.count("not in worker") == 1
    back = there.replace("not in worker", "in worker")
    options = ["--nthreads", "1", "--no-dashboard"]
    scheduler = launcher.scheduler("--no-dashboard")
    workers = [launcher.worker(scheduler.address, *options, kind="stock") for _ in range(2)]
    client = connect(scheduler.address, 2)
    done = client.map(unique_token, range(200), pure=False)
    tokens = collect(client, done)
    for kind, text in (("fastworker", there), ("stock", back)):
        script = tmp_path / f"to-{kind}.py"
        script.write_text(text.replace(SOME_SCHEDULER, scheduler.address))
        for _ in range(2):
            running = client.map(sleep_and_return, range(50), seconds=0.1, pure=False)
            workers.append(launcher.worker(scheduler.address, *options, kind=kind))
            client.wait_for_workers(3, timeout=60)
            subprocess.run([sys.executable, script], check=True, timeout=60)
            wait_for(lambda: sum(worker.running for worker in workers) == 2, 30, "one has left")
            assert collect(client, running) == [*range(50)]
        joined = client.scheduler_info(n_workers=-1)["workers"].values()
        assert ["fastworker" in worker for worker in joined] == [kind == "fastworker"] * 2
    # No result of before was lost and made again
    assert collect(client, done) == tokens
    assert [w.popen.returncode for w in workers if not w.running] == [0] * 4
