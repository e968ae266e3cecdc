"""The worker's pages: those of bokeh load at the first request for one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import dask
import distributed
import pytest
from distributed.node import ServerNode
from distributed.utils_test import gen_cluster, gen_test
from tornado.httpclient import AsyncHTTPClient, HTTPResponse

import fastworker
from fastworker.monitoring.dashboard import LatePages

pytest.importorskip("bokeh")

PAGES = ["status", "counters", "system", "profile", "profile-server"]
OTHERS = ["", "favicon.ico", "static/js/bokeh.min.js", "status/metadata", "health", "no-such-page"]

no_workers = {"nthreads": [], "timeout": 60}
one_worker = {**no_workers, "nthreads": [("127.0.0.1", 1)], "Worker": fastworker.Worker}


async def get(worker: distributed.Worker, path: str) -> HTTPResponse:
    url = f"http://127.0.0.1:{worker.http_server.port}/{path}"
    return await AsyncHTTPClient().fetch(url, raise_error=False)


@pytest.mark.parametrize("path", [*PAGES, *OTHERS, "sitemap.json"])
def test_the_first_request_is_answered_as_stock_does(path):
    @gen_cluster(**no_workers)
    async def answers(s):
        codes = []
        bodies = []
        for worker_class in (distributed.Worker, fastworker.Worker):
            async with worker_class(s.address, dashboard=True) as worker:
                first, again = await get(worker, path), await get(worker, path)
                assert first.code == again.code
                assert path not in PAGES or b"bokeh" in first.body.lower()
                codes.append((first.code, first.headers.get("Content-Type")))
                if path == "sitemap.json":
                    assert first.body == again.body
                    bodies.append(first.body)
        assert codes[0] == codes[1]
        assert bodies[:1] == bodies[1:]

    answers()


@gen_cluster(**{**one_worker, "worker_kwargs": {"dashboard": True, "http_prefix": "some/where"}})
async def test_pages_are_below_the_prefix(s, a):
    assert b"bokeh" in (await get(a, "some/where/status")).body.lower()
    assert (await get(a, "status")).code == 404


@gen_cluster(**one_worker)
async def test_there_are_none_unless_wanted(s, a):
    assert a.http_application.applications == []
    assert (await get(a, "status")).code == 404


@gen_cluster(**no_workers)
async def test_the_settings_are_those_of_the_start(s):
    settings = "distributed.scheduler.dashboard.bokeh-application.keep_alive_milliseconds"
    with dask.config.set({settings: 1234}):
        worker = fastworker.Worker(s.address, dashboard=True)
        await worker
    async with worker:
        assert (await get(worker, "status")).code == 200
        [pages] = worker.http_application.applications
        assert pages._keep_alive_milliseconds == 1234
        assert dask.config.get(settings) != 1234


@gen_test()
async def test_pages_of_a_server_without_a_cluster():
    async with ServerNode({}, needs_workdir=False) as node:
        node.services = {}
        node.start_http_server([], "127.0.0.1:0")
        application = node.http_application
        try:
            late = LatePages(application, node.http_server, node, "/")
            assert application.applications == [late]
            answers = await asyncio.gather(*(get(node, "no-such-page") for _ in range(3)))
            assert [answer.code for answer in answers] == [404, 404, 404]
            [pages] = application.applications
            assert pages is not late
            assert b"bokeh" in (await get(node, "static/js/bokeh.min.js")).body.lower()
            assert application.applications == [pages]
        finally:
            node.http_server.stop()


def run(script: str, directory: Path) -> None:
    """Run it in a process of its own, where bokeh is not loaded."""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=directory, timeout=60)


def test_without_bokeh_the_rest_is_served(tmp_path):
    script = """if True:
        import asyncio, sys
        sys.modules["bokeh"] = None
        import distributed, fastworker
        from tornado.httpclient import AsyncHTTPClient

        async def main():
            async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False) as s:
                async with fastworker.Worker(s.address, dashboard=True) as worker:
                    url = f"http://127.0.0.1:{worker.http_server.port}/"
                    for path, code in 2 * [("status", 404), ("health", 200), ("sitemap.json", 200)]:
                        client = AsyncHTTPClient()
                        response = await client.fetch(url + path, raise_error=False)
                        assert response.code == code, (path, response)
                    assert b"/health" in response.body

        asyncio.run(main())
    """
    run(script, tmp_path)


def test_a_worker_without_visitors_has_not_loaded_bokeh(tmp_path):
    script = """if True:
        import asyncio, sys
        import distributed, fastworker

        async def main():
            async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False) as s:
                async with fastworker.Worker(s.address, dashboard=True) as worker:
                    assert worker.service_ports["dashboard"]
            assert "bokeh" not in sys.modules

        asyncio.run(main())
    """
    run(script, tmp_path)


@pytest.mark.parametrize(
    "requests",
    [
        [("no-such-page", None, 404), ("status", None, 200), ("status", b"x" * 100_000, 405)],
        # distributed has no list of pages to give where bokeh's static files are among them
        [("sitemap.json", None, 500)],
    ],
    ids=["pages", "sitemap"],
)
def test_the_event_loop_goes_on_while_bokeh_loads(tmp_path, requests):
    script = """if True:
        import asyncio, sys, threading
        import distributed, fastworker
        from tornado.httpclient import AsyncHTTPClient

        class Watch:
            threads = set()

            @classmethod
            def find_spec(cls, name, path=None, target=None):
                if name == "bokeh":
                    cls.threads.add(threading.current_thread())

        async def main():
            async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard=False) as s:
                async with fastworker.Worker(s.address, dashboard=True) as worker:
                    assert "bokeh" not in sys.modules
                    sys.meta_path.insert(0, Watch)
                    url = f"http://127.0.0.1:{worker.http_server.port}/"
                    client = AsyncHTTPClient()
                    requests = @REQUESTS@
                    answers = await asyncio.gather(*(
                        client.fetch(url + path, raise_error=False, body=body, method=method)
                        for path, body, _ in requests
                        for method in ["POST" if body else "GET"]
                    ))
                    assert [answer.code for answer in answers] == [code for *_, code in requests]
            assert Watch.threads and threading.main_thread() not in Watch.threads

        asyncio.run(main())
    """
    run(script.replace("@REQUESTS@", repr(requests)), tmp_path)
