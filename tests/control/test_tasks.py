"""The verbs on tasks, each on a worker of a real scheduler."""

from __future__ import annotations

import asyncio
import pickle
import threading
from operator import add

import pytest
from dask._task_spec import Task, TaskRef
from dask.utils_test import inc
from distributed import Reschedule, wait
from distributed.core import Status
from distributed.utils_test import wait_for_state
from distributed.worker_state_machine import (
    RUN_ID_SENTINEL,
    ExecuteFailureEvent,
    ExecuteSuccessEvent,
)

from support.failing import Refuses, fail
from support.in_process import (
    ONE_WORKER,
    HeldTransfers,
    cluster,
    gate,
    heard,
    snapshot,
    until,
    waiting_task,
)

# add_task


@cluster(nthreads=ONE_WORKER)
async def test_add_task_runs_it_and_reports(c, s, a):
    finished = heard(s, "task-finished")
    a.add_task("mine", 5, {}, add, (1, 2), {})
    assert a.task_state["mine"] in ("executing", "memory")
    assert a.priorities["mine"] == (5, 0)
    event = await a.execute("mine")
    assert isinstance(event, ExecuteSuccessEvent)
    assert event.value == 3
    assert a.data["mine"] == 3
    await until(lambda: finished)
    assert finished[0]["key"] == "mine"
    assert finished[0]["run_id"] == 0
    # The scheduler knows of no client that wants it, and so it has it dropped.
    await until(lambda: "mine" not in a.tasks)


@cluster(nthreads=ONE_WORKER)
async def test_a_heartbeat_after_a_task_added_by_hand(c, s, a):
    """The scheduler knows no span that its time could go to."""
    a.add_task("x", 1, {}, add, (1, 2))
    await until(
        lambda: any(k[:2] == ("execute", None) for k in a.digests_total if type(k) is tuple)
    )
    assert await c.submit(inc, 1, key="y") == 2
    await a.heartbeat()
    await asyncio.sleep(0)
    assert a.status == Status.running and a.address in s.workers
    # The other one's time arrives
    [span] = s.extensions["spans"].spans.values()
    assert any(context == "execute" for context, *_ in span.cumulative_worker_metrics)


@cluster(nthreads=ONE_WORKER)
async def test_add_task_in_the_scheduler_s_stead(c, s, a):
    """A run that the scheduler has assigned, reported under its own number, is believed."""
    async with waiting_task(c, a) as (x, g):
        run_id = a.tasks["x"].run_id
        a.release_key("x", report=False)
        assert "x" not in a.tasks
        a.add_task("x", 0, {}, add, (40, 2), {}, run_id=run_id)
        g.opened.set()
        assert await x == 42


@pytest.mark.parametrize(
    "part", ["func", "args", "kwargs", "everything"], ids=lambda part: f"pickled-{part}"
)
@cluster(nthreads=ONE_WORKER)
async def test_add_task_unpickles(c, s, a, part):
    parts = {"func": int, "args": ("ff",), "kwargs": {"base": 16}}
    for name in parts if part == "everything" else [part]:
        parts[name] = pickle.dumps(parts[name])
    a.add_task("mine", 0, {}, **parts)
    assert (await a.execute("mine")).value == 255


@cluster(nthreads=ONE_WORKER)
async def test_add_task_takes_a_whole_task(c, s, a):
    task = Task("mine", add, 1, TaskRef("x"))
    a.update_data({"x": 5})
    a.add_task("mine", 0, {"x": []}, pickle.dumps(task))
    assert (await a.execute("mine")).value == 6
    with pytest.raises(TypeError, match="brings its own args"):
        a.add_task("other", 0, {"x": []}, task, (1,))
    with pytest.raises(ValueError, match=r"'other' needs \['x'\]; not in who_has"):
        a.add_task("other", 0, {}, task)
    assert "other" not in a.tasks


def take_down(g, *args, **kwargs):
    return g.pass_through((args, kwargs))


