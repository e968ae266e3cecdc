"""What else users of Dask do with a cluster, on workers that are processes under nannies."""

from __future__ import annotations

import os
import socket
import sys
import time
import urllib.request
import warnings

import dask
import pytest
from distributed import (
    Environ,
    MultiLock,
    NannyPlugin,
    PipInstall,
    Semaphore,
    UploadDirectory,
    get_worker,
    wait,
)
from distributed.diagnostics.plugin import CondaInstall, ForwardOutput, InstallPlugin, UploadFile

from fastworker.demo.launcher import wait_for
from support.cluster.launcher import collect
from support.cluster.tasks import Ended, increment

TIMEOUT = 30


@pytest.fixture(scope="module")
def launcher(new_launcher):
    with new_launcher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def scheduler(launcher):
    return launcher.scheduler(
        env={
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
            "DASK_DISTRIBUTED__SCHEDULER__ACTIVE_MEMORY_MANAGER__INTERVAL": "100ms",
        }
    )


@pytest.fixture(scope="module")
def client(launcher, scheduler):
    """Two workers of ours under nannies, "one" and "two"."""
    for name, kind in (("one", "fastworker"), ("two", "worker-class")):
        options = ["--nthreads=2", f"--name={name}", "--memory-limit=1GB"]
        # UploadDirectory wants one of their own for each nanny
        options += ["--local-directory", str(launcher.directory / name)]
        launcher.worker(scheduler.address, *options, kind=kind)
    with launcher.client(scheduler, 2) as client:
        yield client


def infos(client):
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return {info["name"]: {**info, "address": address} for address, info in workers.items()}


def pids(client):
    return client.run(os.getpid)


def other_processes(client, before):
    """Return once two workers are there that are none of those ``before``."""

    def there():
        now = infos(client)
        if not {"one", "two"} <= now.keys():
            return False
        found = client.run(os.getpid, on_error="ignore")
        return len(found) >= 2 and not set(found.values()) & set(before.values())

    wait_for(there, TIMEOUT, "the workers have been started anew")


# Code and environment of workers


def test_upload_file(client, tmp_path):
    module = tmp_path / "uploaded_by_test.py"
    module.write_text("def answer():\n    return 42\n")
    client.upload_file(str(module))

    def ask(_):
        import uploaded_by_test

        return uploaded_by_test.answer()

    assert collect(client, client.map(ask, range(8), pure=False)) == [42] * 8
    module.write_text("def answer():\n    return 43\n")
    client.register_plugin(UploadFile(str(module)))
    assert collect(client, client.map(ask, range(8), pure=False)) == [43] * 8


def test_upload_directory(client, tmp_path):
    package = tmp_path / "package_of_test"
    package.mkdir()
    (package / "__init__.py").write_text("answer = 44\n")
    before = pids(client)
    plugin = UploadDirectory(str(package), restart_workers=True, update_path=True)
    client.register_plugin(plugin)
    other_processes(client, before)

    def ask():
        import package_of_test

        return package_of_test.answer

    assert set(client.run(ask).values()) == {44}
    client.unregister_worker_plugin(plugin.name, nanny=True)


def test_environ(client):
    before = pids(client)
    client.register_plugin(Environ({"OF_ENVIRON": "5"}), name="environ-of-test")
    other_processes(client, before)

    def look():
        return os.environ.get("OF_ENVIRON")

    assert set(client.run(look).values()) == {"5"}
    assert client.submit(look, pure=False).result(TIMEOUT) == "5"
    client.unregister_worker_plugin("environ-of-test", nanny=True)


def test_install(client, tmp_path):
    """A function of the user's runs beside the workers, and the workers are started anew."""

    def install():
        (tmp_path / f"installed-{os.getpid()}").touch()

    before = pids(client)
    plugin = InstallPlugin(install, restart_workers=True)
    client.register_plugin(plugin)
    other_processes(client, before)
    assert list(tmp_path.glob("installed-*"))
    client.unregister_scheduler_plugin(plugin.name)
    assert client.submit(increment, 1, pure=False).result(TIMEOUT) == 2


