"""An error inside the core: the worker closes and says what it knew, its tasks run elsewhere."""

from __future__ import annotations

import distributed
import pytest
from distributed.core import Status
from distributed.utils_test import gen_test
from distributed.worker_state_machine import InvalidTransition, SecedeEvent

import fastworker
from fastworker.monitoring.breakdown import MAX_CHARS, dump
from support.in_process import gate, until


def on_a_thread(worker, held):
    """The thread comes back with a task whose run the core knows nothing of."""
    del worker.state.tasks["x"]
    held.opened.set()


def in_a_transition(worker, held):
    with pytest.raises(InvalidTransition):
        worker.handle_stimulus(
            SecedeEvent(key="memory", compute_duration=1.0, stimulus_id="broken")
        )


def in_an_event(worker, held):
    with pytest.raises(TypeError):
        worker.handle_stimulus("no event")


@pytest.mark.parametrize("fail", [on_a_thread, in_a_transition, in_an_event])
@gen_test()
async def test_another_worker_takes_over(caplog, fail):
    # Not in a cluster whose end is to validate all states
    async with (
        distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
        fastworker.Worker(s.address, nthreads=1) as a,
        fastworker.Worker(s.address, nthreads=1) as b,
        distributed.Client(s.address, asynchronous=True) as c,
    ):
        await run_while_one_breaks(c, s, a, b, caplog, fail)


async def run_while_one_breaks(c, s, a, b, caplog, fail):
    secret = "the value of an argument"
    with gate(fail.__name__) as held:
        x = c.submit(held.pass_through, secret, key="x")
        await until(held.entered.is_set)
        broken, other = (a, b) if "x" in a.state.tasks else (b, a)
        broken.update_data({"memory": 1})
        fail(broken, held)
        await until(lambda: broken.status is Status.closed)
    assert await x == secret
    assert set(s.workers) == {other.address}
    assert s.get_events("worker-fail-hard")
    [record] = [r for r in caplog.records if r.name == "fastworker.state"]
    text = record.getMessage()
    assert "'key': 'x'" in text
    assert "Last transitions:" in text
    assert "cannot be told" not in text
    assert secret not in text


class Broken:
    """A state of which nothing can be told."""

    def __getattr__(self, name):
        raise KeyError(name)


def test_what_cannot_be_told_is_left_out():
    text = dump(Broken(), ["x"])
    assert text.count("cannot be told, KeyError") == 4
    assert len(text) < 4 * MAX_CHARS
