"""What a worker can be asked for, request by request: the answers are those of stock's worker."""

from __future__ import annotations

import functools

import distributed
import distributed.worker
import pytest
from dask.utils_test import inc
from distributed.core import Status
from distributed.utils_test import gen_test

import fastworker
from support.beside_stock import as_stock
from support.in_process import gate, heard, until

TWO_WORKERS = [("127.0.0.1", 1)] * 2


@as_stock()
async def test_ping_echo_identity_keys(c, s, a):
    x = c.submit(inc, 1, key="x")
    assert await x == 2
    ask = s.rpc(a.address)
    assert await ask.ping() == b"pong"
    assert await ask.echo(data=b"as it is") == b"as it is"
    assert await ask.keys() == ("x",)
    identity = await ask.identity()
    assert (identity["id"], identity["nthreads"]) == (a.id, 1)
    assert identity["scheduler"] == s.address


@as_stock()
async def test_versions(c, s, a):
    versions = await s.rpc(a.address).versions()
    assert versions["packages"]["distributed"] == distributed.__version__
    assert (await c.get_versions(check=True))["workers"][a.address]["host"] == versions["host"]


@as_stock()
async def test_monitor_and_profile_metadata(c, s, a):
    a.monitor.update()
    monitor = await s.rpc(a.address).get_monitor_info(recent=False)
    assert set(monitor) >= {"range_query", "count", "last_time"}
    assert {"cpu", "memory"} <= set(monitor["range_query"])
    assert set(await s.rpc(a.address).profile_metadata()) == {"counts", "keys"}


@as_stock()
async def test_run_functions_and_coroutines(c, s, a):
    async def where(dask_worker, *, plus):
        return dask_worker.address + plus

    def fail():
        raise KeyError("said so")

    assert await c.run(where, plus="!") == {a.address: a.address + "!"}
    assert await c.run(inc, 1) == {a.address: 2}
    with pytest.raises(KeyError, match="said so"):
        await c.run(fail)
    assert str((await c.run(fail, on_error="return"))[a.address]) == "'said so'"
    assert await c.run(fail, on_error="ignore") == {}
    assert await c.submit(inc, 1) == 2


@as_stock()
async def test_free_keys(c, s, a):
    """The request, which the scheduler makes where it lets go of data by hand."""
    (x,) = await c.scatter([1])
    assert x.key in a.data
    await s.rpc(a.address).free_keys(keys=[x.key], stimulus_id="by hand")
    await until(lambda: x.key not in a.data)


@as_stock(nthreads=TWO_WORKERS)
async def test_benchmarks(c, s, a, b, *, monkeypatch):
    short = {"sizes": ("1 kiB",), "duration": "1 ms"}
    for name in ("benchmark_disk", "benchmark_memory", "benchmark_network"):
        measure = getattr(distributed.worker, name)
        monkeypatch.setattr(distributed.worker, name, functools.partial(measure, **short))
    ask = s.rpc(a.address)
    for answer in (
        await ask.benchmark_disk(),
        await ask.benchmark_memory(),
        await ask.benchmark_network(address=b.address),
    ):
        assert list(answer) == ["1 kiB"] and answer["1 kiB"] > 0


@as_stock(config={"distributed.worker.blocked-handlers": ["echo"]})
async def test_blocked_handlers(c, s, a):
    with pytest.raises(Exception, match="'echo' handler has been explicitly disallowed"):
        await s.rpc(a.address).echo(data=1)
    assert await c.submit(inc, 1) == 2


# What the scheduler says on its stream


@as_stock()
async def test_connection_stream(c, s, a):
    """Messages of a stream, over a connection of the caller's own."""
    comm = await s.rpc.connect(a.address)
    await comm.write({"op": "connection_stream", "reply": False})
    message = {"op": "worker-status-change", "stimulus_id": "by hand"}
    await comm.write([{**message, "status": "closing_gracefully"}])
    await until(lambda: a.status is Status.closing_gracefully)
    await comm.write([{"op": "close-stream"}])
    await comm.close()


@as_stock()
async def test_worker_status_change(c, s, a):
    with gate("runs") as runs:
        x = c.submit(runs.pass_through, key="x")
        await until(runs.entered.is_set)
        message = {"op": "worker-status-change", "stimulus_id": "by hand"}
        s.stream_comms[a.address].send({**message, "status": "closing_gracefully"})
        await until(lambda: a.status is Status.closing_gracefully)
        runs.opened.set()
        await x


@as_stock(nthreads=TWO_WORKERS)
async def test_acquire_and_remove_replicas(c, s, a, b):
    (x,) = await c.scatter([123], workers=[a.address])
    s.request_acquire_replicas(b.address, [x.key], stimulus_id="by hand")
    await until(lambda: x.key in b.data and len(s.tasks[x.key].who_has) == 2)
    s.request_remove_replicas(b.address, [x.key], stimulus_id="by hand")
    await until(lambda: x.key not in b.data)
    assert await x == 123


