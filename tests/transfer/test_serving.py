"""Handing out results: what peers and clients get, and what the worker keeps of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import threading
import types
import weakref

import dask
import distributed
import numpy as np
import pytest
from dask.utils_test import inc
from distributed.comm import tcp as stock_tcp
from distributed.comm.registry import backends
from distributed.core import ConnectionPool, Status
from distributed.protocol.serialize import families, register_serialization_family
from distributed.utils import offload
from distributed.utils_test import captured_logger
from distributed.worker import get_data_from_worker
from distributed.worker_state_machine import FreeKeysEvent

import fastworker
from fastworker.comm import use
from fastworker.comm.parser import MessageTooLarge
from support.beside_stock import as_stock
from support.in_process import cluster, gate, heard, until

native = cluster(config={"fastworker.comm.transport": "native"})


async def ask(client, worker, keys, **kwargs):
    """What ``get_data`` answers to a client, from end to end."""
    return await get_data_from_worker(client.rpc, keys=keys, worker=worker.address, **kwargs)


@native
async def test_what_is_here_and_nothing_else(c, s, a, b):
    held = await c.scatter(
        {"x": 1, ("y", 1): np.arange(5), "z": {"a": [b"b"]}}, workers=[a.address]
    )
    answer = await ask(c, a, ["x", ("y", 1), "z", "gone"])
    assert answer["status"] == "OK"
    data = answer["data"]
    assert data.keys() == {"x", ("y", 1), "z"}
    assert data["x"] == 1 and data["z"] == {"a": [b"b"]}
    assert data["y", 1].tolist() == [0, 1, 2, 3, 4]
    assert (await ask(c, a, []))["data"] == {}
    del held


@native
async def test_busy(c, s, a, b):
    held = await c.scatter({"x": 1}, workers=[a.address])

    async def is_busy(under_way, limit):
        await until(lambda: a.transfer_outgoing_count == 0)
        a.transfer_outgoing_count_limit = limit
        a.transfer_outgoing_count = under_way
        answer = await ask(c, a, ["x"])
        await until(lambda: a.transfer_outgoing_count == under_way)
        a.transfer_outgoing_count = 0
        if answer["status"] == "busy":
            assert answer == {"status": "busy"}
            return True
        assert answer["data"] == {"x": 1}
        return False

    assert not await is_busy(5, 3)  # twice as many on one host
    assert await is_busy(6, 3)
    assert not await is_busy(6, False)
    a.status = Status.paused
    with captured_logger("distributed.worker", level=logging.DEBUG) as log:
        assert await is_busy(1, 3)
    (said,) = (line for line in log.getvalue().splitlines() if "too many open" in line)
    assert said.endswith("(1/1). Throttling outgoing data transfers because worker is paused.")
    assert not await is_busy(0, 3)
    a.status = Status.running
    del held


@native
async def test_the_books(c, s, a, b):
    held = await c.scatter({"x": bytes(1000), "y": bytes(500)}, workers=[a.address])
    nbytes = {key: a.state.tasks[key].nbytes for key in "xy"}
    await ask(c, a, ["x", "y"], who="tcp://1.2.3.4:5")
    await until(lambda: len(a.transfer_outgoing_log) == 1)
    (entry,) = a.transfer_outgoing_log
    assert entry["keys"] == nbytes
    assert entry["total"] == sum(nbytes.values()) == a.transfer_outgoing_bytes_total
    assert entry["who"] == "tcp://1.2.3.4:5"
    assert entry["compressed"] > 1500
    assert a.transfer_outgoing_count_total == 1
    assert a.transfer_outgoing_count == a.transfer_outgoing_bytes == 0
    del held


@native
async def test_the_books_after_a_result_that_cannot_be_read(c, s, a, b):
    held = await c.scatter({"x": 1}, workers=[a.address])

    class Broken(dict):
        def __getitem__(self, key):
            raise OSError("the disk is gone")

    data, a.memory_manager.data = a.data, Broken(x=1)
    try:
        with pytest.raises(OSError, match="the disk is gone"):
            await ask(c, a, ["x"])
        assert a.transfer_outgoing_count == a.transfer_outgoing_bytes == 0
    finally:
        a.memory_manager.data = data
    del held


def total(xs):
    return sum(int(np.sum(x)) for x in xs)


@native
async def test_many_small_results_and_large_ones(c, s, a, b):
    small = c.map(lambda i: np.full(10, i), range(2000), workers=[a.address])
    large = c.map(lambda i: np.full(2**20, i), range(4), workers=[a.address])
    assert await c.submit(total, small, workers=[b.address]) == 10 * sum(range(2000))
    assert await c.submit(total, large, workers=[b.address]) == 2**20 * 6
    fetched = b.data[large[3].key]
    assert fetched.flags.writeable and fetched.flags.aligned


class Heavy:
    """Is serialized in the thread for that, and counts how often."""

    def __init__(self):
        self.text = "as it was made"
        self.pickled = 0
        self.held_up = contextlib.nullcontext()

    def __sizeof__(self):
        return 50_000_000

    def __reduce__(self):
        self.pickled += 1
        text = self.text
        with self.held_up:
            return "".join, ([text],)


async def heavy_at(client, worker):
    """A future of a `Heavy` on a worker, and the object itself."""
    future = client.submit(Heavy, key="x", workers=[worker.address])
    await distributed.wait(future)
    return future, worker.data["x"]


async def ask_often(client, worker, times):
    """Requests for "x" that have all come to the worker."""
    before = worker.transfer_outgoing_count_total
    worker.transfer_outgoing_count_limit = False
    requests = [asyncio.ensure_future(ask(client, worker, ["x"])) for _ in range(times)]
    await until(lambda: worker.transfer_outgoing_count_total == before + times)
    return requests


async def answers(requests):
    return [answer["data"]["x"] for answer in await asyncio.gather(*requests)]


@native
async def test_what_many_ask_for_at_once_is_serialized_once(c, s, a, b):
    future, here = await heavy_at(c, a)
    with gate("busy") as busy:
        held = asyncio.ensure_future(offload(busy.pass_through))
        requests = await ask_often(c, a, 10)
        assert here.pickled == 0
    assert await answers(requests) == ["as it was made"] * 10
    assert here.pickled == 1
    await held
    assert await answers(await ask_often(c, a, 1)) == ["as it was made"]
    assert here.pickled == 2
    await until(lambda: not a.transfer_outgoing_count)
    assert not a._result_server._sharing
    del future


@native
async def test_a_request_that_comes_after_a_change_gets_the_change(c, s, a, b):
    """Serializing has begun for earlier requests; a later request does not share it."""
    future, here = await heavy_at(c, a)
    entered, go_on = threading.Event(), threading.Event()

    class HeldUp:
        def __enter__(self):
            entered.set()
            assert go_on.wait(30)

        def __exit__(self, *args):
            here.held_up = contextlib.nullcontext()

    here.held_up = HeldUp()
    try:
        first = await ask_often(c, a, 1)
        await until(entered.is_set)
        here.text = "changed"
        later = await ask_often(c, a, 5)
    finally:
        go_on.set()
    assert await answers(first) == ["as it was made"]
    assert await answers(later) == ["changed"] * 5
    assert here.pickled == 2
    del future


def change(x):
    x["a"][:] = 2.0
    x["b"] = "changed"


@as_stock(nthreads=[("127.0.0.1", 1)] * 2)
async def test_a_result_changed_in_place_is_served_as_it_is_now(c, s, a, b):
    x = c.submit(lambda: {"a": np.zeros(10_000), "b": "as it was"}, key="x", workers=[a.address])
    await distributed.wait(x)
    first = (await ask(c, a, ["x"]))["data"]["x"]
    assert (first["a"][0], first["b"]) == (0.0, "as it was")
    await c.submit(change, x, workers=[a.address])
    second = (await ask(c, a, ["x"]))["data"]["x"]
    assert (second["a"][0], second["b"]) == (2.0, "changed")
    del x


class Seen(dict):
    """A dict that one can tell the end of."""


@pytest.mark.parametrize("end", ["freed", "spilled", "replaced"])
@as_stock(nthreads=[("127.0.0.1", 1)] * 2)
async def test_nothing_is_kept_of_what_was_served(c, s, a, b, *, end):
    x = c.submit(lambda: Seen(a=np.zeros(10**5)), key="x", workers=[a.address])
    await distributed.wait(x)
    refs = [weakref.ref(a.data["x"]), weakref.ref(a.data["x"]["a"])]
    await ask(c, a, ["x"])
    await until(lambda: not a.transfer_outgoing_count)
    if end == "freed":
        del x
        await until(lambda: "x" not in a.data)
    elif end == "spilled":
        a.data.evict()
    else:
        a.data["x"] = 1
    assert [ref() for ref in refs] == [None, None]


def of_one(x):
    return type(x).__name__


class Big:
    def __reduce__(self):
        return bytes, (bytes(50_000),)


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("stays where it is")


class Unwelcome:
    def __reduce__(self):
        return int, ("not a number",)


class Elsewhere:
    def __reduce__(self):
        return open, ("/no/such/place",)


def end_early():
    raise EOFError("not a whole one")


class Truncated:
    def __reduce__(self):
        return end_early, ()


@pytest.mark.parametrize("value", [Stubborn, Unwelcome, Elsewhere, Truncated])
@native
async def test_what_cannot_travel_is_an_error_of_the_tasks_that_need_it(c, s, a, b, value):
    """Stock has those tasks wait for ever, and all that were to be fetched with it."""
    x = c.submit(value, key="x", workers=[a.address])
    good = c.map(inc, range(20), workers=[a.address])
    await distributed.wait([x, *good])
    y = c.submit(of_one, x, key="y", workers=[b.address])
    z = c.submit(lambda x, *others: 1, x, *good, key="z", workers=[b.address], retries=1)
    total_of_good = c.submit(total, good, workers=[b.address], key="total")
    assert await total_of_good == sum(range(1, 21))
    for future in (y, z):
        with pytest.raises(
            (TypeError, ValueError, FileNotFoundError, EOFError),
            match=r"serialize|not a number|no/such|not a whole",
        ):
            await future
    # As erred tasks do, these stay for as long as a client wants them, and both workers go on
    assert b.task_state["y"] == b.task_state["z"] == "error"
    for future in (y, z):
        future.release()
    await until(lambda: "x" not in b.state.tasks)
    assert await c.submit(inc, x=1, workers=[a.address]) == 2
    assert await c.submit(inc, 2, workers=[b.address]) == 3


@cluster(
    config={"fastworker.comm.transport": "native", "fastworker.comm.max-message-bytes": "1 MiB"}
)
async def test_what_is_larger_than_a_message_may_be(c, s, a, b):
    """It is not asked for again, as if the network had failed."""
    sizes = [700_000, 700_000, 5_000_000]
    xs = c.map(bytes, sizes, workers=[a.address])
    await distributed.wait(xs)
    ys = c.map(len, xs, workers=[b.address])
    assert await c.gather(ys[:2]) == sizes[:2]  # too large together, so they come one by one
    with pytest.raises(MessageTooLarge, match=r"5000... bytes.*fastworker.comm.max-message-bytes"):
        await ys[2]


@native
async def test_what_cannot_travel_and_no_task_needs(c, s, a, b):
    x = c.submit(Stubborn, key="x", workers=[a.address])
    y = c.submit(inc, 1, key="y", workers=[a.address])
    await distributed.wait([x, y])
    s.request_acquire_replicas(b.address, ["x", "y"], stimulus_id="by hand")
    await until(lambda: "y" in b.data)
    await until(lambda: "x" not in b.state.tasks)


def gathered(worker):
    """The labels of what was metered of a worker's transfers, by seconds."""
    return {
        name[1]
        for name in worker.digests_total
        if isinstance(name, tuple) and name[0] == "gather-dep" and name[-1] == "seconds"
    }


