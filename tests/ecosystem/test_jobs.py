"""What libraries compute on fastworker's workers is what they compute on stock's."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from distributed import Client, LocalCluster

import fastworker

sys.path.insert(0, str(Path(__file__).parent))
from jobs import JOBS, Job

NANNIES = {"stock": distributed.Nanny, "fastworker": fastworker.Nanny}

CASES = [
    pytest.param(package, job, id=job.__name__) for package, jobs in JOBS.items() for job in jobs
]


@pytest.fixture(scope="module")
def clients() -> Iterator[dict[str, Client]]:
    """A client of a cluster of two worker processes, for each make of worker."""
    made: dict[str, Client] = {}
    clusters = []
    try:
        for make, nanny in NANNIES.items():
            cluster = LocalCluster(
                worker_class=nanny,
                n_workers=2,
                threads_per_worker=2,
                dashboard_address=None,
                silence_logs=logging.ERROR,
            )
            clusters.append(cluster)
            made[make] = Client(cluster, set_as_default=False)
        yield made
    finally:
        for client in made.values():
            client.close()
        for cluster in clusters:
            cluster.close()


def assert_same(ours: Any, stock: Any) -> None:
    if isinstance(stock, Mapping):
        assert ours.keys() == stock.keys()
        for key in stock:
            assert_same(ours[key], stock[key])
    elif isinstance(stock, (float, np.ndarray, np.floating)):
        np.testing.assert_allclose(ours, stock, rtol=1e-9, atol=1e-12)
    elif isinstance(stock, Sequence) and not isinstance(stock, str):
        assert len(ours) == len(stock)
        for one, other in zip(ours, stock, strict=True):
            assert_same(one, other)
    else:
        assert ours == stock


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("package, job", CASES)
def test_same_as_on_stock(clients: dict[str, Client], package: str, job: Job) -> None:
    pytest.importorskip(package)
    results = {}
    for make, client in clients.items():
        with client.as_current():
            results[make] = job(client)
    assert_same(results["fastworker"], results["stock"])
