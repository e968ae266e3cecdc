"""The outbox is tested over either comm."""

from __future__ import annotations

import pytest
from comm_pairs import MAKES, registered


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.startswith("test_outbox"):
        metafunc.parametrize("comm_make", MAKES, indirect=True)


@pytest.fixture(autouse=True)
def comm_make(request: pytest.FixtureRequest):
    """``tcp://`` and ``tls://`` are of this make during the test; as they were if it has none."""
    make = getattr(request, "param", None)
    if make is None:
        yield
    else:
        with registered(make):
            yield