@cluster()
async def test_add_task_fetches_its_inputs(c, s, a, b):
    data = await c.scatter({"x": 1, "y": 10}, workers=[b.address])
    a.update_data({"z": 100})
    with gate("inputs") as g:
        a.add_task(
            "mine",
            0,
            {"x": [b.address], "y": [b.address], "z": []},
            take_down,
            (g, "x", ["y", "not a key"], True),
            {"z": ("z", {"deep": "x"})},
        )
        assert a.dependencies["mine"] == {"x", "y", "z"}
        assert a.waiting_for_data == {"mine": {"x", "y"}}
        await until(g.entered.is_set)
        g.opened.set()
        event = await a.execute("mine")
    assert event.value == ((1, [10, "not a key"], True), {"z": (100, {"deep": 1})})
    del data


@cluster(nthreads=ONE_WORKER)
async def test_add_task_runs_coroutine_functions(c, s, a):
    async def on_the_loop(x):
        await asyncio.sleep(0)
        return threading.get_ident(), x

    a.add_task("mine", 0, {}, on_the_loop, (7,))
    assert (await a.execute("mine")).value == (threading.get_ident(), 7)


@cluster(nthreads=ONE_WORKER)
async def test_add_task_reports_again_what_is_in_memory(c, s, a):
    x = c.submit(inc, 1, key="x")
    await x
    finished = heard(s, "task-finished")
    runs = len(a.state.stimulus_story("x"))
    a.add_task("x", 0, {}, fail, (1,), {})
    assert a.task_state["x"] == "memory"
    await until(lambda: finished)
    assert finished[0]["key"] == "x"
    assert finished[0]["run_id"] == s.tasks["x"].run_id
    assert len(a.state.stimulus_story("x")) == runs + 1
    assert await x == 2


@cluster()
async def test_add_task_reports_again_a_replica(c, s, a, b):
    """Data that was fetched is reported as a replica: no run of a task stands behind it."""
    x = c.submit(inc, 1, key="x", workers=[b.address])
    await c.submit(inc, x, key="y", workers=[a.address])
    assert a.tasks["x"].run_id == RUN_ID_SENTINEL
    added = heard(s, "add-keys")
    a.add_task("x", 0, {}, fail, (1,), {})
    await until(lambda: added)
    assert list(added[0]["keys"]) == ["x"]
    assert a.data["x"] == 2
    assert {ws.address for ws in s.tasks["x"].who_has} == {a.address, b.address}


@cluster(nthreads=ONE_WORKER)
async def test_add_task_that_waits_or_runs_already(c, s, a):
    with gate("twice") as g:
        a.add_task("runs", 0, {}, g.pass_through, (1,))
        a.add_task("waits", 0, {}, inc, (1,))
        a.add_task("runs", 0, {}, fail, (1,))
        a.add_task("waits", 0, {}, fail, (1,))
        assert a.task_state == {"runs": "executing", "waits": "ready"}
        g.opened.set()
        assert (await a.execute("runs")).value == 1
        await until(lambda: "waits" not in a.tasks)
        assert not [event for event in a.state.stimulus_log if type(event) is ExecuteFailureEvent]


@cluster(nthreads=ONE_WORKER, worker_kwargs={"resources": {"GPU": 1}})
async def test_add_task_with_resources(c, s, a):
    with gate("resources") as g:
        a.add_task("mine", 0, {}, g.pass_through, (1,), resource_restrictions={"GPU": 1})
        a.add_task("next", 0, {}, g.pass_through, (2,), resource_restrictions={"GPU": 1})
        assert a.task_state == {"mine": "executing", "next": "constrained"}
        with pytest.raises(ValueError, match="no resource 'TPU'"):
            a.add_task("other", 0, {}, inc, (1,), resource_restrictions={"TPU": 1})
        with pytest.raises(ValueError, match="2 of 'GPU' asked for, of 1 in all"):
            a.add_task("other", 0, {}, inc, (1,), resource_restrictions={"GPU": 2})
        g.opened.set()
        await until(lambda: not a.tasks)