@as_stock(nthreads=[("127.0.0.1", 1)] * 3)
async def test_refresh_who_has(c, s, a, b, without):
    """A worker that was told of a wrong holder asks again, and is told the right one."""
    refreshed = heard(b, "refresh-who-has")
    (x,) = await c.scatter([123], workers=[a.address])
    s.stream_comms[b.address].send(
        {
            "op": "acquire-replicas",
            "who_has": {x.key: [without.address]},
            "nbytes": {x.key: 28},
            "stimulus_id": "by hand",
        }
    )
    await until(lambda: b.data.get(x.key) == 123)
    assert refreshed[0]["who_has"] == {x.key: (a.address,)}


@as_stock(nthreads=TWO_WORKERS)
async def test_remove_worker(c, s, a, b):
    (x,) = await c.scatter([123], workers=[a.address])
    assert await c.submit(inc, x, key="y", workers=[b.address]) == 124
    told = heard(b, "remove-worker")
    await a.close()
    await until(lambda: [message["worker"] for message in told] == [a.address])
    assert a.address not in b.state.has_what


@as_stock()
async def test_cancel_compute(c, s, a):
    with gate("runs") as runs:
        x = c.submit(runs.pass_through, key="x")
        await until(runs.entered.is_set)
        y = c.submit(inc, 1, key="y")
        await until(lambda: "y" in a.state.tasks)
        s.stream_comms[a.address].send(
            {"op": "cancel-compute", "key": "y", "stimulus_id": "by hand"}
        )
        await until(lambda: "y" not in a.state.tasks)
        assert ("x" in a.state.tasks, y.done()) == (True, False)
        runs.opened.set()
        await x


@as_stock()
async def test_close(c, s, a):
    s.close_worker(a.address)
    await until(lambda: a.status is Status.closed)


@as_stock(nthreads=TWO_WORKERS, config={"distributed.scheduler.allowed-failures": 10})
async def test_shuffle_fail(c, s, a, b):
    """A shuffle that a worker leaves in the middle is begun anew without it."""
    dd = pytest.importorskip("dask.dataframe")
    pd = pytest.importorskip("pandas")
    told = {worker.address: heard(worker, "shuffle-fail") for worker in (a, b)}

    def part(i):
        return pd.DataFrame({"x": range(i, i + 10)})

    with gate("last part") as last:

        def parts(i):
            if i == 9:
                last.where = distributed.get_worker().address
                last.pass_through()
            return part(i)

        frame = dd.from_map(parts, range(10), meta=part(0))
        total = c.compute(frame.shuffle("x", shuffle_method="p2p").x.sum())
        await until(last.entered.is_set)
        runs = [worker.plugins["shuffle"].shuffle_runs._active_runs for worker in (a, b)]
        await until(lambda: all(runs))
        stays, goes = (a, b) if last.where == a.address else (b, a)
        await goes.close()
        await until(lambda: told[stays.address])
        last.opened.set()
        assert await total == sum(sum(range(i, i + 10)) for i in range(10))


@gen_test()
async def test_nanny():
    async with (
        distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s,
        fastworker.Nanny(s.address, nthreads=1) as nanny,
    ):
        ask = s.rpc(nanny.address)
        assert await ask.echo(data=1) == 1
        assert (await ask.identity())["id"] == nanny.id
        assert (await ask.dump_state())["id"] == nanny.id
        comm = await s.rpc.connect(nanny.address)
        await comm.write({"op": "connection_stream", "reply": False})
        await comm.write([{"op": "close-stream"}])
        await comm.close()
        pid = nanny.pid
        assert await ask.restart() == "OK"
        assert nanny.pid != pid
        pid = nanny.pid
        await ask.kill()
        await until(lambda: nanny.pid not in (None, pid) and nanny.status is Status.running)
        await until(lambda: s.workers)


# Plugins


class Noted(distributed.WorkerPlugin):
    """Notes its life on the worker, which is in the process of the test."""

    name = "noted"

    def __init__(self, idempotent):
        self.idempotent = idempotent

    async def setup(self, worker):
        self.worker = worker
        worker.noted = [*getattr(worker, "noted", []), "setup"]

    async def teardown(self, worker):
        worker.noted.append("teardown")


@as_stock()
async def test_coroutines_of_plugins(c, s, a):
    await c.register_plugin(Noted(idempotent=False))
    await c.register_plugin(Noted(idempotent=False))
    assert a.noted == ["setup", "teardown", "setup"]
    await c.unregister_worker_plugin("noted")
    assert a.noted[3:] == ["teardown"]


@as_stock()
async def test_idempotent_plugins(c, s, a):
    await c.register_plugin(Noted(idempotent=True))
    await c.register_plugin(Noted(idempotent=True))
    assert a.noted == ["setup"]
