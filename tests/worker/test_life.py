"""How a worker comes up, joins, leaves and is ended."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
from contextlib import nullcontext
from unittest import mock

import dask
import distributed
import pytest
from dask.utils_test import inc
from distributed.comm import CommClosedError, connect
from distributed.core import Status
from distributed.utils_test import captured_logger, gen_cluster, gen_test
from distributed.worker_state_machine import InvalidTransition, SecedeEvent

import fastworker
from fastworker.core import WorkerState
from support.certificates import Authority
from support.in_process import ONE_WORKER, cluster, gate, heard, until

no_workers = {"nthreads": [], "client": True, "timeout": 60}


# where the scheduler is


@gen_test()
async def test_with_no_address_it_is_port_8786_of_this_machine():
    assert fastworker.Worker().scheduler_address == "tcp://127.0.0.1:8786"
    assert fastworker.Worker(scheduler_port=1234).scheduler_address == "tcp://127.0.0.1:1234"
    assert fastworker.Worker("host:8786").scheduler_address == "tcp://host:8786"
    assert fastworker.Worker("host", 1234).scheduler_address == "tcp://host:1234"
    assert fastworker.Worker("tls://host:1").scheduler_address == "tls://host:1"


@gen_test()
async def test_the_configured_scheduler_goes_first(tmp_path):
    with dask.config.set({"scheduler-address": "tcp://configured:1"}):
        assert fastworker.Worker().scheduler_address == "tcp://configured:1"
        assert fastworker.Worker("host:2").scheduler_address == "tcp://host:2"
    file = tmp_path / "scheduler.json"
    file.write_text('{"address": "tcp://from-file:3"}')
    worker = fastworker.Worker(scheduler_file=str(file))
    assert worker.scheduler_address == "tcp://from-file:3"


@gen_cluster(nthreads=[])
async def test_a_preload_may_configure_the_scheduler(s):
    preload = f"import dask; dask.config.set(scheduler_address={s.address!r})"
    async with fastworker.Worker(preload=preload) as worker:
        assert worker.scheduler.address == worker.scheduler_address == s.address
        assert worker.address in s.workers
    with dask.config.set({"scheduler-address": None}):
        tls = "import dask; dask.config.set(scheduler_address='tls://configured:1')"
        worker = fastworker.Worker(preload=tls)
        assert worker.scheduler_address == "tls://configured:1"
        assert worker._protocol == "tls"
        assert fastworker.Worker("host:2", preload=tls).scheduler_address == "tcp://host:2"


@pytest.mark.parametrize(
    "of_scheduler, of_worker, protocol, reason",
    [
        ("ours", "other", "tls", "unknown ca"),
        ("ours", None, "tcp", "reset|closed"),
        (None, "ours", "tls", "WRONG_VERSION_NUMBER|wrong version number"),
    ],
)
@gen_test()
async def test_it_says_why_there_is_no_connection(
    tmp_path, of_scheduler, of_worker, protocol, reason
):
    """The certificates, most often. distributed's worker tries again without a word."""

    def security(issuer):
        if issuer is None:
            return None
        cert, key = map(str, authorities[issuer].issue())
        ca_file = str(authorities["ours"].ca_file)
        files = {
            f"tls_{r}_{kind}": f
            for r in ("scheduler", "worker")
            for kind, f in (("cert", cert), ("key", key))
        }
        return distributed.Security(tls_ca_file=ca_file, require_encryption=True, **files)

    authorities = {}
    for name in ("ours", "other"):
        (tmp_path / name).mkdir()
        authorities[name] = Authority(tmp_path / name, name)
    served = {"security": security(of_scheduler), "protocol": "tls"} if of_scheduler else {}
    async with distributed.Scheduler(
        port=0, host="127.0.0.1", dashboard=False, **served
    ) as scheduler:
        address = f"{protocol}://{scheduler.address.partition('://')[2]}"
        worker = fastworker.Worker(address, security=security(of_worker), death_timeout="2.5s")
        with captured_logger("distributed.worker", level=logging.WARNING) as log:
            with pytest.raises(asyncio.TimeoutError):
                await worker
    (line,) = [line for line in log.getvalue().splitlines() if "Still waiting" in line]
    assert re.search(f"^Still waiting for a scheduler at {address}: .*({reason})", line)