def test_pip_install(client):
    """What is there already, so that the environment stays as it is."""
    plugin = PipInstall(["pip"], pip_options=["--no-index", "--dry-run"])
    client.register_plugin(plugin)
    client.unregister_scheduler_plugin(plugin.name)
    with pytest.raises(RuntimeError, match="pip install failed"):
        client.register_plugin(PipInstall(["no-such-package-xyz"], pip_options=["--no-index"]))
    assert client.submit(increment, 1, pure=False).result(TIMEOUT) == 2


def test_conda_install(client):
    """Where there is no conda, the user hears of it, and the workers go on."""
    try:
        import conda  # noqa: F401

        pytest.skip("would change the environment of the tests")
    except ImportError:
        pass
    with pytest.raises(RuntimeError, match="conda could not be found"):
        client.register_plugin(CondaInstall(["no-such-package-xyz"]))
    assert client.submit(increment, 1, pure=False).result(TIMEOUT) == 2


def test_nanny_plugin(client, tmp_path):
    class Noted(NannyPlugin):
        name = "noted-by-nanny"

        def setup(self, nanny):
            (tmp_path / f"setup-{nanny.name}").write_text(str(os.getpid()))

        def teardown(self, nanny):
            (tmp_path / f"teardown-{nanny.name}").touch()

    client.register_plugin(Noted())
    assert {path.name for path in tmp_path.iterdir()} == {"setup-one", "setup-two"}
    nannies = {(tmp_path / f"setup-{name}").read_text() for name in ("one", "two")}
    assert not nannies & {str(pid) for pid in pids(client).values()}
    assert set(client.run(os.getppid).values()) >= {int(pid) for pid in nannies}
    client.unregister_worker_plugin("noted-by-nanny", nanny=True)
    assert {path.name for path in tmp_path.glob("teardown-*")} == {"teardown-one", "teardown-two"}


def test_requests_of_nannies(client):
    """Functions run on nannies, their logs, and the workers they start anew by name."""
    on_nannies = client.run(os.getpid, nanny=True)
    assert set(on_nannies.values()) == set(client.run(os.getppid).values())
    logs = client.get_worker_logs(nanny=True)
    assert len(logs) == 2 and all(logs.values())
    before = infos(client)
    old = pids(client)
    one = before["one"]["address"]
    client.restart_workers([one], timeout=TIMEOUT)
    wait_for(
        lambda: len(now := pids(client)) == 2 and old[one] not in now.values(), TIMEOUT, "it starts"
    )
    assert old[before["two"]["address"]] in pids(client).values()


def test_restart(client):
    future = client.submit(increment, 1, pure=False)
    wait(future, timeout=TIMEOUT)
    before = pids(client)
    client.restart(timeout=TIMEOUT)
    assert not set(before.values()) & set(pids(client).values())
    assert future.status == "cancelled"
    assert client.submit(increment, 1, pure=False).result(TIMEOUT) == 2


# What tasks tell


def test_print_and_warn(client, capsys):
    def tell():
        from distributed import print, warn

        print("printed", 1, sep="-")
        warn(UserWarning("warned of"))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        client.submit(tell, pure=False).result(TIMEOUT)
        wait_for(lambda: any("warned of" in str(w.message) for w in caught), TIMEOUT, "the warning")
    wait_for(_seen(capsys, "printed-1"), TIMEOUT, "the line")


def _seen(capsys, text):
    read = []

    def seen():
        read.append(capsys.readouterr().out)
        return text in "".join(read)

    return seen


def test_forwarded_output_and_logging(client, capsys, caplog):
    def tell():
        import logging

        print("plain print")
        logging.getLogger("of.tasks").warning("logged there")

    client.register_plugin(ForwardOutput(), name="forward-output")
    client.forward_logging("of.tasks")
    try:
        client.submit(tell, pure=False).result(TIMEOUT)
        wait_for(_seen(capsys, "plain print"), TIMEOUT, "the line")
        wait_for(lambda: "logged there" in caplog.text, TIMEOUT, "the record")
    finally:
        client.unforward_logging("of.tasks")
        client.unregister_worker_plugin("forward-output")


