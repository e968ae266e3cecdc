"""Tasks that arrive from the scheduler and cannot be unpickled on the worker."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
from dask.utils_test import inc
from distributed.comm import CommClosedError
from distributed.utils_test import captured_logger, gen_cluster, wait_for_state

from fastworker.link.reader import SchedulerStream, UnloadableTask
from support.beside_stock import as_stock
from support.in_process import ONE_WORKER, cluster, gate, until


class OnlyElsewhere:
    """Can be unpickled everywhere but where ``broken`` says: once armed, by the next worker."""

    armed = False

    def __init__(self, size=0):
        self.ballast = bytes(size)

    def __reduce__(self):
        return _load, (self.ballast,)


def _load(ballast):
    if OnlyElsewhere.armed:
        raise ModuleNotFoundError("no such module on this worker")
    return OnlyElsewhere(len(ballast))


class Armed:
    """Arms OnlyElsewhere as soon as the scheduler pickles that task for the worker."""

    def __init__(self, scheduler, key="x"):
        self.scheduler = scheduler
        self.key = key

    def __enter__(self):
        self.make = self.scheduler._task_to_msg

        def make(ts):
            if ts.key == self.key:
                OnlyElsewhere.armed = True
            return self.make(ts)

        self.scheduler._task_to_msg = make

    def __exit__(self, *_):
        self.scheduler._task_to_msg = self.make
        OnlyElsewhere.armed = False


def use(thing, x):
    return x


@cluster(nthreads=ONE_WORKER)
async def test_it_is_reported_and_leaves_nothing(c, s, a):
    with Armed(s):
        with pytest.raises(ModuleNotFoundError, match="no such module on this worker") as caught:
            await c.submit(use, OnlyElsewhere(), 1, key="x")
    assert any(entry.name == "_load" for entry in caught.traceback)
    assert a.status.name == "running"
    assert not a.tasks
    assert [entry[1] for entry in a.state.story("x")] == ["undeserializable"]
    assert await c.submit(inc, 1) == 2


@gen_cluster(nthreads=ONE_WORKER, client=True, timeout=30)
async def test_stock_dies_of_it(c, s, a):
    """Why any of this is there: once this fails, distributed has learnt it too."""
    with Armed(s):
        future = c.submit(use, OnlyElsewhere(), 1, key="x")
        await until(lambda: a.status.name == "closed")
        assert future.status == "pending"


@pytest.mark.filterwarnings("ignore:Sending large graph")
@pytest.mark.parametrize("size", [0, 20_000_000], ids=["small", "decoded-in-a-thread"])
@cluster(nthreads=ONE_WORKER)
async def test_the_rest_of_the_batch_is_worked_off(c, s, a, size):
    things = [c.submit(inc, i) for i in range(20)]
    with Armed(s, "bad"):
        bad = c.submit(use, OnlyElsewhere(size), 1, key="bad")
        more = [c.submit(inc, i) for i in range(20, 40)]
        with pytest.raises(ModuleNotFoundError):
            await bad
    assert await c.gather(things + more) == list(range(1, 41))
    assert a.status.name == "running"


@cluster(nthreads=ONE_WORKER)
async def test_its_retries_are_counted(c, s, a):
    with Armed(s):
        with pytest.raises(ModuleNotFoundError):
            await c.submit(use, OnlyElsewhere(), 1, key="x", retries=2)
    story = [entry[1] for entry in a.state.story("x")]
    assert story.count("undeserializable") == 3


@cluster(nthreads=ONE_WORKER)
async def test_those_that_depend_on_it_fail(c, s, a):
    with Armed(s):
        x = c.submit(use, OnlyElsewhere(), 1, key="x")
        y = c.submit(inc, x, key="y")
        with pytest.raises(ModuleNotFoundError):
            await y
    assert not a.tasks


@cluster(nthreads=ONE_WORKER)
async def test_a_task_that_is_known_already_needs_no_run_spec(c, s, a):
    """The scheduler sends again what it has sent before; what is here serves."""
    bad = UnloadableTask(ValueError("not again"))
    with gate("known") as g:
        running = c.submit(g.pass_through, 1, key="running", workers=[a.address])
        ready = c.submit(inc, 1, key="ready", workers=[a.address])
        await wait_for_state("ready", "ready", a)
        for key in ("running", "ready"):
            message = s._task_to_msg(s.tasks[key])
            message.pop("op")
            a._handle_compute_task(**{**message, "run_spec": bad})
        assert a.task_state == {"running": "executing", "ready": "ready"}
        assert a.tasks["ready"].run_spec is not None
        g.opened.set()
        assert await c.gather([running, ready]) == [1, 2]


@cluster(nthreads=ONE_WORKER)
async def test_the_end_of_the_stream(c, s, a):
    comm = a.batched_stream.comm
    stream = SchedulerStream(comm)
    assert stream.peer_address == s.address
    assert not stream.closed()
    comm.abort()
    assert stream.closed()
    with pytest.raises(CommClosedError):
        await stream.read()
    await a.finished()


@pytest.mark.usefixtures("either_comm")
@cluster(nthreads=ONE_WORKER)
async def test_a_stream_of_rubbish_closes_the_worker(c, s, a):
    """As with stock: what cannot be decoded at all cannot be answered."""
    server = s.stream_comms[a.address].comm
    server.stream.socket.sendall(b"".join(itertools.repeat(b"\x08" + bytes(7), 3)))
    await a.finished()
    assert a.status.name == "closed"


@as_stock()
async def test_a_message_without_a_handler_is_logged_and_the_next_ones_are_handled(
    client, scheduler, a
):
    stream = scheduler.stream_comms[a.address]
    with captured_logger("distributed.core") as log:
        stream.send({"op": None, "what": "nonsense"})
        assert await client.submit(inc, 1, key="x") == 2
    assert log.getvalue() == "odd message {'what': 'nonsense'}\n"


@as_stock()
async def test_pdb_on_err_stops_where_a_handler_failed(client, scheduler, a):
    with (
        mock.patch("distributed.core.LOG_PDB", True),
        mock.patch("pdb.set_trace") as set_trace,
        captured_logger("distributed.worker"),
    ):
        scheduler.stream_comms[a.address].send({"op": "no-such-op"})
        await until(lambda: a.status.name == "closed")
    set_trace.assert_called_once_with()