@pytest.mark.parametrize("part", ["func", "args", "kwargs"])
@cluster(nthreads=ONE_WORKER)
async def test_an_undeserialisable_task_is_reported_and_leaves_nothing(c, s, a, part):
    erred = heard(s, "task-erred")
    before = snapshot(a)
    parts = {"func": inc, "args": (1,), "kwargs": {}} | {part: pickle.dumps(Refuses())}
    a.add_task("mine", 0, {"x": ["tcp://1.2.3.4:5"]}, **parts, run_id=3)
    assert snapshot(a) == before
    await until(lambda: erred)
    [message] = erred
    assert (message["key"], message["run_id"], message["status"]) == ("mine", 3, "error")
    assert "no such thing on this worker" in message["exception_text"]
    assert "_refuse" in message["traceback_text"]
    assert [entry[1] for entry in a.state.story("mine")] == ["undeserializable"]


@cluster(nthreads=ONE_WORKER)
async def test_the_scheduler_believes_that_a_task_is_undeserialisable(c, s, a):
    async with waiting_task(c, a) as (x, _):
        run_id = a.tasks["x"].run_id
        a.release_key("x", report=False)
        a.add_task("x", 0, {}, pickle.dumps(Refuses()), run_id=run_id)
        with pytest.raises(ModuleNotFoundError, match="no such thing on this worker"):
            await x
        assert set(a.tasks) == {"blocker"}


@pytest.mark.parametrize("key", ["", None, ()])
@cluster(nthreads=ONE_WORKER)
async def test_a_blank_key_raises(c, s, a, key):
    before = snapshot(a)
    with pytest.raises(ValueError, match="a task needs a key; got a blank one"):
        a.add_task(key, 0, {}, inc, (1,))
    assert snapshot(a) == before


@pytest.mark.parametrize("priority", [None, (), [], ""])
@cluster(nthreads=ONE_WORKER)
async def test_a_blank_priority_raises(c, s, a, priority):
    before = snapshot(a)
    with pytest.raises(ValueError, match="a task needs a priority; got a blank one"):
        a.add_task("x", priority, {}, inc, (1,))
    assert snapshot(a) == before


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        ({"key": ["x"]}, TypeError, "list"),
        ({"priority": "high"}, TypeError, "a priority consists of numbers; got 'high'"),
        ({"priority": (1, None)}, TypeError, "a priority consists of numbers"),
        ({"who_has": ["d"]}, TypeError, "who_has must map keys to addresses"),
        ({"who_has": {"d": "tcp://1.2.3.4:5"}}, TypeError, r"who_has\['d'\] must be several"),
        ({"who_has": {"d": [None]}}, TypeError, "the address of a worker must be a str, got None"),
        ({"who_has": {"d": [""]}}, ValueError, "the address of a worker is blank"),
        ({"who_has": {"d": []}}, ValueError, "input 'd' of 'x' is not here, and who_has names no"),
        ({"who_has": {"x": []}}, ValueError, "'x' cannot be an input of itself"),
        ({"func": None}, TypeError, "a task needs a callable, got None"),
        ({"func": 5}, TypeError, "a task needs a callable, got 5"),
        ({"args": 5}, TypeError, "args of a task must be a tuple or a list, got 5"),
        ({"kwargs": {1: 2}}, TypeError, "kwargs of a task must map names to values"),
        ({"run_id": -1}, ValueError, "run_id must not be negative, got -1"),
        ({"run_id": "one"}, TypeError, "run_id must be an int, got 'one'"),
    ],
    ids=str,
)
@cluster(nthreads=ONE_WORKER)
async def test_add_task_refuses(c, s, a, arguments, error, says):
    before = snapshot(a)
    right = {"key": "x", "priority": 0, "who_has": {}, "func": inc, "args": (1,), "kwargs": {}}
    with pytest.raises(error, match=says):
        a.add_task(**(right | arguments))
    assert snapshot(a) == before


@cluster(nthreads=ONE_WORKER)
async def test_add_task_refuses_an_input_that_is_yet_to_run_here(c, s, a):
    with gate("yet") as g:
        a.add_task("d", 0, {}, g.pass_through, (1,))
        before = snapshot(a)
        with pytest.raises(ValueError, match="input 'd' of 'x' is executing here and not yet"):
            a.add_task("x", 0, {"d": []}, inc, ("d",))
        assert snapshot(a) == before
        g.opened.set()
        await a.execute("d")


