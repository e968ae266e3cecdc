"""What a heartbeat tells and records, and what it says in the log."""

from __future__ import annotations

import logging

from distributed.core import Status
from distributed.utils_test import captured_logger
from distributed.worker_state_machine import TaskState

from fastworker.monitoring.heartbeat import seconds_running
from support.beside_stock import as_stock
from support.in_process import ONE_WORKER, cluster


class Disappearing(dict):
    """Tasks, each of which a thread removes as soon as it has been looked up."""

    def get(self, key, default=None):
        return self.pop(key, default)

    __getitem__ = get


def test_a_task_that_goes_while_its_time_is_read():
    running, new = TaskState("running", run_id=1), TaskState("new", run_id=2)
    running.start_time = 10.0
    tasks = Disappearing(running=running, new=new)
    assert seconds_running({"running", "new", "gone"}, tasks, now=12.5) == {"running": 2.5}


@as_stock()
async def test_an_answer_that_the_worker_is_missing_is_an_answer_in_time(client, scheduler, a):
    await scheduler.remove_worker(a.address, stimulus_id="test", close=False)
    a.latency = recorded = -1.0
    with captured_logger("distributed.worker") as log:
        await a.heartbeat()
    assert "Scheduler was unaware of this worker; shutting down." in log.getvalue()
    assert a.status.name == "closed"
    assert a.latency != recorded


@as_stock()
async def test_each_heartbeat_has_a_line_for_debugging(client, scheduler, a):
    with captured_logger("distributed.worker", level=logging.DEBUG) as log:
        await a.heartbeat()
    assert f"Heartbeat: {a.address}\n" in log.getvalue()


@cluster(nthreads=ONE_WORKER, config={"distributed.comm.timeouts.connect": "100ms"})
async def test_a_heartbeat_that_closing_broke_off_is_no_error(client, scheduler, a):
    of_scheduler, a.scheduler = a.scheduler, a.rpc("tcp://127.0.0.1:1")
    try:
        with captured_logger("distributed.worker") as log:
            await a.heartbeat()
            assert log.getvalue().count("Failed to communicate with scheduler") == 1
            a.status = Status.closing
            await a.heartbeat()
            assert log.getvalue().count("Failed to communicate with scheduler") == 1
    finally:
        a.status = Status.running
        a.scheduler = of_scheduler
