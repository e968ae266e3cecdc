"""A pytest plugin: the fixtures of distributed's tests, for suites that take them for granted."""

from __future__ import annotations

import importlib

import pytest


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    # Not before: its helpers subclass the worker, which has been exchanged by now
    config.pluginmanager.register(importlib.import_module("distributed.utils_test"))
