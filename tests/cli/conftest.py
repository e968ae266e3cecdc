"""A scheduler in this process, which commands are told to join."""

from __future__ import annotations

from collections.abc import Iterator

import distributed
import pytest


@pytest.fixture
def client() -> Iterator[distributed.Client]:
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address=":0"
    ) as cluster:
        with distributed.Client(cluster) as client:
            yield client