@gen_test()
async def test_it_says_that_it_waits_for_the_scheduler():
    worker = fastworker.Worker("tcp://127.0.0.1:1", death_timeout="1.5s")
    with captured_logger("distributed.worker", level=logging.WARNING) as log:
        with pytest.raises(asyncio.TimeoutError):
            await worker
    assert log.getvalue().count("Still waiting for a scheduler at tcp://127.0.0.1:1: ") == 1
    assert "_say_what_it_waits_for" not in repr(asyncio.all_tasks())


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 100, b""])
@gen_test()
async def test_it_says_that_what_it_waits_for_is_no_scheduler(greeting):
    async def greet(reader, writer):
        writer.write(greeting)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        worker = fastworker.Worker(f"tcp://{host}:{port}", death_timeout="1.5s")
        with captured_logger("distributed.worker", level=logging.WARNING) as log:
            with pytest.raises((asyncio.TimeoutError, RuntimeError, OSError, MemoryError)):
                await worker
    assert log.getvalue().count(f"Still waiting for a scheduler at tcp://{host}:{port}: ") == 1


@gen_test()
async def test_it_joins_the_scheduler_on_port_8786():
    try:
        scheduler = distributed.Scheduler(host="127.0.0.1", port=8786, dashboard_address=":0")
        await scheduler
    except (OSError, RuntimeError) as error:
        pytest.skip(f"something else is there: {error}")
    async with scheduler, fastworker.Worker() as worker:
        assert worker.address in scheduler.workers


# what it is


@gen_cluster(**no_workers)
async def test_it_is_a_distributed_worker_on_the_core(c, s):
    async with fastworker.Worker(s.address) as w:
        assert isinstance(w, distributed.Worker)
        assert type(w.state) is WorkerState
        assert await c.submit(inc, 1) == 2
        assert w.data


@gen_cluster(**no_workers)
async def test_the_state_machine_can_be_chosen(c, s):
    from distributed.worker_state_machine import WorkerState as Stock

    class Mine(Stock):
        pass

    async with fastworker.Worker(s.address, WorkerStateClass=Mine) as w:
        assert type(w.state) is Mine
        x = c.submit(inc, 1, key="x")
        assert await x == 2
        assert w.task_state == {"x": "memory"}
        w.release_key("x", report=False)
        assert not w.tasks


@gen_cluster(**no_workers)
async def test_stock_s_worker_on_our_core(c, s):
    async with distributed.Worker(s.address, WorkerStateClass=WorkerState) as w:
        assert type(w.state) is WorkerState
        assert await c.gather(c.map(inc, range(20))) == list(range(1, 21))


@gen_cluster(**no_workers)
async def test_repr_shows_it_and_its_state(c, s):
    worker = fastworker.Worker(s.address, name="hal", nthreads=3)
    assert repr(worker) == (
        "<Worker 'not-running', name: hal, status: init, stored: 0, running: 0/3, ready: 0, "
        "comm: 0, waiting: 0>"
    )
    async with worker:
        with gate("repr") as g:
            data = await c.scatter({"d": 1}, workers=[worker.address])
            x = c.submit(g.pass_through, key="x")
            await until(g.entered.is_set)
            assert repr(worker) == (
                f"<Worker '{worker.address}', name: hal, status: running, stored: 1, "
                "running: 1/3, ready: 0, comm: 0, waiting: 0>"
            )
            g.opened.set()
            await x
            del data
    assert "status: closed" in repr(worker)


@gen_cluster(**no_workers)
async def test_each_has_a_free_port_of_its_own(c, s):
    async with fastworker.Worker(s.address) as a, fastworker.Worker(s.address) as b:
        assert a.port and b.port and a.port != b.port
        assert set(s.workers) == {a.address, b.address}


# start, register, handle_comm


@gen_cluster(**no_workers)
async def test_start_and_register(c, s):
    worker = fastworker.Worker(s.address)
    assert worker.status is Status.init
    await worker.register()
    assert worker.status is Status.running
    assert worker.address in s.workers
    stream = worker.batched_stream.comm
    await worker.register()
    assert await worker.start() is worker
    assert worker.batched_stream.comm is stream
    await worker.close()
    with pytest.raises(RuntimeError, match="cannot register: it is closed"):
        await worker.register()


@cluster(nthreads=ONE_WORKER)
async def test_handle_comm(c, s, a):
    comm = await connect(a.address)
    await comm.write({"op": "identity"})
    identity = await comm.read()
    assert (identity["type"], identity["id"]) == ("Worker", a.id)
    await comm.write({"op": "ping"})
    assert await comm.read() == b"pong"
    await comm.write({"op": "keys"})
    assert list(await comm.read()) == []
    await comm.close()


# close, terminate


@cluster()
async def test_close_reports(c, s, a, b):
    changes = heard(s, "worker-status-change")
    assert await a.close() == "OK"
    assert a.status is Status.closed
    await until(lambda: a.address not in s.workers)
    assert [message["status"] for message in changes] == ["closing"]
    assert await a.close() is None


class Held(distributed.WorkerPlugin):
    """Keeps its worker from closing."""

    async def teardown(self, worker):
        await asyncio.Event().wait()


