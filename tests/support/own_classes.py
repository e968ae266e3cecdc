"""Classes of a user's, where worker processes can import them, and a question to workers."""

from __future__ import annotations

import os

import fastworker


class OwnWorker(fastworker.Worker):
    pass


class OwnNanny(fastworker.Nanny):
    pass


def process_and_class(dask_worker: fastworker.Worker) -> tuple[int, str]:
    return os.getpid(), type(dask_worker).__name__
