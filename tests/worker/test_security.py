"""What docs/security.md says of what a worker leaves on its machine."""

from __future__ import annotations

import os
import stat

import dask
import distributed
import psutil
from distributed.utils_test import gen_test

import fastworker


@gen_test()
async def test_files_are_the_users_alone(tmp_path):
    """Whatever has contents is in a directory that only the user may enter."""
    tmp_path.chmod(0o755)
    module = tmp_path / "uploaded_in_test_of_security.py"
    module.write_text("x = 1\n")
    preload = tmp_path / "preloaded_in_test_of_security.py"
    preload.write_text("x = 1\n")
    scratch = tmp_path / "scratch"
    settings = {"distributed.worker.memory.target": 0.01, "temporary-directory": str(scratch)}
    before = os.umask(0)
    try:
        with dask.config.set(settings):
            async with (
                distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
                fastworker.Worker(s.address, memory_limit="10MB", preload=str(preload)) as worker,
                distributed.Client(s.address, asynchronous=True) as c,
            ):
                results = c.map(bytes, range(300_000, 300_004))
                await distributed.wait(results)
                await c.upload_file(str(module))
                files = [path for path in scratch.rglob("*") if path.is_file()]
                spilled = [path for path in files if path.parent.name == "storage"]
                assert spilled and [path for path in files if path.name == module.name]
                for path in files:
                    within = path.relative_to(scratch).parents
                    private = any(not _modes(scratch / part) & 0o077 for part in within)
                    assert private or path.suffix in (".lock", ".dirlock"), path
                directory = worker.local_directory
        assert not os.path.exists(directory)
    finally:
        os.umask(before)


def _modes(path):
    return stat.S_IMODE(path.stat().st_mode)


@gen_test()
async def test_sockets():
    """The worker's port and that of its pages, and nothing in the file system."""
    process = psutil.Process()

    def listening():
        return {
            connection.laddr.port
            for connection in process.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }

    def unix():
        return {c.laddr for c in process.net_connections("unix") if c.laddr}

    async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s:
        ports, names = listening(), unix()
        async with fastworker.Worker(s.address, host="127.0.0.1") as worker:
            assert listening() - ports == {worker.port, worker.http_server.port}
            assert unix() == names