def test_events(client):
    heard = []

    def tell():
        get_worker().log_event("of-tasks", {"x": 1})

    client.subscribe_topic("of-tasks", heard.append)
    client.submit(tell, pure=False).result(TIMEOUT)
    wait_for(lambda: heard, TIMEOUT, "the event")
    assert heard[0][1]["x"] == 1
    assert client.get_events("of-tasks")[0][1]["x"] == 1
    client.unsubscribe_topic("of-tasks")


def test_annotations(client):
    """They reach the task on its worker, and do there what they say."""

    @dask.delayed
    def annotated():
        worker = get_worker()
        task = worker.state.tasks[worker.get_current_task()]
        return worker.name, task.annotations["mark"], task.annotations["priority"]

    with dask.annotate(workers=["two"], mark="so", priority=7):
        task = annotated()
    assert client.compute(task, optimize_graph=False).result(TIMEOUT) == ("two", "so", 7)


def test_semaphore_and_multilock(client, tmp_path):
    semaphore = Semaphore(max_leases=1, name="one-lease")

    def alone(i, semaphore):
        with semaphore, MultiLock(["a", "b"]):
            inside = tmp_path / "inside"
            inside.touch(exist_ok=False)
            time.sleep(0.01)
            inside.unlink()
        return i

    futures = client.map(alone, range(8), semaphore=semaphore, pure=False)
    assert collect(client, futures) == list(range(8))


# Memory


def test_terminated_by_its_nanny(launcher, scheduler, client):
    """A worker above the limit is ended and started anew; the task counts as its killer."""
    launcher.worker(
        scheduler.address,
        *["--nthreads=1", "--name=small", "--memory-limit=400MB", "--resources=SMALL=1"],
        env={
            "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.9",
            "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
            "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "20ms",
        },
    )
    launcher.await_workers(client, 3)

    def swell():
        held = bytearray(b"1") * 500_000_000
        time.sleep(60)
        return len(held)

    future = client.submit(swell, resources={"SMALL": 1}, pure=False)
    with pytest.raises(Exception, match="Attempted to run task"):
        future.result(TIMEOUT)
    wait_for(lambda: "small" in infos(client), TIMEOUT, "it is there again")
    client.retire_workers([infos(client)["small"]["address"]])


# Commands


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a second address of this machine")
def test_addresses_and_pages(launcher, scheduler, client):
    port, pages = free_port(), free_port()
    launcher.worker(
        scheduler.address,
        *["--nthreads=1", "--name=here", "--no-nanny", "--protocol=tcp"],
        *["--listen-address", f"tcp://0.0.0.0:{port}"],
        *["--contact-address", f"tcp://127.0.0.2:{port}"],
        *[f"--dashboard-address=127.0.0.1:{pages}", "--dashboard-prefix=/below"],
    )
    wait_for(lambda: "here" in infos(client), TIMEOUT, "it has joined")
    assert infos(client)["here"]["address"] == f"tcp://127.0.0.2:{port}"
    with urllib.request.urlopen(f"http://127.0.0.1:{pages}/health", timeout=TIMEOUT) as page:
        assert page.read() == b"ok"
    client.retire_workers([f"tcp://127.0.0.2:{port}"])


@pytest.mark.skipif(sys.platform != "linux", reason="needs the name of the loopback interface")
def test_ports_and_interface(launcher, scheduler, client):
    port, of_nanny = free_port(), free_port()
    argv = [sys.executable, "-m", "fastworker", scheduler.address, "--interface=lo"]
    argv += ["--nthreads=1", "--name=ports", f"--worker-port={port}", f"--nanny-port={of_nanny}"]
    argv += ["--no-dashboard", "--local-directory", str(launcher.directory / "scratch")]
    launcher.start("fastworker", argv)
    wait_for(lambda: "ports" in infos(client), TIMEOUT, "it has joined")
    info = infos(client)["ports"]
    assert info["address"] == f"tcp://127.0.0.1:{port}"
    assert info["nanny"] == f"tcp://127.0.0.1:{of_nanny}"
    client.retire_workers([info["address"]])


