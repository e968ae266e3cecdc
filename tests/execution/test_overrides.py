"""What users put in the place of distributed's methods, attributes and handlers is theirs here too.

Each value is what the same code gets from distributed's own worker.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import distributed
import pytest
from dask.utils_test import inc
from distributed import WorkerPlugin
from distributed.worker import DEFAULT_EXTENSIONS

import fastworker
from fastworker.control.views import StateViews, view
from support.beside_stock import as_stock
from support.in_process import ONE_WORKER, cluster, gate, until

VIEWS = sorted(name for name, value in vars(StateViews).items() if isinstance(value, view))


async def work(client) -> None:
    assert await client.gather(client.map(inc, range(5), pure=False)) == [1, 2, 3, 4, 5]
    with pytest.raises(ZeroDivisionError):
        await client.submit(divide, 1, 0, pure=False)


def divide(x, y):
    return x / y


def log_here():
    distributed.get_worker().log_event("here", 1)


class OwnSending(fastworker.Worker):
    def __init__(self, *args, **kwargs):
        self.sent = []
        super().__init__(*args, **kwargs)

    def batched_send(self, msg):
        self.sent.append((msg["op"], threading.get_ident()))
        super().batched_send(msg)


class OwnHandler(fastworker.Worker):
    """Has a coroutine function take the place of a handler of the scheduler's messages."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        handle = self.stream_handlers["compute-task"]

        async def later(**message):
            await asyncio.sleep(0)
            handle(**message)

        self.stream_handlers["compute-task"] = later


class OwnHandlerAndExecute(OwnHandler):
    async def execute(self, key, **kwargs):
        return await super().execute(key, **kwargs)


class OwnFigures(fastworker.Worker):
    def __init__(self, *args, **kwargs):
        self.figures = []
        super().__init__(*args, **kwargs)

    def digest_metric(self, name, value):
        self.figures.append(name)
        super().digest_metric(name, value)


class Listener(WorkerPlugin):
    """Puts a function of its own in the place of a method of its worker's."""

    name = "listener"

    def __init__(self, method):
        self.method = method
        self.heard = []

    def setup(self, worker):
        original = getattr(worker, self.method)

        def listen(*args):
            self.heard.extend((arg, threading.get_ident()) for arg in args)
            return original(*args)

        setattr(worker, self.method, listen)

    def teardown(self, worker):
        delattr(worker, self.method)


class Extension:
    """Keeps parts of the worker when it is made, and takes some handlers for itself."""

    def __init__(self, worker):
        self.heard = []
        self.kept = {
            "batched_stream": worker.batched_stream,
            "data": worker.data,
            "executor": worker.executor,
            "state": worker.state,
        }
        for op in ("compute-task", "free-keys", "remove-replicas"):
            worker.stream_handlers[op] = self.listening(op, worker.stream_handlers[op])
        worker.batched_stream.send({"op": "log-event", "topic": "early", "msg": 1})

    def listening(self, op, handle):
        def listen(**message):
            self.heard.append(op)
            return handle(**message)

        return listen


@cluster(nthreads=[])
async def test_batched_send_of_a_subclass(c, s):
    """It sends whatever the worker sends, in the thread of the event loop."""
    async with OwnSending(s.address, nthreads=1) as a:
        await work(c)
        await c.submit(log_here)
        ops = Counter(op for op, _ in a.sent)
        assert ops["task-finished"] == 6 and ops["task-erred"] == 1 and ops["log-event"] == 1
        assert {thread for _, thread in a.sent} == {threading.get_ident()}


@cluster(nthreads=[])
async def test_digest_metric_of_a_subclass(c, s):
    """It is told what tasks took."""
    async with OwnFigures(s.address, nthreads=1) as a:
        await work(c)
        labels = {name[3] for name in a.figures if name[0] == "execute"}
        assert {"executor", "failed", "other", "thread-cpu", "thread-noncpu"} <= labels


