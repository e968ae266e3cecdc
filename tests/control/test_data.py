"""The verbs on data, each on workers of a real scheduler."""

from __future__ import annotations

import asyncio
import weakref
from functools import partial

import pytest
from dask.utils_test import inc
from distributed.utils_test import wait_for_state
from distributed.worker import get_data_from_worker
from distributed.worker_state_machine import (
    GatherDepNetworkFailureEvent,
    GatherDepSuccessEvent,
)

import fastworker
from support.in_process import ONE_WORKER, HeldTransfers, cluster, gate, heard, snapshot, until

NO_PEER = "tcp://127.0.0.1:1"


def slow_inc(g, x):
    return g.pass_through(x) + 1


# get_data, get_keys, gather


@cluster(nthreads=ONE_WORKER)
async def test_get_data_here(c, s, a):
    a.update_data({"x": 1, "y": 2})
    assert await a.get_data(keys=["x", "y"], who="me") == {"x": 1, "y": 2}
    assert await a.get_data(["y"], "me") == {"y": 2}
    assert a.get_keys() == list(a.data) == a.keys()
    assert set(a.get_keys()) == {"x", "y"}
    with pytest.raises(KeyError, match=r"no data of \['z'\] on tcp://"):
        await a.get_data(["x", "z"])
    with pytest.raises(TypeError, match="expected a collection of keys, got 'x'"):
        await a.get_data(keys="x")


@cluster()
async def test_get_data_for_a_peer(c, s, a, b):
    a.update_data({"x": 1})
    response = await get_data_from_worker(b.rpc, keys=["x", "z"], worker=a.address, who=b.address)
    assert response == {"status": "OK", "data": {"x": 1}}
    assert a.transfer_outgoing_count_total == 1
    a.transfer_outgoing_count_limit = 0
    response = await get_data_from_worker(b.rpc, keys=["x"], worker=a.address)
    assert response == {"status": "busy"}


@cluster()
async def test_gather(c, s, a, b):
    x = await c.scatter({"x": 1}, workers=[b.address])
    assert await a.gather(who_has={"x": [b.address]}) == {"status": "OK"}
    assert a.data["x"] == 1
    answer = await a.gather(who_has={"z": [b.address]})
    assert answer["status"] == "partial-fail"
    assert list(answer["keys"]) == ["z"]
    del x


@cluster()
async def test_gather_for_the_scheduler(c, s, a, b):
    x = c.submit(inc, 1, key="x", workers=[a.address])
    await x
    await c.replicate([x])
    assert b.data["x"] == 2


# update_data, delete_data


@cluster()
async def test_update_data(c, s, a, b):
    answer = a.update_data({"x": 1, "y": "text"})
    assert answer["status"] == "OK"
    assert answer["nbytes"].keys() == {"x", "y"}
    assert a.task_state == {"x": "memory", "y": "memory"}
    await b.rpc(a.address).update_data(data={"z": 3})
    assert a.data["z"] == 3
    with pytest.raises(TypeError, match=r"data must map keys to values, got \[1\]"):
        a.update_data([1])
    with pytest.raises(ValueError, match="a task needs a key; got a blank one"):
        a.update_data({"": 1})


@pytest.mark.parametrize("report", [{"report": True}, {"stimulus_id": True}], ids=str)
@cluster()
async def test_update_data_reports(c, s, a, b, report):
    x = c.submit(inc, 1, key="x", workers=[b.address])
    await x
    added = heard(s, "add-keys")
    a.update_data({"x": 2}, **report)
    await until(lambda: added)
    assert {ws.address for ws in s.tasks["x"].who_has} == {a.address, b.address}


@cluster()
async def test_update_data_without_report(c, s, a, b):
    added = heard(s, "add-keys")
    a.update_data({"x": 2}, False)
    await c.submit(inc, 1, workers=[a.address])
    assert not added
    assert a.data["x"] == 2


