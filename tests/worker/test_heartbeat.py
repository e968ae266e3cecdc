"""What a heartbeat tells and records, and what it says in the log."""

from __future__ import annotations

import logging

from beside_stock import as_stock
from distributed.utils_test import captured_logger


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
