"""Libraries' own tests of Dask, out of their wheels, with fastworker's classes in place.

What passes with stock passes with ours. Stock runs only what has failed twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
UPSTREAM = HERE.parents[1] / "ci" / "upstream"
OURS, STOCK = "worker,state,task,comm", "none"

SUITES = ["dask.tests.test_distributed", "joblib.test.test_dask", "xarray.tests.test_distributed"]


def run(module: str, classes: str, directory: Path, names: list[str] | None) -> dict[str, str]:
    """Run a suite, or those of its tests; their outcomes by name.

    Raises RuntimeError when pytest did not get to its end.
    """
    record = directory / "record.jsonl"
    record.unlink(missing_ok=True)
    tests = [module] if names is None else [f"{module}::{name}" for name in names]
    process = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-o", "addopts="),
            *("-p", "pytest_timeout", "-p", "upstream_plugin", "-p", "loop_fixtures"),
            *("-p", "no:cacheprovider", "--timeout", "120"),
            *("--fastworker", classes, "--fastworker-record", str(record), "--pyargs", *tests),
        ],
        cwd=directory,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(UPSTREAM), str(HERE)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=840,
    )
    if process.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{process.stdout[-4000:]}")
    print(process.stdout[-4000:])
    lines = map(json.loads, record.read_text().splitlines())
    return {line["id"].rpartition("::")[2]: line["outcome"] for line in lines if "id" in line}


def failures(outcomes: dict[str, str]) -> list[str]:
    return [name for name, outcome in outcomes.items() if outcome in ("failed", "error")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", SUITES)
def test_suite(module: str, tmp_path: Path) -> None:
    pytest.importorskip(module.partition(".")[0])
    outcomes = run(module, OURS, tmp_path, None)
    print(Counter(outcomes.values()))
    assert "passed" in outcomes.values()
    failed = failures(outcomes)
    if failed:
        failed = failures(run(module, OURS, tmp_path, failed))
    if failed:
        with_stock = failures(run(module, STOCK, tmp_path, failed))
        failed = [name for name in failed if name not in with_stock]
    assert not failed