@cluster(nthreads=ONE_WORKER)
async def test_close_that_is_cancelled_is_finished(c, s, a):
    await c.submit(inc, 1)
    await a.plugin_add(plugin=Held(), name="held")
    first = asyncio.create_task(a.close())
    await until(lambda: a.status == Status.closing)
    second = asyncio.create_task(a.close())
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    assert a.status == Status.closing  # the first goes on
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert a.status == Status.closed
    await asyncio.wait_for(a.finished(), 10)
    assert await a.close() is None
    await until(lambda: not s.workers)
    # The process is not the worker's alone.
    assert "fastworker-end" not in [thread.name for thread in threading.enumerate()]


@cluster(nthreads=ONE_WORKER)
async def test_close_that_fails_is_finished(c, s, a):
    async def fail():
        raise OSError("no teardown today")

    with mock.patch.object(a.preloads, "teardown", fail):
        with pytest.raises(OSError, match="no teardown today"):
            await a.close()
    assert a.status == Status.closed
    await asyncio.wait_for(a.finished(), 10)
    await until(lambda: not s.workers)


@pytest.mark.parametrize("how", ["close", "terminate"])
@cluster()
async def test_close_without_a_word(c, s, a, b, how):
    changes, words = heard(s, "worker-status-change"), heard(s, "log-event")
    a.log_event("unsent", "would leave in the event loop's next round")
    assert a.batched_stream.buffer
    assert await getattr(a, how)(report=False) == "OK"
    assert a.status is Status.closed
    await until(lambda: a.address not in s.workers)
    assert not changes
    assert not words


@cluster()
async def test_terminate(c, s, a, b):
    assert await a.terminate() == "OK"
    await until(lambda: set(s.workers) == {b.address})
    assert await c.submit(inc, 1) == 2


# a broken state machine closes the worker and says why


@pytest.mark.parametrize("through", ["a verb", "an event"])
@gen_test()
async def test_an_invalid_transition_is_reported_and_closes_the_worker(through):
    async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s:
        async with fastworker.Worker(s.address) as a:
            a.update_data({"x": 1})
            await until(lambda: a.thread_id)
            with pytest.raises(InvalidTransition):
                if through == "a verb":
                    a._recommend(a.tasks["x"], ("long-running", 1.0), "test")
                else:
                    a.handle_stimulus(
                        SecedeEvent(key="x", compute_duration=1.0, stimulus_id="test")
                    )
            await a.finished()
            assert a.status is Status.closed
            await until(lambda: s.get_events("invalid-worker-transition"))
            finish = "long-running"
            [[_, event]] = s.get_events("invalid-worker-transition")
            assert (event["key"], event["start"], event["finish"]) == ("x", "memory", finish)
            assert event["worker"] == a.address
            assert s.get_events("worker-fail-hard")


@gen_test()
async def test_a_transfer_that_breaks_closes_the_worker_under_distributeds_name(monkeypatch):
    async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s:
        async with fastworker.Worker(s.address) as a:
            monkeypatch.delattr(a._fetcher, "_worker")
            with captured_logger("distributed.worker", level=logging.INFO) as log:
                with pytest.raises(AttributeError):
                    await a.gather_dep(s.address, ["x"], 1, stimulus_id="test")
                await a.finished()
            assert "Reason: worker-gather_dep-fail-hard" in log.getvalue()


# shutdown


@gen_cluster(client=True, nthreads=[("127.0.0.1", 1)] * 3, Worker=fastworker.Worker, timeout=60)
async def test_shutdown_awaited(c, s, a, b, w):
    assert await fastworker.shutdown([a.address, b.address]) == [a.address, b.address]
    assert a.status is b.status is Status.closed
    await until(lambda: set(s.workers) == {w.address})
    assert await fastworker.shutdown(w.address) == [w.address]
    assert w.status is Status.closed
    assert await fastworker.shutdown([]) == []


@cluster()
async def test_shutdown_of_workers_that_are_not_there(c, s, a, b):
    gone = "tcp://127.0.0.1:1"
    with pytest.raises(
        ConnectionError, match=f"could not terminate {gone} .*, nonsense "
    ) as caught:
        await fastworker.shutdown([gone, a.address, "nonsense"], timeout="2s")
    assert a.address not in str(caught.value)
    assert a.status is Status.closed
    assert b.status is Status.running
    with pytest.raises(TypeError, match=r"an address must be a str such as .*, got 5"):
        await fastworker.shutdown([b.address, 5])
    assert b.status is Status.running


