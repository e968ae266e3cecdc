"""The fixtures of ``tests/cluster`` for whole clusters, for the tests of the scheduler's lane."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLUSTER = HERE.parent / "cluster"
sys.path[:0] = [str(HERE), str(CLUSTER)]

# By path: every folder's conftest has the same name.
_spec = importlib.util.spec_from_file_location("cluster_conftest", CLUSTER / "conftest.py")
assert _spec is not None and _spec.loader is not None
_cluster = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_cluster)

connect = _cluster.connect
new_launcher = _cluster.new_launcher
pytest_runtest_makereport = _cluster.pytest_runtest_makereport


@pytest.fixture
def launcher(tmp_path_factory: pytest.TempPathFactory):
    """As in ``tests/cluster``; the processes can import ``lane_tasks`` as well."""
    with _cluster._launcher(tmp_path_factory) as launcher:
        path = [str(HERE), str(CLUSTER), *filter(None, [os.environ.get("PYTHONPATH")])]
        launcher.env["PYTHONPATH"] = os.pathsep.join(path)
        yield launcher