# release_key, release_dep


@cluster()
async def test_release_key_of_a_result(c, s, a, b):
    x = c.submit(inc, 1, key="x", workers=[a.address], allow_other_workers=True)
    await x
    released = heard(s, "release-worker-data")
    a.release_key("x", cause="y", reason="not-needed")
    assert "x" not in a.tasks
    assert "x" not in a.data
    await until(lambda: released)
    assert released[0]["stimulus_id"].startswith("not-needed-")
    assert ("x", "release-key", "y", "not-needed") in [e[:4] for e in a.state.story("x")]
    # The client still wants it: it is computed again.
    assert await x == 2


@cluster()
async def test_release_key_without_a_word(c, s, a, b):
    x = c.submit(inc, 1, key="x", workers=[a.address])
    await x
    released = heard(s, "release-worker-data")
    a.release_key("x", report=False)
    assert not a.data
    # Something else that is heard after it would have been.
    await c.submit(inc, 1, key="y", workers=[a.address])
    assert not released
    assert {ws.address for ws in s.tasks["x"].who_has} == {a.address}


@cluster()
async def test_release_key_of_a_task_that_has_not_run(c, s, a, b):
    """The scheduler has it run elsewhere."""
    with gate("release") as g:
        blocker = c.submit(g.pass_through, key="blocker", workers=[a.address])
        await until(g.entered.is_set)
        x = c.submit(inc, 1, key="x", workers=[a.address], allow_other_workers=True)
        await wait_for_state("x", "ready", a)
        a.release_key("x")
        assert "x" not in a.tasks
        assert await x == 2
        g.opened.set()
        await blocker


@cluster()
async def test_release_key_of_a_running_task(c, s, a, b):
    """What comes of the run is ignored, and the task runs again."""
    with gate("running") as g:
        x = c.submit(g.pass_through, 1, key="x", workers=[a.address])
        await until(g.entered.is_set)
        rescheduled = heard(s, "reschedule")
        a.release_key("x")
        assert a.task_state["x"] == "cancelled"
        await until(lambda: rescheduled)
        g.opened.set()
        assert await x == 1


