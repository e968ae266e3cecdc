"""Handing back, lost results and removals, on a state machine that has no scheduler."""

from __future__ import annotations

from functools import wraps

import pytest
from distributed.core import Status
from distributed.utils_test import captured_logger
from distributed.worker_state_machine import (
    ComputeTaskEvent,
    FreeKeysEvent,
    GatherDep,
    Instruction,
    PauseEvent,
)

from fastworker.control import data
from fastworker.control.hand_back import not_begun
from fastworker.control.lost_results import drop_lost
from fastworker.execution.instructions import carry_out
from support.bare_worker import BareWorker
from support.comm.pairs import run
from support.in_process import until


def bare(**options):
    """A decorator for ``async def test(worker)``; ``options`` are those of `BareWorker`."""

    def decorate(test):
        @wraps(test)
        def in_loop():
            async def with_worker():
                async with BareWorker(**options) as worker:
                    await test(worker)

            run(with_worker())

        del in_loop.__wrapped__  # pytest takes its argument for a fixture
        return in_loop

    return decorate


def pause(worker):
    """As the setter of ``fastworker.Worker.status`` does it."""
    worker.status = Status.paused
    worker.handle_stimulus(PauseEvent(stimulus_id="pause"))
    worker.hand_back.look_at_status()


def add(worker, key, *inputs, **options):
    """A task of the scheduler's; its inputs are here."""
    worker.handle_stimulus(
        ComputeTaskEvent.dummy(
            key,
            who_has={dep: [worker.address] for dep in inputs},
            stimulus_id=f"add-{key}",
            **options,
        )
    )


@bare()
async def test_what_can_be_handed_back(worker):
    pause(worker)
    worker.put(here=1)
    add(worker, "plain")
    add(worker, "with-input", "here")
    add(worker, "actor", actor=True)
    add(worker, "by-hand", "here")
    worker.state.tasks["by-hand"].by_hand = True
    assert not_begun(worker) == ["plain", "with-input"]


@bare(hand_back_after=0.01)
async def test_released_and_then_rescheduled(worker):
    """Again and again, for as long as the pause lasts."""
    pause(worker)
    for times in (1, 2):
        add(worker, "x")
        with captured_logger("fastworker.memory") as log:
            await until(lambda times=times: len(worker.sent) == times)
        assert worker.sent[-1]["op"] == "reschedule" and worker.sent[-1]["key"] == "x"
        assert "Handing back to the scheduler what it has not begun: 1 x" in log.getvalue()
        assert not worker.state.tasks
    worker.status = Status.running
    worker.hand_back.look_at_status()
    assert worker.hand_back.timer is None


@bare(hand_back_after=None)
async def test_never(worker):
    pause(worker)
    assert worker.hand_back.timer is None


@bare()
async def test_a_lost_result_and_what_needs_it(worker):
    pause(worker)
    worker.put(lost=1, other=2)
    add(worker, "x", "lost")
    add(worker, "y", "other")
    worker.sent.clear()
    with captured_logger("fastworker.data") as log:
        drop_lost(worker, "lost", "the file is gone")
    assert "A result is lost: the file is gone." in log.getvalue()
    said = [(message["op"], message["key"]) for message in worker.sent if "key" in message]
    assert said == [("release-worker-data", "lost"), ("reschedule", "x")]
    assert "x" not in worker.state.tasks and worker.state.tasks["y"].state == "ready"
    worker.sent.clear()
    drop_lost(worker, "lost", "told twice")
    assert worker.sent == []
    worker.handle_stimulus(FreeKeysEvent(keys=["y", "other"], stimulus_id="end"))


@bare()
async def test_inputs_are_not_removed_from_under_a_task(worker):
    pause(worker)
    worker.put(used=1, free=2)
    add(worker, "x", "used")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "REMOVE_AGAIN_AFTER", 0.01)
        data.remove_replicas(worker, ["used", "free", "unknown"], "remove")
        assert worker.data == {"used": 1}
        worker.handle_stimulus(FreeKeysEvent(keys=["x"], stimulus_id="free"))
        await until(lambda: not worker.data)


@bare()
async def test_names_of_transfers(worker):
    """As distributed's: with keys, but not too many, when the worker validates itself."""
    names = []
    worker._start_async_instruction = lambda name, *args, **kwargs: names.append(name)
    for debug, keys in [
        (False, ["x"]),
        (True, ["x", "y"]),
        (True, [f"key-{i}" for i in range(40)]),
    ]:
        worker.debug = debug
        carry_out(
            worker,
            [
                GatherDep(
                    worker="tcp://127.0.0.1:1", to_gather=keys, total_nbytes=1, stimulus_id="name"
                )
            ],
        )
    short, two, many = (name.removeprefix("gather_dep(tcp://127.0.0.1:1, ") for name in names)
    assert short == "{...})"
    assert two == "{x, y})"
    assert many.startswith("{key-0, key-1, ") and many.endswith("...})") and len(many) == 83


@bare()
async def test_an_odd_instruction(worker):
    class Odd(Instruction):
        pass

    with pytest.raises(TypeError, match="not an instruction of the state machine"):
        carry_out(worker, [Odd(stimulus_id="odd")])
