"""Tasks that fail: the client gets the exception that was raised, and the worker goes on."""

from __future__ import annotations

import os
import time
from concurrent.futures import CancelledError

import pytest
from distributed import KilledWorker

from fastworker.demo.launcher import wait_for
from support.cluster.tasks import (
    CustomError,
    FailsToLoadOnWorkers,
    async_failure,
    end_process,
    fail_first,
    increment,
    raise_custom,
    raise_unpicklable,
    return_unpicklable,
    sleep_and_return,
    state_on_worker,
    touch_and_sleep,
)

TIMEOUT = 30


@pytest.fixture(scope="module", params=["fastworker", "worker-class"])
def shared_client(request, new_launcher):
    with new_launcher() as launcher:
        scheduler = launcher.scheduler()
        nanny = "--no-nanny" if request.param == "fastworker" else "--nanny"
        launcher.worker(scheduler.address, "--nthreads=2", nanny, kind=request.param)
        with launcher.client(scheduler, 1) as client:
            yield client


@pytest.fixture
def client(shared_client):
    """The shared cluster's client; whatever a test did, the next task runs as ever."""
    yield shared_client
    assert shared_client.submit(increment, 1, pure=False).result(timeout=TIMEOUT) == 2


def test_builtin_exception(client):
    future = client.submit(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        future.result(timeout=TIMEOUT)
    assert future.status == "error"


def test_traceback_names_the_failing_line(client):
    def divides_by_zero(x):
        return x / 0

    future = client.submit(divides_by_zero, 1)
    traceback = future.traceback(timeout=TIMEOUT)
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert names[-1] == "divides_by_zero"


def test_custom_exception_keeps_its_arguments(client):
    with pytest.raises(CustomError) as caught:
        client.submit(raise_custom, 17).result(timeout=TIMEOUT)
    assert caught.value.code == 17
    assert caught.value.detail == {"at": "a worker"}


def test_unpicklable_exception(client):
    with pytest.raises(Exception, match="a text that should survive"):
        client.submit(raise_unpicklable).result(timeout=TIMEOUT)


def test_async_exception(client):
    with pytest.raises(KeyError, match="lost"):
        client.submit(async_failure, "lost").result(timeout=TIMEOUT)


def test_dependents_fail_alike(client):
    failed = client.submit(raise_custom, 3)
    dependent = client.submit(increment, client.submit(increment, failed))
    with pytest.raises(CustomError) as caught:
        dependent.result(timeout=TIMEOUT)
    assert caught.value.code == 3


def test_argument_that_cannot_be_loaded(client):
    """The fault of one task, reported as such: its worker keeps its connection and its data."""
    kept = client.submit(increment, 41)
    token = client.run(os.getpid)
    assert kept.result(timeout=TIMEOUT) == 42
    futures = [client.submit(increment, FailsToLoadOnWorkers()), client.submit(increment, 1)]
    with pytest.raises(ValueError, match="cannot be loaded"):
        futures[0].result(timeout=TIMEOUT)
    assert futures[1].result(timeout=TIMEOUT) == 2
    assert kept.result(timeout=TIMEOUT) == 42
    assert client.run(os.getpid) == token


def test_result_that_cannot_be_pickled(client):
    """It can live on the worker; only bringing it here fails."""
    future = client.submit(return_unpicklable)
    named = client.submit(lambda lock: type(lock).__name__, future)
    assert named.result(timeout=TIMEOUT) == "lock"
    with pytest.raises(TypeError):
        future.result(timeout=TIMEOUT)


def test_retries(client):
    label = f"retries-{time.time()}"
    future = client.submit(fail_first, 2, label, retries=2)
    assert future.result(timeout=TIMEOUT) == 3
    with pytest.raises(RuntimeError, match="attempt 2"):
        client.submit(fail_first, 9, label + "-more", retries=1).result(timeout=TIMEOUT)


def test_cancelled_while_queued(client, tmp_path):
    trace = tmp_path / "trace"
    futures = client.map(lambda i: touch_and_sleep(str(trace), 0.3), range(20), pure=False)
    wait_for(trace.exists, TIMEOUT, "the first task runs")
    client.cancel(futures)
    with pytest.raises(CancelledError):
        futures[-1].result(timeout=TIMEOUT)
    wait_for(
        lambda: not any(client.processing().values()), TIMEOUT, "no cancelled task is processing"
    )
    client.submit(increment, 1, pure=False).result(timeout=TIMEOUT)
    assert trace.stat().st_size < 20


def test_released_while_running_then_wanted_again(client):
    """The worker's task goes from executing to cancelled and back to executing."""
    key = "released-and-resumed"
    future = client.submit(sleep_and_return, 5, 1.0, key=key)
    wait_for(lambda: any(client.processing().values()), TIMEOUT, "the task is processing")
    del future
    wait_for(
        lambda: client.run(state_on_worker, key).popitem()[1] == "cancelled",
        TIMEOUT,
        "the task is cancelled on the worker",
    )
    again = client.submit(sleep_and_return, 5, 1.0, key=key)
    assert again.result(timeout=TIMEOUT) == 5


def test_task_that_ends_the_worker(launcher, connect):
    """Blamed after the allowed failures; the nanny brings the worker back."""
    env = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}
    scheduler = launcher.scheduler(env=env)
    launcher.worker(scheduler.address, "--nthreads=1", "--nanny", kind="worker-class")
    client = connect(scheduler.address, n_workers=1)
    # A nanny gives up if its worker ends before it has said that it is up
    wait_for(
        lambda: (
            set(client.run(lambda dask_worker: dask_worker.status.name, nanny=True).values())
            == {"running"}
        ),
        60,
        "the nanny has its worker",
    )
    with pytest.raises(KilledWorker):
        client.submit(end_process).result(timeout=60)
    assert client.submit(increment, 1).result(timeout=60) == 2
