"""What all tests share: no test may read the user's own Dask configuration."""

from __future__ import annotations

import os
import random
import string
import tempfile

import hypothesis
import pytest

# Before anything imports dask: it reads its configuration once, on import. The processes that
# tests start inherit the same empty place. Its name has no digits: dask tries to read it as a
# literal of Python's, which may warn of a number that a letter follows.
_name = "".join(random.SystemRandom().choices(string.ascii_lowercase, k=16))
os.environ["DASK_CONFIG"] = os.path.join(tempfile.gettempdir(), f"fastworker-no-config-{_name}")
os.mkdir(os.environ["DASK_CONFIG"], 0o700)
for _name in [name for name in os.environ if name.startswith("DASK_") and name != "DASK_CONFIG"]:
    del os.environ[_name]

# Every process of a test runs on this machine alone, whatever proxy the machine is set up for.
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"

# The same examples each time; HYPOTHESIS_PROFILE=random for others
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.register_profile("random")
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


@pytest.fixture(params=["native", "tornado"])
def either_comm(request: pytest.FixtureRequest):
    """Once with each comm in place in this process, whatever workers were made before."""
    from distributed.comm.registry import backends

    from fastworker.comm import selection

    before, chosen = dict(backends), selection._chosen
    selection.use(request.param)
    try:
        yield request.param
    finally:
        backends.update(before)
        selection._chosen = chosen


@pytest.fixture
def network(request: pytest.FixtureRequest):
    """A network of two hosts, disturbed as the test's parameter says; where one can be made."""
    from support.networks import NONE, network_or_skip

    with network_or_skip(getattr(request, "param", NONE)) as made:
        yield made


def pytest_unconfigure() -> None:
    """Remove the empty configuration folder."""
    import shutil

    shutil.rmtree(os.environ["DASK_CONFIG"], ignore_errors=True)