@pytest.mark.parametrize("value", [Unwelcome, Elsewhere, Truncated])
@as_stock(nthreads=[("127.0.0.1", 1)] * 2)
async def test_what_cannot_be_made_is_metered_as_failed(c, s, a, b, *, value):
    x = c.submit(value, key="x", workers=[a.address])
    await distributed.wait(x)
    s.request_acquire_replicas(b.address, ["x"], stimulus_id="by hand")
    await until(lambda: gathered(b))
    assert gathered(b) == {"failed"}
    b.handle_stimulus(FreeKeysEvent(keys=["x"], stimulus_id="by hand"))


@pytest.mark.parametrize("value", [Unwelcome, Elsewhere, Truncated])
@native
async def test_what_could_not_be_made_holds_nothing(c, s, a, b, *, value):
    """No frame that it came through is left for the garbage collector."""
    futures = [c.submit(value, key="x", workers=[a.address])]
    futures += c.map(inc, range(3), workers=[a.address])
    await distributed.wait(futures)
    good = {future.key for future in futures[1:]}
    logging.disable(logging.CRITICAL)  # pytest keeps what is logged, and errors with it
    gc.collect()
    gc.disable()
    try:
        s.request_acquire_replicas(b.address, ["x", *good], stimulus_id="by hand")
        await until(lambda: set(b.data) == good and "x" not in b.state.tasks)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [
            found.f_code
            for found in gc.garbage
            if isinstance(found, types.FrameType) and "fastworker" in found.f_code.co_filename
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        logging.disable(logging.NOTSET)
    assert left == []
    del futures


class BusyOnce(fastworker.Worker):
    """Is busy when it is first asked for a good result alone."""

    asked = 0

    async def get_data(self, comm, keys, who=None, serializers=None):
        if len(keys) == 1 and "bad" not in keys:
            self.asked += 1
            if self.asked == 1:
                return {"status": "busy"}
        return await super().get_data(comm, keys, who, serializers)


@cluster(Worker=BusyOnce, config={"fastworker.comm.transport": "native"})
async def test_a_peer_that_gets_busy_in_the_middle_is_asked_again(c, s, a, b):
    bad = c.submit(Unwelcome, key="bad", workers=[a.address])
    good = c.map(inc, range(5), workers=[a.address])
    await distributed.wait([bad, *good])
    s.request_acquire_replicas(
        b.address, ["bad", *(future.key for future in good)], stimulus_id="by hand"
    )
    await until(lambda: all(future.key in b.data for future in good))
    assert a.asked == 6
    assert {line[0] for line in b.state.log if line[1] == "missing-dep"} <= {"bad"}


class Odd(distributed.Worker):
    """Answers with what no peer expects."""

    async def get_data(self, comm, keys, who=None, serializers=None):
        return {"status": "odd"}


@native
async def test_an_odd_answer_is_an_error_that_says_so(c, s, a, b):
    async with Odd(s.address, name="odd") as odd:
        x = c.submit(inc, 1, key="x", workers=[odd.address])
        await distributed.wait(x)
        with captured_logger("fastworker.data", level=logging.ERROR) as log:
            y = c.submit(inc, x, key="y", workers=[b.address])
            with pytest.raises(ValueError, match=r"unexpected answer from tcp.*odd"):
                await y
        assert "{'status': 'odd'}" in log.getvalue()


@pytest.mark.parametrize("value", [Unwelcome, Elsewhere])
@native
async def test_a_peer_that_cannot_make_the_answer_goes_on_with_the_connection(c, s, a, b, *, value):
    """Stock takes the next request for the word that the results have arrived."""
    x = c.submit(value, key="x", workers=[a.address])
    await distributed.wait(x)
    comm = await stock_tcp.TCPConnector().connect(a.address.removeprefix("tcp://"))
    await comm.write(comm.handshake_info())  # as `distributed.comm.connect` does
    await comm.read()
    request = {"op": "get_data", "keys": ["x"], "who": None, "reply": True}
    for _ in range(2):
        await comm.write(request)
        with pytest.raises((ValueError, FileNotFoundError)):
            await comm.read()
    await comm.write({"op": "identity", "reply": True})
    assert (await comm.read())["id"] == a.id
    await until(lambda: a.transfer_outgoing_count == a.transfer_outgoing_bytes == 0)
    assert not a.transfer_outgoing_log
    await comm.close()
    del x


@native
async def test_a_peer_that_says_neither_that_it_has_the_results_nor_anything_else(c, s, a, b):
    x = c.submit(inc, 1, key="x", workers=[a.address])
    await distributed.wait(x)
    comm = await distributed.comm.connect(a.address)
    await comm.write({"op": "get_data", "keys": ["x"], "who": None, "reply": True})
    await comm.read()
    await comm.write("what?")
    answer = await comm.read()
    assert answer["status"] == "uncaught-error"
    await comm.close()
    del x


@cluster(Worker=distributed.Worker)
async def test_a_connection_with_an_answer_that_cannot_be_made_is_not_used_again(c, s, a, b):
    """Where the peer is stock's, and the comm here is ours."""
    bad, good = c.submit(Unwelcome, key="bad"), c.submit(inc, 1, key="good")
    await distributed.wait([bad, good])
    (holder,) = s.tasks["bad"].who_has
    before = dict(backends)
    use("native")
    pool = await ConnectionPool()
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match="not a number"):
                await get_data_from_worker(pool, ["bad"], holder.address)
            assert pool.open == 0
        assert (await pool(holder.address).identity())["id"]
        assert pool.open == 1
    finally:
        await pool.close()
        backends.clear()
        backends.update(before)
    del bad, good


