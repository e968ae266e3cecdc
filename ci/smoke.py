"""Try an installed fastworker on a real scheduler, with what ``pip install fastworker`` brings.

    smoke.py

It starts ``dask scheduler`` and two ``fastworker`` commands in processes of their own, runs tasks
on them, and ends them. Exit status: 0 all is well; anything else, with what was wrong and the logs
of these processes, if not.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from pathlib import Path

from distributed import Client, wait

import fastworker
from fastworker.demo.launcher import Launcher, Process

COMMAND = Path(sysconfig.get_path("scripts")) / "fastworker"
PATIENCE = 60.0  # seconds for any one thing
N_TASKS = 500
NBYTES = 1 << 20  # of what one worker fetches from the other


def load_compiled() -> None:
    """Import each compiled module: a symbol that is missing here shows only then."""
    package = Path(fastworker.__file__).parent
    sources = sorted(package.rglob("*.pyx"))
    for source in sources:
        name = ".".join(source.relative_to(package.parent).with_suffix("").parts)
        origin = importlib.import_module(name).__file__
        assert str(origin).endswith(".so"), f"{name} is not compiled: {origin}"
    print(f"{len(sources)} compiled modules in {package}")


def try_command() -> None:
    """``fastworker`` is installed, and it is the version that its metadata names."""
    said = subprocess.run(
        [COMMAND, "--version"], check=True, capture_output=True, text=True, timeout=PATIENCE
    ).stdout
    assert version("fastworker") in said, said
    print(said.strip())


def try_tasks(client: Client) -> None:
    """Tasks, a transfer from one worker to the other, and a task that fails."""
    workers = client.scheduler_info(n_workers=-1)["workers"]
    for address, worker in workers.items():
        assert worker["fastworker"] == version("fastworker"), (address, worker)
        assert worker["fastworker_comm"] == "native", (address, worker)
    here, there = workers

    futures = client.map(lambda x: x * x, range(N_TASKS))
    assert client.gather(futures) == [x * x for x in range(N_TASKS)]
    total = client.submit(sum, futures).result(PATIENCE)
    assert total == sum(x * x for x in range(N_TASKS)), total
    print(f"{N_TASKS} tasks and their sum")

    data = client.submit(bytes, NBYTES, workers=[here], pure=False)
    size = client.submit(len, data, workers=[there], pure=False).result(PATIENCE)
    assert size == NBYTES, size
    holders = client.who_has([data])[data.key]
    assert set(holders) == {here, there}, holders
    assert client.gather(data) == bytes(NBYTES)
    print(f"{NBYTES} bytes from {here} to {there}")

    failed = client.submit(lambda: 1 // 0, pure=False)
    wait(failed, timeout=PATIENCE)
    error = failed.exception()
    assert isinstance(error, ZeroDivisionError), repr(error)
    after = client.submit(lambda x: x, failed, pure=False)  # never runs
    assert isinstance(after.exception(PATIENCE), ZeroDivisionError), after
    print(f"a task that fails: {error!r}")


def check_end(process: Process, cause: str) -> None:
    status = process.wait(PATIENCE)
    assert status == 0, f"{process.name} ended with status {status} after {cause}"


def main() -> None:
    load_compiled()
    try_command()
    with tempfile.TemporaryDirectory() as directory, Launcher(Path(directory)) as launcher:
        try:
            scheduler = launcher.scheduler()
            options = ["--host", "127.0.0.1", "--nthreads", "1", "--no-dashboard"]
            options += ["--local-directory", directory]
            one, other = (
                launcher.start("worker", [str(COMMAND), scheduler.address, *options])
                for _ in range(2)
            )
            with launcher.client(scheduler, 2) as client:
                try_tasks(client)
                one.ask_to_stop()
                check_end(one, "SIGTERM")
                client.shutdown()
            check_end(other, "the end of its cluster")
            check_end(scheduler, "the end of its cluster")
            print("a clean end of all processes")
        except BaseException:
            print(launcher.logs(), file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
