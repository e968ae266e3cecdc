"""The worker's dashboard, which loads at the first request for one of its pages.

Bokeh and the code of the pages take a fifth of an idle worker's memory and half of the time that it
takes to start. Few workers are ever asked for a page: the scheduler's dashboard has their figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
from typing import TYPE_CHECKING, Any

import dask
from distributed.http.routing import DirectoryHandler
from tornado.httputil import HTTPHeaders, HTTPMessageDelegate
from tornado.routing import PathMatches, Rule
from tornado.web import Application, RequestHandler

if TYPE_CHECKING:
    from collections.abc import Awaitable

    import distributed
    from distributed.http.routing import RoutingApplication
    from distributed.node import ServerNode
    from tornado.httpserver import HTTPServer
    from tornado.httputil import HTTPServerRequest, RequestStartLine, ResponseStartLine

logger = logging.getLogger("distributed.worker")

#: The settings that distributed passes to bokeh, as configured when the worker started.
SETTINGS = "distributed.scheduler.dashboard.bokeh-application"


def load_dashboard_late(worker: distributed.Worker) -> None:
    """Keep distributed from loading the dashboard of a worker that has just begun to serve pages.

    It would do so right after ``start_http_server``.
    """
    if worker._dashboard:
        worker._dashboard = False
        LatePages(worker.http_application, worker.http_server, worker, worker._http_prefix)


class LatePages:
    """Takes the dashboard's place among the applications of a server of HTTP.

    The server asks it for pages that it does not have itself. At the first such request it
    puts the dashboard into its place, or an empty application if bokeh is not installed. Belongs to
    the thread of the event loop.

    Parameters
    ----------
    application
        Of the server, distributed's ``RoutingApplication``.
    server
        The server.
    node
        What the dashboard is about: a worker.
    prefix
        What the paths of all pages begin with.
    """

    def __init__(
        self, application: RoutingApplication, server: HTTPServer, node: ServerNode, prefix: str
    ) -> None:
        self._application = application
        self._server = server
        self._node = node
        self._prefix = prefix
        self._settings = dict(dask.config.get(SETTINGS))
        self._loaded = False
        application.add_application(self)
        # Before distributed's own handler, which reads the pages without waiting for them
        router = application.default_router
        sitemap = Rule(PathMatches("/sitemap.json"), LateSitemap, {"pages": self})
        router.rules.insert(0, router.process_rule(sitemap))

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        return LateHandler(self, request)

    async def handler(self, request: HTTPServerRequest) -> Any:
        """The server's handler for a request, found once the dashboard is in its place."""
        await self.load()
        return self._application.find_handler(request)

    async def load(self) -> None:
        """Put the dashboard into its place. A thread imports it, for a second or more."""
        await asyncio.get_running_loop().run_in_executor(None, _import_dashboard)
        if self._loaded:
            return  # by another request
        try:
            from distributed.dashboard.worker import connect
        except ImportError:
            logger.debug("To start diagnostics web server please install Bokeh")
            self.add_application(Application())
        else:
            with dask.config.set({SETTINGS: self._settings}):
                connect(self, self._server, self._node, prefix=self._prefix)

    def add_application(self, pages: Any) -> None:
        """Called by distributed with the dashboard."""
        applications = self._application.applications
        applications[applications.index(self)] = pages
        self._loaded = True


class LateSitemap(DirectoryHandler):
    """distributed's list of all pages, once those of the dashboard are among them."""

    def initialize(self, pages: LatePages) -> None:
        self._pages = pages

    async def prepare(self) -> None:
        await self._pages.load()


class LateHandler(HTTPMessageDelegate):
    """Stands for the handler of one request until the dashboard is loaded."""

    #: distributed reads it to tell a page from a "not found" answer.
    handler_class = RequestHandler

    def __init__(self, pages: LatePages, request: HTTPServerRequest) -> None:
        self._pages = pages
        self._request = request
        self._handler: HTTPMessageDelegate | None = None

    async def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> None:
        # tornado reads no body before this is done
        self._handler = await self._pages.handler(self._request)
        done = self._handler.headers_received(start_line, headers)
        if done is not None:
            await done

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._handler is not None
        return self._handler.data_received(chunk)

    def finish(self) -> None:
        assert self._handler is not None
        self._handler.finish()

    def on_connection_close(self) -> None:
        if self._handler is not None:
            self._handler.on_connection_close()


def _import_dashboard() -> None:
    # Without bokeh, or with a version that distributed does not support, there is none
    with contextlib.suppress(ImportError):
        importlib.import_module("distributed.dashboard.worker")
