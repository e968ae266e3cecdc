"""The options of benchmarks, their fixtures and their summary; see `versus`."""

from __future__ import annotations

import json
from pathlib import Path
from time import thread_time
from typing import Any

import pytest

from versus import RECORDER, Record, Recorder, Versus


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastworker benchmarks")
    group.addoption("--short", action="store_true", help="take fewer rounds")
    group.addoption("--ratios", metavar="FILE", type=Path, help="write the ratios to FILE as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RECORDER] = Recorder(config.getoption("--short"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=thread_time))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    ratios = config.stash[RECORDER].ratios
    path = config.getoption("--ratios")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config.stash[RECORDER].as_json(), indent=1) + "\n")
    if not ratios:
        return
    terminalreporter.section("stock and fastworker, in turn, in this run")
    width = max(map(len, ratios))
    line = f"{'':{width}}  {'stock':>10} {'ours':>10} {'unit':14} {'ratio':>8}  target"
    terminalreporter.write_line(line)
    for name, r in sorted(ratios.items()):
        verdict = {True: f"{r.target}: met", False: f"{r.target}: MISSED", None: ""}[r.met]
        terminalreporter.write_line(
            f"{name:{width}}  {r.stock:10.3f} {r.ours:10.3f} {r.unit:14} {r.ratio:8.2f}  {verdict}"
        )


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    return Record(request)


@pytest.fixture
def versus(benchmark: Any, record: Record) -> Versus:
    return Versus(benchmark, record)
