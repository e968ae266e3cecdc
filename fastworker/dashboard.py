"""The worker's dashboard, which loads when somebody looks at it.

Bokeh and what draws the pages are a fifth of an idle worker's memory and half of the time that it
takes to start, and few workers are ever looked at: their figures are on the scheduler's dashboard.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import dask
from tornado.web import Application

if TYPE_CHECKING:
    from tornado.httputil import HTTPServerRequest

logger = logging.getLogger("distributed.worker")

#: What distributed passes to bokeh. It is as configured when the worker started.
SETTINGS = "distributed.scheduler.dashboard.bokeh-application"


class Dashboard:
    """A mixin of ``fastworker.Worker``, which goes before ``distributed.Worker``."""

    if TYPE_CHECKING:
        _dashboard: bool
        _http_prefix: str
        http_application: Any
        http_server: Any

    def start_http_server(self, *args: Any, **kwargs: Any) -> None:
        """Serve the worker's pages. Distributed would load the dashboard right after this."""
        super().start_http_server(*args, **kwargs)  # type: ignore[misc]
        if self._dashboard:
            self._dashboard = False
            self.http_application.add_application(LatePages(self))


class LatePages:
    """Holds the dashboard's place among the applications of the worker's HTTP server.

    It is asked for the pages that the worker itself does not have. Then it puts the dashboard where
    it was, or nothing if bokeh is not installed. Belongs to the thread of the event loop.
    """

    def __init__(self, worker: Dashboard) -> None:
        self._worker = worker
        self._settings = dict(dask.config.get(SETTINGS))

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        return self._pages().find_handler(request, **kwargs)

    @property
    def default_router(self) -> Any:
        return self._pages().default_router

    @property
    def wildcard_router(self) -> Any:
        return self._pages().wildcard_router

    def add_application(self, pages: Any) -> None:
        """Called by distributed with the dashboard."""
        applications = self._worker.http_application.applications
        applications[applications.index(self)] = self._loaded = pages

    _loaded: Any = None

    def _pages(self) -> Any:
        if self._loaded is None:
            try:
                from distributed.dashboard.worker import connect
            except ImportError:
                logger.debug("To start diagnostics web server please install Bokeh")
                self.add_application(Application())
            else:
                worker = self._worker
                with dask.config.set({SETTINGS: self._settings}):
                    connect(self, worker.http_server, worker, prefix=worker._http_prefix)
        return self._loaded
