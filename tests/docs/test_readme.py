"""The Python blocks of the README and of docs/ run, and their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.recipes import SOME_SCHEDULER

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`[^`\n]*`")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

#: What a block imports that the tests' environment may be without, and the test of such blocks.
TESTED_ELSEWHERE = {
    "dask_jobqueue": "tests/ecosystem/test_jobqueue.py",
    "dask_kubernetes": "tests/docs/test_recipes.py",
}

#: Runs a block as it is, with the things it takes for granted: a client of a cluster, and its
#: scheduler's address. The block imports what it names, or it fails.
HARNESS = """
import ast
import asyncio
import inspect
import sys

from dask.distributed import Client, LocalCluster, Worker

if __name__ == "__main__":
    script, address = sys.argv[1:]
    with (
        LocalCluster(
            n_workers=1, worker_class=Worker, protocol="tcp", dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        text = open(script).read().replace(address, cluster.scheduler_address)
        code = compile(text, script, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, {"client": client, "__name__": "__main__"})
        if inspect.iscoroutine(result):
            asyncio.run(result)
"""


def blocks() -> Iterator[object]:
    for page in PAGES:
        for number, found in enumerate(BLOCK.finditer(page.read_text())):
            yield pytest.param(textwrap.dedent(found[2]), id=f"{page.name}-{number}")


@pytest.mark.parametrize("block", list(blocks()))
def test_a_block_runs(block, tmp_path):
    for package, test in TESTED_ELSEWHERE.items():
        if f"from {package}" in block:
            pytest.skip(f"{test} reads it")
    script = tmp_path / "block.py"
    script.write_text(block)
    command = [sys.executable, str(script)]
    if '__name__ == "__main__"' not in block:
        harness = tmp_path / "harness.py"
        harness.write_text(HARNESS)
        command = [sys.executable, str(harness), str(script), SOME_SCHEDULER]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_what_the_text_names():
    """After ``import fastworker`` alone, which loads nothing else."""
    script = """
        import sys
        import fastworker
        assert "distributed" not in sys.modules
        for name in ("Worker", "Nanny", "shutdown", "core", "comm", "scheduler"):
            assert name in dir(fastworker)
        fastworker.core.WorkerState
        fastworker.comm.use
        fastworker.scheduler.LowLatency
        fastworker.scheduler.low_latency_client
        try:
            fastworker.cores
        except AttributeError as error:
            assert str(error) == "module 'fastworker' has no attribute 'cores'"
            assert error.name == "cores"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=100)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(page.read_text())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        # Where the tests of an installed package run, the sources are not beside them.
        if not target.is_relative_to(ROOT / "docs") and target.suffix != ".md":
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