@cluster()
async def test_release_key_refuses(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x = await c.scatter({"x": 1}, workers=[b.address])
        y = c.submit(inc, x["x"], key="y", workers=[w.address])
        await w.in_gather_dep.wait()
        before = snapshot(w)
        with pytest.raises(KeyError, match="no task 'unheard of' on tcp://"):
            w.release_key("unheard of")
        with pytest.raises(ValueError, match="blank"):
            w.release_key("")
        with pytest.raises(ValueError, match=r"'x' is needed here by 'y' \(waiting\)"):
            w.release_key("x")
        with pytest.raises(ValueError, match=r"'x' is needed here by 'y' \(waiting\)"):
            w.transition("x", "released")
        assert snapshot(w) == before
        w.block_gather_dep.set()
        assert await y == 2


@cluster()
async def test_release_dep_takes_its_users_with_it(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x = await c.scatter({"x": 1}, workers=[b.address])
        y = c.submit(inc, x["x"], key="y", workers=[w.address], allow_other_workers=True, retries=0)
        await w.in_gather_dep.wait()
        rescheduled = heard(s, "reschedule")
        w.release_dep("x")
        # The transfer is under way; what comes of it is ignored.
        assert w.task_state == {"x": "cancelled"}
        await until(lambda: rescheduled)
        assert rescheduled[0]["key"] == "y"
        w.block_gather_dep.set()
        assert await y == 2
        with pytest.raises(KeyError, match="no task 'unheard of'"):
            w.release_dep("unheard of")


@cluster(nthreads=ONE_WORKER)
async def test_release_dep_in_memory(c, s, a):
    with gate("dep") as g:
        blocker = c.submit(g.pass_through, key="blocker", workers=[a.address])
        await until(g.entered.is_set)
        a.update_data({"x": 1})
        a.add_task("y", 0, {"x": []}, inc, ("x",))
        assert a.task_state["y"] == "ready"
        a.release_dep("x")
        assert set(a.tasks) == {"blocker"}
        assert not a.data
        g.opened.set()
        await blocker


# ensure_computing, execute


@cluster(nthreads=ONE_WORKER)
async def test_ensure_computing(c, s, a):
    with gate("computing") as g:
        a.add_task("x", 0, {}, g.pass_through, (1,))
        a.add_task("y", 0, {}, inc, (1,))
        a.ensure_computing()  # there is one thread, and it is taken
        assert a.task_state == {"x": "executing", "y": "ready"}
        a.state.nthreads = 2
        a.ensure_computing()
        assert a.task_state == {"x": "executing", "y": "executing"}
        a.state.nthreads = 1
        g.opened.set()
        assert (await a.execute("y")).value == 2


@cluster(nthreads=ONE_WORKER)
async def test_execute_says_how_it_went(c, s, a):
    a.add_task("good", 0, {}, inc, (1,))
    event = await a.execute("good")
    assert (type(event), event.key, event.value) == (ExecuteSuccessEvent, "good", 2)
    a.add_task("bad", 0, {}, fail, (1,))
    event = await a.execute("bad")
    assert (type(event), event.key) == (ExecuteFailureEvent, "bad")
    assert "it went wrong" in event.exception_text


@cluster(nthreads=ONE_WORKER)
async def test_execute_runs_a_task_once(c, s, a):
    with gate("once") as g:
        calls = []

        def count():
            calls.append(1)
            return g.pass_through()

        a.add_task("x", 0, {}, count)
        waiting = [asyncio.create_task(a.execute("x")) for _ in range(3)]
        await asyncio.sleep(0)  # the task may have begun already; all three await it now
        await until(g.entered.is_set)
        g.opened.set()
        first, *rest = await asyncio.gather(*waiting)
        assert all(event is first for event in rest)
        assert len(calls) == 1


@cluster(nthreads=ONE_WORKER)
async def test_execute_says_how_it_went_before(c, s, a):
    x, y = c.submit(inc, 1, key="x"), c.submit(fail, 1, key="y")
    await wait([x, y])
    event = await a.execute("x")
    assert (type(event), event.key, event.value) == (ExecuteSuccessEvent, "x", 2)
    assert 0 < event.start <= event.stop
    event = await a.execute("y")
    assert (type(event), event.key) == (ExecuteFailureEvent, "y")
    assert "it went wrong" in event.exception_text


@cluster(nthreads=ONE_WORKER)
async def test_execute_refuses(c, s, a):
    await c.scatter({"x": 1}, workers=[a.address])
    before = snapshot(a)
    with pytest.raises(KeyError, match="no task 'unheard of'"):
        await a.execute("unheard of")
    with pytest.raises(ValueError, match="'x' is in state 'memory', it does not run"):
        await a.execute("x")
    assert snapshot(a) == before


# put_key_in_memory, send_task_state_to_scheduler


@cluster(nthreads=ONE_WORKER)
async def test_put_key_in_memory_in_place_of_running(c, s, a):
    with gate("put") as g:
        blocker = c.submit(g.pass_through, key="blocker", workers=[a.address])
        await until(g.entered.is_set)
        x = c.submit(inc, 1, key="x", workers=[a.address])
        y = c.submit(inc, x, key="y", workers=[a.address])
        await wait_for_state("x", "ready", a)
        a.put_key_in_memory("x", 41)
        assert a.task_state["x"] == "memory"
        assert await x == 41
        g.opened.set()
        assert await y == 42
        await blocker


@cluster()
async def test_put_key_in_memory_in_place_of_fetching(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x1 = await c.scatter({"x1": 1}, workers=[b.address])
        y1 = c.submit(inc, x1["x1"], key="y1", workers=[w.address])
        await w.in_gather_dep.wait()
        x2 = await c.scatter({"x2": 2}, workers=[b.address])
        y2 = c.submit(inc, x2["x2"], key="y2", workers=[w.address])
        await wait_for_state("x2", "fetch", w)
        before = snapshot(w)
        with pytest.raises(ValueError, match="'x1' is flight; its result is about to come"):
            w.put_key_in_memory("x1", 10)
        assert snapshot(w) == before
        w.put_key_in_memory("x2", 20)
        assert await y2 == 21
        assert w.address in {ws.address for ws in s.tasks["x2"].who_has}
        w.block_gather_dep.set()
        assert await y1 == 2


@cluster(nthreads=ONE_WORKER)
async def test_put_key_in_memory_of_an_unknown_key(c, s, a):
    added = heard(s, "add-keys")
    a.put_key_in_memory("x", 1)
    assert a.task_state == {"x": "memory"}
    a.put_key_in_memory("x", 2)  # it is there already
    assert dict(a.data) == {"x": 1}
    # The scheduler would have data removed that it knows nothing of; it is not bothered.
    await c.submit(inc, 1)
    assert not added
    assert a.data["x"] == 1


@cluster()
async def test_send_task_state_to_scheduler(c, s, a, b):
    x = c.submit(inc, 1, key="x", workers=[a.address])
    await x
    bad = c.submit(fail, 1, key="bad", workers=[a.address])
    with pytest.raises(ValueError, match="it went wrong"):
        await bad
    finished, erred = heard(s, "task-finished"), heard(s, "task-erred")
    a.send_task_state_to_scheduler("x")
    a.send_task_state_to_scheduler("bad")
    await until(lambda: finished and erred)
    assert (finished[0]["key"], finished[0]["nbytes"]) == ("x", a.tasks["x"].nbytes)
    assert finished[0]["run_id"] == s.tasks["x"].run_id
    assert (erred[0]["key"], erred[0]["run_id"]) == ("bad", a.tasks["bad"].run_id)
    assert "it went wrong" in erred[0]["exception_text"]
    with gate("send") as g:
        running = c.submit(g.pass_through, key="running", workers=[a.address])
        await wait_for_state("running", "executing", a)
        before = snapshot(a)
        with pytest.raises(ValueError, match="'running' is in state 'executing', it has nothing"):
            a.send_task_state_to_scheduler("running")
        with pytest.raises(KeyError, match="no task 'unheard of'"):
            a.send_task_state_to_scheduler("unheard of")
        assert snapshot(a) == before
        g.opened.set()
        await running


# what all of them have in common


@cluster(nthreads=ONE_WORKER)
async def test_verbs_belong_to_the_event_loop(c, s, a):
    before = snapshot(a)
    with pytest.raises(RuntimeError, match="only be changed from the thread of its event loop"):
        await asyncio.to_thread(a.add_task, "x", 0, {}, inc, (1,))
    assert snapshot(a) == before


@cluster(nthreads=ONE_WORKER)
async def test_verbs_need_a_running_worker(c, s, a):
    await a.close()
    assert a.status is Status.closed
    for verb in (a.ensure_computing, a.ensure_communicating, lambda: a.release_key("x")):
        with pytest.raises(RuntimeError, match=r"status: closed.* is not running"):
            verb()


@cluster()
async def test_a_client_may_steer_a_worker(c, s, a, b):
    x = c.submit(inc, 1, key="x", workers=[a.address], allow_other_workers=True)
    await x

    def drop(dask_worker):
        dask_worker.release_key("x", reason="asked-by-a-client")
        return dict(dask_worker.task_state)

    assert await c.run(drop, workers=[a.address]) == {a.address: {}}
    assert await x == 2


@cluster(nthreads=ONE_WORKER)
async def test_a_task_may_steer_its_worker_through_the_loop(c, s, a):
    awaited = threading.Event()

    def release_other():
        from distributed import get_worker

        worker = get_worker()
        worker.loop.add_callback(worker.release_key, "other")
        awaited.wait(30)
        raise Reschedule

    a.update_data({"other": 1})
    a.add_task("x", 0, {}, release_other)
    end = asyncio.ensure_future(a.execute("x"))
    await asyncio.sleep(0)
    awaited.set()
    await end
    await until(lambda: "other" not in a.tasks)