@native
async def test_copied_again_right_after_it_was_let_go(c, s, a, b):
    """The scheduler reads late that it was let go: in stock it takes the new copy for gone."""
    x = c.submit(inc, 1, key="x", workers=[a.address])
    added = heard(s, "add-keys")
    await c.replicate([x])
    await until(lambda: added)
    late = []
    for op in ("release-worker-data", "add-keys"):
        handle = s.stream_handlers[op]
        s.stream_handlers[op] = lambda handle=handle, **message: late.append((handle, message))
    s.request_remove_replicas(b.address, ["x"], stimulus_id="by hand")
    await until(lambda: "x" not in b.data)
    await c.replicate([x])
    assert b.data["x"] == 2
    await until(lambda: len(late) == 2)
    for handle, message in late:
        handle(**message)
    assert s.tasks["x"].who_has == {s.workers[a.address], s.workers[b.address]}
    del x
    await until(lambda: not a.data and not b.data)


@native
async def test_a_worker_that_goes_away_in_the_middle(c, s, a, b):
    xs = c.map(
        lambda i: np.full(2**20, i), range(20), workers=[a.address], allow_other_workers=True
    )
    await distributed.wait(xs)
    y = c.submit(total, xs, workers=[b.address])
    await until(lambda: b.state.in_flight_tasks_count)
    await a.close()
    assert await y == 2**20 * sum(range(20))


