"""Tests that run with distributed's own worker too, which says what is right."""

from __future__ import annotations

import inspect

import distributed
import pytest
from distributed import Nanny
from distributed.utils_test import gen_cluster

import fastworker
from support.in_process import ONE_WORKER

WORKERS = {"stock": distributed.Worker, "ours": fastworker.Worker}


def as_stock(nthreads=ONE_WORKER, nanny=False, **kwargs):
    """A decorator like ``in_process.cluster``, for a test with both kinds of workers.

    Parameters of the test's own are keyword-only.
    """

    def decorate(test):
        @pytest.mark.parametrize("kind", WORKERS)
        def both(kind, **parameters):
            worker = {"Worker": WORKERS[kind]}
            if nanny:
                worker = {"Worker": Nanny, "worker_kwargs": {"worker_class": WORKERS[kind]}}
            run = gen_cluster(client=True, nthreads=nthreads, timeout=60, **worker, **kwargs)
            run(test)(**parameters)

        both.__name__ = test.__name__
        both.__doc__ = test.__doc__
        both.__signature__ = inspect.Signature(
            [
                inspect.Parameter("kind", inspect.Parameter.POSITIONAL_OR_KEYWORD),
                *(
                    p
                    for p in inspect.signature(test).parameters.values()
                    if p.kind == p.KEYWORD_ONLY
                ),
            ]
        )
        return both

    return decorate
