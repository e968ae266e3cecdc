"""docs/compatibility.md has all that the installed distributed has, and its tests exist."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import distributed
import distributed.diagnostics.plugin as plugins
import pytest
import yaml
from distributed.cli.dask_worker import main as dask_worker
from distributed.utils_test import gen_cluster

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"`([^`]+)`")
TEST = re.compile(r"`(tests/[^`]+)`")

#: A setting whose value is a mapping of the user's.
MAPPINGS = {"nanny.pre-spawn-environ", "nanny.environ", "worker.resources"}


def table() -> dict[str, dict[str, list[str]]]:
    """Of each section: what its rows name, and the tests they name for it."""
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (ROOT / "docs" / "compatibility.md").read_text().splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("|") and not line.startswith(("|---", "| name |", "| feature |")):
            _, what, tests, _ = line.split("|")
            found = TEST.findall(tests)
            for name in NAME.findall(what) or [what]:
                sections.setdefault(section, {})[name] = found
    return sections


def settings() -> Iterator[str]:
    file = Path(distributed.__file__).with_name("distributed.yaml")
    defaults = yaml.safe_load(file.read_text())["distributed"]

    def keys(prefix: str, values: object) -> Iterator[str]:
        if not isinstance(values, dict) or prefix in MAPPINGS:
            yield prefix
            return
        for key, value in values.items():
            yield from keys(f"{prefix}.{key}", value)

    for part in ("worker", "nanny"):
        yield from keys(part, defaults[part])


def routes() -> Iterator[str]:
    file = Path(distributed.__file__).with_name("distributed.yaml")
    worker = yaml.safe_load(file.read_text())["distributed"]["worker"]
    for module in worker["http"]["routes"]:
        for path, *_ in importlib.import_module(module).routes:
            yield "/" + path.lstrip("/")
    pytest.importorskip("bokeh")
    yield from importlib.import_module("distributed.dashboard.worker").applications


def options() -> set[str]:
    return {param.opts[0] for param in dask_worker.params}


BASES = (plugins.WorkerPlugin, plugins.NannyPlugin)


def hooks() -> set[str]:
    return {
        f"{base.__name__}.{name}"
        for base in BASES
        for name in {**vars(base), **base.__annotations__}
        # What it is called is no hook
        if not name.startswith("_") and name != "name"
    }


def plugin_classes() -> set[str]:
    """Those of workers and nannies, and those of the scheduler that put one there."""
    return {
        name
        for name, value in vars(plugins).items()
        if isinstance(value, type)
        and issubclass(value, (*BASES, plugins.SchedulerPlugin))
        and value not in (*BASES, plugins.SchedulerPlugin)
        and not name.startswith("_")
    }


@pytest.mark.parametrize(
    "section, installed",
    [
        ("Hooks of plugins", hooks),
        ("Plugins that come with Dask", plugin_classes),
        ("Options of the command", options),
        ("Settings", settings),
        ("Pages", routes),
    ],
)
def test_nothing_is_missing(section, installed):
    found = set(installed())
    assert found, f"distributed keeps them elsewhere: {section}"
    assert not found - table()[section].keys()


@gen_cluster(nthreads=[("127.0.0.1", 1)])
async def test_no_request_is_missing(s, worker):
    listed = table()
    nanny = distributed.Nanny(s.address)
    try:
        for section, found in (
            ("Requests to a worker", worker.handlers),
            ("Messages of the scheduler", worker.stream_handlers),
            ("Requests to a nanny", nanny.handlers),
            ("Extensions", worker.extensions),
        ):
            assert found
            assert not set(found) - listed[section].keys(), section
    finally:
        await nanny.close()


@cache
def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_the_tests_of_the_threat_model_exist():
    """Paths are given in full once, and in short after that."""
    text = (ROOT / "docs" / "security.md").read_text()
    files: dict[str, Path] = {}
    file = ROOT
    found = re.findall(r"`((?:[\w/.]+\.py)?(?:::\w+)?)`", text)
    for name, _, function in (one.partition("::") for one in found if one):
        if name.startswith("tests/"):
            file = files[Path(name).name] = ROOT / name
            assert file.is_file(), name
        elif name:
            file = files[name]
        assert not function or function in functions(file), f"{name}::{function}"
    assert len(files) > 10


def test_the_tests_exist():
    rows = [(what, tests) for section in table().values() for what, tests in section.items()]
    assert len(rows) > 100
    for what, tests in rows:
        assert tests, f"no test proves {what}"
        for test in tests:
            file, _, function = test.partition("::")
            assert (ROOT / file).is_file(), f"{what}: there is no {file}"
            assert not function or function in functions(ROOT / file), f"{what}: no {test}"