def test_lifetime_and_preloads(launcher, scheduler, client, tmp_path):
    """It leaves when its time is over, and its nanny starts it anew."""
    of_worker, of_nanny = tmp_path / "of_worker.py", tmp_path / "of_nanny.py"
    of_worker.write_text(
        "import os\ndef dask_setup(worker):\n"
        f"    open(os.path.join({str(tmp_path)!r}, f'lived-{{os.getpid()}}'), 'w')\n"
    )
    of_nanny.write_text(f"def dask_setup(nanny):\n    open({str(tmp_path / 'nanny')!r}, 'w')\n")
    launcher.worker(
        scheduler.address,
        *["--nthreads=1", "--name=short", "--lifetime=1s", "--lifetime-stagger=100ms"],
        *["--lifetime-restart", f"--preload={of_worker}", f"--preload-nanny={of_nanny}"],
    )
    wait_for(lambda: len(list(tmp_path.glob("lived-*"))) >= 2, TIMEOUT, "its second life")
    assert (tmp_path / "nanny").exists()
    launcher.processes[-1].stop()


def test_arguments_of_preloads(launcher, scheduler, client, tmp_path):
    preload = tmp_path / "taking.py"
    preload.write_text(
        "import click\n@click.command()\n@click.option('--mark')\n"
        "def dask_setup(worker, mark):\n    worker.marked = mark\n"
    )
    launcher.worker(
        scheduler.address,
        *["--nthreads=1", "--name=argued", f"--preload={preload}", "--mark", "told so"],
    )
    wait_for(lambda: "argued" in infos(client), TIMEOUT, "it has joined")
    address = infos(client)["argued"]["address"]
    marks = client.run(lambda dask_worker: dask_worker.marked, workers=[address])
    assert marks == {address: "told so"}
    client.retire_workers([address])


def test_uvloop(launcher, scheduler, client):
    pytest.importorskip("uvloop")
    launcher.worker(
        scheduler.address,
        *["--nthreads=1", "--name=uv", "--no-nanny"],
        env={"DASK_DISTRIBUTED__ADMIN__EVENT_LOOP": "uvloop"},
    )
    wait_for(lambda: "uv" in infos(client), TIMEOUT, "it has joined")
    address = infos(client)["uv"]["address"]

    def loop(dask_worker):
        return type(dask_worker.loop.asyncio_loop).__module__

    assert client.run(loop, workers=[address]) == {address: "uvloop"}
    futures = client.map(increment, range(50), workers=[address], pure=False)
    assert collect(client, futures) == list(range(1, 51))
    data = client.submit(bytes, 5_000_000, workers=[address], pure=False)
    assert client.submit(len, data, workers=["one"], pure=False).result(TIMEOUT) == 5_000_000
    client.retire_workers([address])


def test_retired(launcher, scheduler, client, tmp_path):
    """Asked to go by name, it hands over its data, ends, and its command with it."""
    process = launcher.worker(scheduler.address, "--nthreads=1", "--name=leaver")
    wait_for(lambda: "leaver" in infos(client), TIMEOUT, "it has joined")
    x = client.submit(increment, 1, workers="leaver", allow_other_workers=True, pure=False)
    wait(x, timeout=TIMEOUT)
    client.register_plugin(Ended(str(tmp_path)))
    client.retire_workers(names=["leaver"])
    assert process.wait(TIMEOUT) == 0
    assert (tmp_path / "leaver").exists()
    assert x.result(TIMEOUT) == 2
    client.unregister_worker_plugin("ended")
    launcher.processes.remove(process)