@pytest.mark.parametrize("protocol", ["inproc", "ws"])
def test_by_other_ways_than_tcp(protocol):
    """Large results too, which are kept for the next request, arrive as what they are."""
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=False,
            protocol=f"{protocol}://",
            worker_class=fastworker.Worker,
            dashboard_address=":0",
        ) as local,
        distributed.Client(local) as client,
    ):
        a, b = client.scheduler_info()["workers"]
        assert a.startswith(protocol)
        for value in (np.arange(10_000), "x" * 50_000, {"a": b"b" * 50_000}, 1):
            (there,) = client.scatter([value], workers=[a])
            kinds = [client.submit(type, there, workers=w, pure=False) for w in (a, b, b)]
            assert client.gather(kinds) == [type(value)] * 3
            assert type(there.result()) is type(value)


class Named:
    def __init__(self, name, way="pickle"):
        self.name = name
        self.way = way


def dumps_named(obj, context=None):
    if type(obj) is not Named:
        raise NotImplementedError
    return {"serializer": "named"}, [obj.name.encode()]


def loads_named(header, frames):
    return Named(bytes(frames[0]).decode(), "name")


@cluster(
    client_kwargs={"serializers": ["named", "pickle"]},
    worker_kwargs={"serializers": ["named", "pickle"]},
)
async def test_serializers_of_the_user_s(c, s, a, b):
    """Between workers, and to the client."""
    register_serialization_family("named", dumps_named, loads_named)
    try:
        x = c.submit(Named, "x", workers=a.address)
        y = c.submit(lambda x: x, x, workers=b.address)
        await distributed.wait(y)
        at_client = await x
        for found in (b.data[x.key], at_client):
            assert (found.name, found.way) == ("x", "name")
    finally:
        del families["named"]


def test_metrics_of_a_transfer_are_stock_s():
    seen = {}

    async def test(c, s, a, b):
        x = c.submit(lambda: {"a": Big()}, key="x", workers=[a.address])
        y = c.submit(np.arange, 5, key="y", workers=[a.address])
        assert await c.submit(lambda x, y: 1, x, y, workers=[b.address]) == 1
        await until(lambda: any("network" in name for name in served(a)))
        seen[type(a)] = served(a)

    def served(worker):
        return {
            name
            for name in worker.digests_total
            if isinstance(name, tuple) and name[0] == "get-data"
        }

    for kind, comm in ((distributed.Worker, "tornado"), (fastworker.Worker, "native")):
        with dask.config.set({"fastworker.comm.transport": comm}):
            distributed.utils_test.gen_cluster(client=True, timeout=60, Worker=kind)(test)()
    assert seen[fastworker.Worker] == seen[distributed.Worker]
    assert len(seen[fastworker.Worker]) > 3
