"""Which worker is fastworker, and of which version; and where its own lines are logged."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap

import dask
import distributed
import pytest
from distributed.security import Security
from distributed.utils_test import captured_logger, gen_cluster, gen_test
from tornado.httpclient import AsyncHTTPClient

import fastworker
from fastworker.monitoring.identity import comm_to
from support.in_process import ONE_WORKER, cluster

VERSION = fastworker.__version__


def test_the_comm_to_an_address():
    assert comm_to("tcp://127.0.0.1:1") == fastworker.comm.in_use()["tcp"]
    assert comm_to("127.0.0.1:1") == comm_to("tcp://127.0.0.1:1")
    assert comm_to("inproc://127.0.0.1/1/2") == "inproc"


@cluster(nthreads=ONE_WORKER)
async def test_what_the_cluster_knows(client, scheduler, a):
    async with distributed.Worker(scheduler.address) as stock:
        versions = (await client.get_versions(check=True))["workers"]
        assert versions[a.address]["fastworker"] == VERSION
        assert "fastworker" not in versions[stock.address]
        info = scheduler.identity()
        assert info["workers"][a.address]["fastworker"] == VERSION
        assert "fastworker" not in info["workers"][stock.address]
        assert info["workers"][a.address]["fastworker_comm"] == "native"
        assert info["workers"][a.address]["type"] == "Worker"
        dump = a._to_dict()
        assert (dump["fastworker"], dump["fastworker_comm"]) == (VERSION, "native")


@gen_cluster(nthreads=[], timeout=60)
async def test_the_log_of_the_start(scheduler):
    with captured_logger("fastworker.worker", logging.INFO) as log:
        async with fastworker.Worker(scheduler.address) as worker:
            assert any(VERSION in line for _, line in worker.get_logs())
    assert log.getvalue().split() == ["fastworker:", f"{VERSION},", "comm:", "native"]


COMMS_IN_USE = """
    import asyncio, sys, distributed, fastworker
    async def main(protocol):
        async with distributed.Scheduler(protocol=protocol, port=0, dashboard_address=":0") as s:
            async with fastworker.Worker(s.address) as worker:
                line = next(line for _, line in worker.get_logs() if "fastworker:" in line)
                print(s.identity()["workers"][worker.address]["fastworker_comm"], line.split()[-1])
    if __name__ == "__main__":
        fastworker.comm.use("tornado")
        for protocol in ("tcp://", "inproc://"):
            asyncio.run(main(protocol))
"""


def test_the_comm_that_it_has():
    """A process of its own, as `use` is for good."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COMMS_IN_USE)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["tornado tornado", "inproc inproc"], done.stderr


@gen_cluster(nthreads=[], timeout=60)
async def test_information_of_the_user_comes_first(scheduler):
    mine = {"fastworker": lambda worker: "mine"}
    async with fastworker.Worker(scheduler.address, startup_information=mine) as worker:
        assert scheduler.workers[worker.address].extra["fastworker"] == "mine"


@cluster(nthreads=ONE_WORKER)
async def test_metrics(client, scheduler, a):
    pytest.importorskip("prometheus_client")
    url = f"http://127.0.0.1:{a.http_server.port}/metrics"
    page = (await AsyncHTTPClient().fetch(url)).body.decode()
    assert f'dask_fastworker_info{{version="{VERSION}"}} 1.0' in page


def output_of(script, config, tmp_path):
    """Standard error of a process with that configuration of Dask."""
    (tmp_path / "dask.yaml").write_text(textwrap.dedent(config))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={"DASK_CONFIG": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    return [line for line in done.stderr.splitlines() if ".room " in line]


LINES = """
    from fastworker.config.logs import get_logger
    import logging
    for logger in (get_logger("room"), logging.getLogger("distributed.room")):
        logger.debug("low")
        logger.info("middle")
        logger.error("high")
"""


@pytest.mark.parametrize(
    "config, expected",
    [
        ("", ["room middle", "room high"]),
        ("logging: {distributed: error}", ["room high"]),
        ("distributed: {logging: {distributed: debug}}", ["room low", "room middle", "room high"]),
    ],
)
def test_own_lines_look_and_are_filtered_as_distributeds(config, expected, tmp_path):
    form = "\ndistributed: {admin: {log-format: '%(name)s %(message)s'}}"
    if config.startswith("distributed"):
        config = config[:-1] + ", admin: {log-format: '%(name)s %(message)s'}}"
        form = ""
    lines = output_of(LINES, config + form, tmp_path)
    assert lines == [f"{of}.{line}" for of in ("fastworker", "distributed") for line in expected]


def test_a_level_of_their_own(tmp_path):
    config = """
        logging: {fastworker: debug}
        distributed: {admin: {log-format: '%(name)s %(message)s'}}
    """
    lines = output_of(LINES, config, tmp_path)
    assert [line for line in lines if line.startswith("fastworker")] == [
        "fastworker.room low",
        "fastworker.room middle",
        "fastworker.room high",
    ]


def test_a_configuration_of_the_logging_module(tmp_path):
    config = """
        logging:
          version: 1
          formatters: {f: {format: 'mine %(name)s %(message)s'}}
          handlers: {h: {class: logging.StreamHandler, formatter: f}}
          loggers: {fastworker: {level: ERROR, handlers: [h]}}
    """
    lines = output_of(LINES, config, tmp_path)
    assert lines[0] == "mine fastworker.room high"
    assert not any("fastworker" in line for line in lines[1:])


@pytest.mark.parametrize("kind", [distributed.Worker, fastworker.Worker])
@gen_test()
async def test_nothing_secret_is_told(kind, monkeypatch):
    """Neither keys of TLS nor the environment, nor a value below an unknown key."""
    pytest.importorskip("cryptography")
    secret = "xYzZy-42"
    monkeypatch.setenv("PASSWORD", secret)
    security = Security.temporary()
    tls = {"security": security, "host": "127.0.0.1"}
    with (
        captured_logger("distributed", logging.DEBUG) as log,
        captured_logger("fastworker", logging.DEBUG) as own_log,
        dask.config.set({"fastworker.comm.no-such-key": secret}),
    ):
        async with (
            distributed.Scheduler(port=0, protocol="tls", dashboard_address=":0", **tls) as s,
            kind(s.address, **tls) as worker,
            distributed.Client(s.address, asynchronous=True, security=security) as client,
        ):
            assert await client.submit(sum, [1, 2]) == 3
            url = f"http://127.0.0.1:{worker.http_server.port}/metrics"
            page = (await AsyncHTTPClient().fetch(url, raise_error=False)).body.decode()
            # The configuration is in a dump, with stock too, so that one must not put secrets there
            dump = str(worker._to_dict(exclude={"config"}))
            versions = str(await client.get_versions())
    told = [log.getvalue(), own_log.getvalue(), page, dump, versions, repr(worker)]
    for private in (secret, "PRIVATE KEY", security.tls_worker_key.splitlines()[2]):
        assert not any(private in text for text in told)