@pytest.mark.parametrize(
    "method, what, expected",
    [
        ("batched_send", lambda msg: msg["op"], {"task-finished": 5, "task-erred": 1}),
        (
            "handle_stimulus",
            lambda event: type(event).__name__,
            {"ComputeTaskEvent": 6, "ExecuteSuccessEvent": 5, "ExecuteFailureEvent": 1},
        ),
        ("digest_metric", lambda name: name[0], {"execute": 5}),
    ],
    ids=["batched_send", "handle_stimulus", "digest_metric"],
)
@cluster(nthreads=ONE_WORKER)
async def test_a_method_put_in_by_a_plugin(c, s, a, method, what, expected):
    """Of tasks that run when it comes it hears the end, in the thread of the event loop."""
    plugin = Listener(method)
    with gate("running") as g:
        running = c.submit(g.pass_through, 1, key="running")
        await until(g.entered.is_set)
        await a.plugin_add(plugin)
        g.opened.set()
        assert await running == 1
    if method != "digest_metric":  # which was counted before
        heard = Counter(what(arg) for arg, _ in plugin.heard)
        assert heard["task-finished" if method == "batched_send" else "ExecuteSuccessEvent"] == 1
    plugin.heard.clear()

    await work(c)
    if method == "digest_metric":
        await until(lambda: any(type(arg) is tuple for arg, _ in plugin.heard))
    args = [arg for arg, _ in plugin.heard if method != "digest_metric" or type(arg) is tuple]
    heard = Counter(map(what, args))
    for each, least in expected.items():
        assert heard[each] == least or (method == "digest_metric" and heard[each] > least), heard
    assert {thread for _, thread in plugin.heard} == {threading.get_ident()}

    await a.plugin_remove("listener")
    plugin.heard.clear()
    await work(c)
    assert plugin.heard == []


@pytest.mark.parametrize("method", ["gather_dep", "execute"])
@as_stock(nthreads=[("127.0.0.1", 1)] * 2)
async def test_a_coroutine_function_put_in_by_a_plugin(c, s, a, b, *, method):
    """The state machine's instructions go by it while it is there."""
    called = []
    original = getattr(b, method)

    async def mine(*args, **kwargs):
        called.append(args)
        return await original(*args, **kwargs)

    async def fetch_and_run():
        x = c.submit(inc, 1, workers=[a.address], pure=False)
        assert await c.submit(inc, x, workers=[b.address], pure=False) == 3
        return x.key

    setattr(b, method, mine)
    key = await fetch_and_run()
    (args,) = called
    if method == "gather_dep":
        assert args == (a.address, {key})
    delattr(b, method)
    await fetch_and_run()
    assert called == [args]


@cluster(nthreads=[])
async def test_an_extension_meets_a_worker_that_is_complete(c, s):
    extensions = {**DEFAULT_EXTENSIONS, "own": Extension}
    async with fastworker.Worker(s.address, nthreads=1, extensions=extensions) as a:
        own = a.extensions["own"]
        for name, kept in own.kept.items():
            assert getattr(a, name) is kept, name
        future = c.submit(inc, 1)
        assert await future == 2
        await until(lambda: [msg for _, msg in s.get_events("early")] == [1])
        del future
        await until(lambda: "free-keys" in own.heard)
        assert own.heard.count("compute-task") == 1


@pytest.mark.parametrize("name", VIEWS)
@cluster(nthreads=ONE_WORKER)
async def test_attributes_of_the_user_s_own(c, s, a, name):
    """The names that only fastworker's workers have are free."""
    getattr(a, name)
    setattr(a, name, "own")
    await work(c)
    assert getattr(a, name) == "own"


class OwnTasks(fastworker.Worker):
    ready = True

    def __init__(self, *args, **kwargs):
        self.tasks = {}
        super().__init__(*args, **kwargs)
        self.transitions = 0


@cluster(nthreads=[])
async def test_a_subclass_with_attributes_of_its_own(c, s):
    async with OwnTasks(s.address, nthreads=1) as a:
        await work(c)
        assert a.tasks == {} and a.transitions == 0 and a.ready is True


@cluster(nthreads=ONE_WORKER)
async def test_scatter_under_a_key_of_spaces(c, s, a):
    futures = await c.scatter({" ": 1})
    assert await futures[" "] == 1


@pytest.mark.parametrize("kind", [OwnHandler, OwnHandlerAndExecute])
def test_a_handler_that_is_a_coroutine_function_is_awaited(kind):
    @cluster(nthreads=ONE_WORKER, Worker=kind)
    async def run(c, s, a):
        await work(c)
        future = c.submit(inc, 1, key="let-go-of")
        assert await future == 2
        del future
        await until(lambda: "let-go-of" not in a.state.tasks)

    run()


def test_a_method_comes_and_goes_before_the_worker_is_made():
    worker = fastworker.Worker.__new__(fastworker.Worker)
    worker.execute = None
    del worker.execute