@cluster(nthreads=ONE_WORKER)
async def test_data_the_scheduler_does_not_want_outlives_its_users(c, s, a):
    """It is told of data that it does not know and has it removed: not from under a task."""
    asked = heard(a, "remove-replicas")
    with gate("users") as g:
        a.update_data({"x": 1}, report=True)
        a.add_task("y", 0, {"x": []}, slow_inc, (g, "x"))
        await until(g.entered.is_set)
        await until(lambda: asked)
        assert list(asked[0]["keys"]) == ["x"]
        assert a.data["x"] == 1
        g.opened.set()
        assert (await a.execute("y")).value == 2
    await until(lambda: "x" not in a.data)
    assert a.status.name == "running"


@cluster()
async def test_delete_data(c, s, a, b):
    x = await c.scatter({"x": 1}, workers=[a.address, b.address], broadcast=True)
    assert a.delete_data(["x"]) == {"status": "OK"}
    assert "x" not in a.tasks
    await until(lambda: {ws.address for ws in s.tasks["x"].who_has} == {b.address})
    del x


@cluster()
async def test_delete_data_without_report(c, s, a, b):
    x = await c.scatter({"x": 1, "y": 1}, workers=[a.address, b.address], broadcast=True)
    released = heard(s, "release-worker-data")
    a.delete_data(["x"], report=False)
    a.delete_data(["y"])
    assert not a.data
    await until(lambda: released)
    assert [message["key"] for message in released] == ["y"]
    del x


class Value:
    """Of which it is known whether it still exists."""


@pytest.mark.parametrize("let_go", [lambda w: w.delete_data(["x"]), lambda w: w.release_key("x")])
@cluster(nthreads=ONE_WORKER)
async def test_data_is_gone_at_once(c, s, a, let_go):
    value = Value()
    gone = weakref.ref(value)
    a.update_data({"x": value})
    del value
    let_go(a)
    assert gone() is None


@cluster(nthreads=ONE_WORKER)
async def test_delete_data_refuses(c, s, a):
    with gate("delete") as g:
        a.update_data({"x": 1, "y": 2})
        a.add_task("user", 0, {"x": []}, slow_inc, (g, "x"))
        await until(g.entered.is_set)
        before = snapshot(a)
        with pytest.raises(KeyError, match=r"no data of \['z'\]"):
            a.delete_data(["y", "z"])
        with pytest.raises(ValueError, match=r"'x' is needed here by 'user' \(executing\)"):
            a.delete_data(["y", "x"])
        with pytest.raises(TypeError, match="expected a collection of keys, got 'y'"):
            a.delete_data("y")
        with pytest.raises(TypeError, match="expected a collection of keys, got 5"):
            a.delete_data(5)
        assert snapshot(a) == before
        g.opened.set()
        await a.execute("user")


# ensure_communicating, gather_dep