@gen_test()
async def test_shutdown_over_tls():
    security = distributed.Security.temporary()
    async with distributed.Scheduler(
        protocol="tls", port=0, host="127.0.0.1", dashboard_address=":0", security=security
    ) as s:
        async with fastworker.Worker(s.address, security=security) as w:
            assert w.address.startswith("tls://")
            assert await fastworker.shutdown([w.address], security=security) == [w.address]
            assert w.status is Status.closed


def test_shutdown_from_a_script():
    cluster = distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        worker_class=fastworker.Worker,
        processes=True,
        dashboard_address=":0",
    )
    with cluster:
        workers = {name: nanny.worker_address for name, nanny in cluster.workers.items()}
        assert len(workers) == 2
        script = f"import fastworker; print(fastworker.shutdown({list(workers.values())!r}))"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == repr(list(workers.values())), done.stderr
        with distributed.Client(cluster) as client:
            assert client.scheduler_info()["workers"] == {}
        for nanny in cluster.workers.values():  # and none starts another worker
            cluster.sync(nanny.finished)


# Nanny, LocalCluster


@gen_cluster(
    client=True,
    nthreads=ONE_WORKER,
    Worker=distributed.Nanny,
    worker_kwargs={"worker_class": fastworker.Worker},
    timeout=60,
)
async def test_nanny(c, s, a):
    kinds = await c.run(lambda dask_worker: f"{type(dask_worker).__module__}")
    assert set(kinds.values()) == {"fastworker.worker"}
    first = a.pid
    assert await c.submit(inc, 1) == 2
    await c.restart()
    assert a.pid != first
    assert await c.submit(inc, 2) == 3


@gen_cluster(nthreads=[], timeout=60)
async def test_a_nanny_as_the_worker_of_a_nanny(s):
    """It happens: LocalCluster takes either class, `--worker-class` only that of a worker."""
    with captured_logger("distributed"), pytest.raises(RuntimeError) as raised:
        await distributed.Nanny(s.address, worker_class=fastworker.Nanny)
    cause = raised.value.__cause__
    assert isinstance(cause, TypeError)
    assert "a nanny cannot be the worker of another; as the worker class" in str(cause)


@pytest.mark.parametrize("processes", [True, False], ids=["processes", "in-process"])
def test_local_cluster(processes):
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=2,
        worker_class=fastworker.Worker,
        processes=processes,
        dashboard_address=":0",
    ) as cluster:
        with distributed.Client(cluster) as client:
            kinds = client.run(lambda dask_worker: type(dask_worker).__module__)
            assert list(kinds.values()) == ["fastworker.worker"] * 2
            futures = client.map(inc, range(100))
            assert client.submit(sum, futures).result(timeout=30) == 5050
            here = threading.get_ident()
            assert client.submit(threading.get_ident).result(timeout=30) != here


@gen_test()
async def test_a_worker_of_many_threads_and_data():
    async with distributed.Scheduler(port=0, host="127.0.0.1", dashboard_address=":0") as s:
        async with fastworker.Worker(s.address, nthreads=8), fastworker.Worker(s.address):
            async with distributed.Client(s.address, asynchronous=True) as c:
                layer = c.map(inc, range(200))
                while len(layer) > 1:
                    pairs = zip(layer[::2], layer[1::2] or [0], strict=False)
                    layer = [c.submit(lambda x, y: x + y, x, y) for x, y in pairs] + (
                        [layer[-1]] if len(layer) % 2 else []
                    )
                assert await layer[0] == sum(range(1, 201))


def test_importing_the_package_is_cheap():
    script = "import sys, fastworker; print('distributed' in sys.modules, fastworker.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", fastworker.__version__]


@pytest.mark.parametrize("worker_class", [fastworker.Worker, distributed.Worker])
@gen_cluster(**no_workers)
async def test_what_is_logged_of_heartbeats(c, s, worker_class):
    """Users' scripts look for these lines."""

    async def broken(**kwargs):
        raise CommClosedError

    async def missing(**kwargs):
        return {"status": "missing"}

    async def wrong(**kwargs):
        raise ValueError("wrong")

    said = []
    for answer in (broken, missing, wrong):
        async with worker_class(s.address, heartbeat_interval="100s") as w:
            await until(lambda w=w: w.periodic_callbacks["heartbeat"].is_running())
            with captured_logger("distributed.worker", level=logging.WARNING) as log:
                w.scheduler.heartbeat_worker = answer
                with pytest.raises(ValueError) if answer is wrong else nullcontext():
                    await w.heartbeat()
            said.append((log.getvalue().splitlines()[0], w.status.name))
    assert said == [
        ("Failed to communicate with scheduler during heartbeat.", "running"),
        ("Scheduler was unaware of this worker; shutting down.", "closed"),
        ("Unexpected exception during heartbeat. Closing worker.", "closed"),
    ]