@cluster()
async def test_ensure_communicating(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x1 = await c.scatter({"x1": 1}, workers=[b.address])
        y1 = c.submit(inc, x1["x1"], key="y1", workers=[w.address])
        await w.in_gather_dep.wait()
        x2 = await c.scatter({"x2": 2}, workers=[a.address])
        # One transfer at a time, for as long as there is any.
        w.state.transfer_incoming_bytes_limit = 1
        y2 = c.submit(inc, x2["x2"], key="y2", workers=[w.address])
        await wait_for_state("x2", "fetch", w)
        w.ensure_communicating()
        assert w.task_state["x2"] == "fetch"
        w.state.transfer_incoming_bytes_limit = float("inf")
        w.ensure_communicating()
        assert w.task_state["x2"] == "flight"
        assert w.in_flight_workers == {b.address: {"x1"}, a.address: {"x2"}}
        w.block_gather_dep.set()
        assert await c.gather([y1, y2]) == [2, 3]


async def missing_inputs(c, s, b, w, *keys):
    """Have ``w`` want ``keys``, which are on ``b``, and know of no holder."""
    data = await c.scatter(dict.fromkeys(keys, 1), workers=[b.address])
    w.state.transfer_incoming_bytes_limit = 0  # nothing is fetched for now
    futures = [c.submit(inc, data[key], key=f"inc-{key}", workers=[w.address]) for key in keys]
    for key in keys:
        await wait_for_state(key, "fetch", w)
    w.periodic_callbacks["find-missing"].stop()
    w.update_who_has({key: [] for key in keys})
    w.state.transfer_incoming_bytes_limit = float("inf")
    assert {w.task_state[key] for key in keys} == {"missing"}
    return [*futures, *data.values()]


@cluster()
async def test_gather_dep_from_a_peer(c, s, a, b):
    y1, y2, y3, *_ = await missing_inputs(c, s, b, a, "x1", "x2", "x3")
    event = await a.gather_dep(b.address, "x1", ["x2"])
    assert isinstance(event, GatherDepSuccessEvent)
    assert event.data == {"x1": 1, "x2": 1}
    assert a.data["x1"] == a.data["x2"] == 1
    assert a.task_state["x3"] == "missing"
    assert await a.gather_dep(b.address, "x1", ["x2"]) is None  # it is here
    event = await a.gather_dep(b.address, ["x3"])
    assert event.data == {"x3": 1}
    assert await c.gather([y1, y2, y3]) == [2, 2, 2]


@cluster()
async def test_gather_dep_from_an_address_without_a_worker(c, s, a, b):
    y, *_ = await missing_inputs(c, s, b, a, "x")
    event = await a.gather_dep(NO_PEER, "x")
    assert isinstance(event, GatherDepNetworkFailureEvent)
    assert a.task_state["x"] == "missing"
    a.handle_missing_dep(["x"])
    assert await y == 2


@cluster()
async def test_gather_dep_behind_another_transfer(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        x1 = await c.scatter({"x1": 1}, workers=[b.address])
        y1 = c.submit(inc, x1["x1"], key="y1", workers=[w.address])
        await w.in_gather_dep.wait()
        y2, *_ = await missing_inputs(c, s, b, w, "x2")
        gather_dep = partial(fastworker.Worker.gather_dep, w)  # past the hold
        before = snapshot(w)
        with pytest.raises(ValueError, match="'x1' cannot be fetched: it is flight here"):
            await gather_dep(b.address, "x2", deps=["x1"])
        assert snapshot(w) == before
        assert await gather_dep(b.address, "x2") is None
        assert w.task_state["x2"] == "fetch"
        w.block_gather_dep.set()
        assert await c.gather([y1, y2]) == [2, 2]


@cluster()
async def test_gather_dep_refuses(c, s, a, b):
    with gate("gather-dep") as g:
        running = c.submit(g.pass_through, key="running", workers=[a.address])
        await until(g.entered.is_set)
        before = snapshot(a)
        with pytest.raises(KeyError, match="no task 'unheard of'"):
            await a.gather_dep(b.address, "unheard of")
        with pytest.raises(ValueError, match="'running' cannot be fetched: it is executing here"):
            await a.gather_dep(b.address, "running")
        with pytest.raises(ValueError, match="is this worker itself"):
            await a.gather_dep(a.address, "running")
        with pytest.raises(TypeError, match="the address of a worker must be a str, got None"):
            await a.gather_dep(None, "running")
        assert snapshot(a) == before
        g.opened.set()
        await running


# handle_missing_dep, update_who_has


@cluster()
async def test_handle_missing_dep(c, s, a, b):
    y1, y2, *_ = await missing_inputs(c, s, b, a, "x1", "x2")
    asked = heard(s, "request-refresh-who-has")
    a.handle_missing_dep(["x1", "x2"])
    assert await c.gather([y1, y2]) == [2, 2]
    assert list(asked[0]["keys"]) == ["x1", "x2"]
    before = snapshot(a)
    with pytest.raises(KeyError, match="no task 'unheard of'"):
        a.handle_missing_dep(["unheard of"])
    with pytest.raises(ValueError, match="'x1' is not missing: its data is here"):
        a.handle_missing_dep(["x1"])
    with pytest.raises(TypeError, match="expected a collection of keys, got 'x1'"):
        a.handle_missing_dep("x1")
    a.handle_missing_dep([])
    assert snapshot(a) == before


@cluster()
async def test_update_who_has(c, s, a, b):
    y, *_ = await missing_inputs(c, s, b, a, "x")
    before = snapshot(a)
    with pytest.raises(KeyError, match="no task 'unheard of'"):
        a.update_who_has({"x": [b.address], "unheard of": [b.address]})
    with pytest.raises(TypeError, match=r"who_has\['x'\] must be several addresses, got 'tcp://"):
        a.update_who_has({"x": b.address})
    with pytest.raises(TypeError, match="who_has must map keys to addresses"):
        a.update_who_has(["x"])
    assert snapshot(a) == before
    a.update_who_has({"x": [b.address]})
    assert a.who_has["x"] == {b.address}
    assert a.task_state["x"] == "flight"
    assert await y == 2


# select_keys_for_gather, gather_from_workers


async def held_fetches(c, w, holder):
    """The first of five tasks has ``w`` fetch its input; the inputs x1 to x4 of the others wait."""
    x = await c.scatter({"x": 1}, workers=[holder])
    futures = [c.submit(inc, x["x"], key="y", workers=[w.address])]
    await w.in_gather_dep.wait()
    data = await c.scatter({f"x{i}": bytes(100 * i) for i in range(1, 5)}, workers=[holder])
    for i in range(1, 5):
        futures.append(c.submit(len, data[f"x{i}"], key=f"y{i}", priority=-i, workers=[w.address]))
        await wait_for_state(f"x{i}", "fetch", w)
    return futures


@cluster()
async def test_select_keys_for_gather(c, s, a, b):
    async with HeldTransfers(s.address, nthreads=1) as w:
        futures = await held_fetches(c, w, b.address)
        size = {f"x{i}": w.tasks[f"x{i}"].nbytes for i in range(1, 5)}
        before = snapshot(w)
        everything = ["x3", "x1", "x2", "x4"]
        assert w.select_keys_for_gather(b.address, "x3") == (everything, sum(size.values()))
        w.state.transfer_message_bytes_limit = size["x3"] + size["x1"] + size["x2"]
        assert w.select_keys_for_gather(b.address, "x3") == (
            ["x3", "x1", "x2"],
            size["x3"] + size["x1"] + size["x2"],
        )
        w.state.transfer_message_bytes_limit = 1  # the first one goes in any case
        assert w.select_keys_for_gather(b.address, "x3") == (["x3"], size["x3"])
        with pytest.raises(ValueError, match=f"{a.address} is not known to hold 'x3'"):
            w.select_keys_for_gather(a.address, "x3")
        with pytest.raises(KeyError, match="no task 'unheard of'"):
            w.select_keys_for_gather(b.address, "unheard of")
        assert snapshot(w) == before
        w.block_gather_dep.set()
        assert await c.gather(futures) == [2, 100, 200, 300, 400]


@cluster()
async def test_the_machine_selects_the_same_keys(c, s, a, b):
    """What select_keys_for_gather foretells is what one transfer then brings."""
    async with HeldTransfers(s.address, nthreads=1) as w:
        futures = await held_fetches(c, w, b.address)
        w.state.transfer_message_bytes_limit = sum(w.tasks[f"x{i}"].nbytes for i in (1, 2))
        foretold, _ = w.select_keys_for_gather(b.address, w.pending_data_per_worker[b.address][0])
        w.block_gather_dep.set()
        await c.gather(futures)
        transfers = [set(log["keys"]) for log in w.transfer_incoming_log]
        assert transfers[1] == set(foretold) == {"x1", "x2"}


@cluster()
async def test_gather_from_workers(c, s, a, b):
    x = await c.scatter({"x": 1}, workers=[b.address])
    who_has = {"x": [b.address], "z": [b.address], "gone": [NO_PEER]}
    before = snapshot(a)
    for pool in (None, b.rpc):
        data, missing, failed, gone = await a.gather_from_workers(who_has, pool)
        assert data == {"x": 1}
        assert sorted(missing) == ["gone", "z"]
        assert failed == []
        assert gone == [NO_PEER]
    assert snapshot(a) == before
    with pytest.raises(TypeError, match="who_has must map keys to addresses"):
        await a.gather_from_workers("x")
    del x


@cluster(nthreads=ONE_WORKER)
async def test_verbs_belong_to_the_event_loop(c, s, a):
    a.update_data({"x": 1})
    before = snapshot(a)
    with pytest.raises(RuntimeError, match="thread of its event loop"):
        await asyncio.to_thread(a.delete_data, ["x"])
    assert snapshot(a) == before
