"""What users do with a cluster beside plain tasks."""

from __future__ import annotations

import time

import pytest
from distributed import (
    Event,
    Lock,
    Queue,
    Variable,
    WorkerPlugin,
    fire_and_forget,
    get_task_stream,
    get_worker,
    performance_report,
    wait,
)

from fastworker.demo.launcher import wait_for
from support.cluster.launcher import collect
from support.cluster.tasks import (
    Counter,
    async_increment,
    count_at_once,
    fibonacci,
    increment,
    partial_sums_through_client,
    pid_where_it_ran,
    sleep_and_return,
    touch_and_sleep,
    where_it_ran,
)

TIMEOUT = 30


@pytest.fixture(scope="module")
def client(new_launcher):
    """Two of our workers, "plain" and "special"; the latter has two GPUs and one lamp."""
    with new_launcher() as launcher:
        scheduler = launcher.scheduler()
        options = ["--nthreads=4", "--no-nanny"]
        launcher.worker(scheduler.address, *options, "--name=plain")
        launcher.worker(
            scheduler.address,
            *options,
            "--name=special",
            "--resources=GPU=2 LAMP=1",
            kind="worker-class",
        )
        with launcher.client(scheduler, 2) as client:
            yield client


def address_of(client, name):
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return next(address for address, info in workers.items() if info["name"] == name)


def test_scatter_and_gather(client):
    data = {f"part-{i}": list(range(i)) for i in range(20)}
    futures = client.scatter(data)
    assert client.gather(futures) == data
    lengths = client.map(len, list(futures.values()))
    assert collect(client, lengths) == list(range(20))


def test_scatter_broadcast(client):
    future = client.scatter({"shared": 1}, broadcast=True)["shared"]
    assert set(client.who_has([future])["shared"]) == set(client.nthreads())


def test_direct_scatter_and_gather(client):
    futures = client.scatter(list(range(10)), direct=True)
    assert client.gather(futures, direct=True) == list(range(10))


def test_replicate_and_rebalance(client):
    futures = client.map(increment, range(30), workers="plain", pure=False)
    wait(futures, timeout=TIMEOUT)
    client.replicate(futures[:5])
    assert all(len(holders) == 2 for holders in client.who_has(futures[:5]).values())
    client.replicate(futures[:5], n=1)
    wait_for(
        lambda: all(len(holders) == 1 for holders in client.who_has(futures[:5]).values()),
        TIMEOUT,
        "the second copies are gone",
    )
    assert collect(client, futures) == list(range(1, 31))
    client.rebalance(futures)
    assert collect(client, futures) == list(range(1, 31))


def test_resources_choose_the_worker_and_bound_it(client):
    futures = client.map(count_at_once, [0.05] * 12, resources={"GPU": 1}, pure=False)
    addresses = client.map(where_it_ran, range(6), resources={"GPU": 2}, pure=False)
    assert max(collect(client, futures)) == 2
    assert set(collect(client, addresses)) == {address_of(client, "special")}


def test_restrictions(client):
    for name in ("plain", "special"):
        futures = client.map(where_it_ran, range(10), workers=name, pure=False)
        assert set(collect(client, futures)) == {address_of(client, name)}


def test_priorities(client):
    """Where one task runs at a time, the more urgent ones overtake those that came before."""
    order = Queue()

    def note(x):
        order.put(x)

    lamp = {"LAMP": 1}
    block = client.submit(sleep_and_return, 0, 0.5, resources=lamp, pure=False)
    wait_for(lambda: any(client.processing().values()), TIMEOUT, "the first task runs")
    late = client.map(note, range(5), resources=lamp, priority=-10)
    early = client.map(note, range(10, 15), resources=lamp, priority=10)
    collect(client, [block, *late, *early])
    assert sorted(order.get(timeout=TIMEOUT) for _ in range(5)) == list(range(10, 15))
    assert sorted(order.get(timeout=TIMEOUT) for _ in range(5)) == list(range(5))


def test_actor(client):
    counter = client.submit(Counter, actor=True).result(timeout=TIMEOUT)
    assert [counter.increment().result(timeout=TIMEOUT) for _ in range(20)] == list(range(1, 21))
    assert counter.value == 20

    def use(counter, by):
        return counter.increment(by).result(timeout=20)

    collect(client, client.map(use, [counter] * 10, range(10), pure=False))
    assert counter.value == 20 + sum(range(10))
    with pytest.raises(LookupError, match="says no"):
        counter.fail().result(timeout=TIMEOUT)
    assert counter.value == 65


def test_worker_client(client):
    """More callers than threads: each gives its thread back while it waits."""
    futures = client.map(partial_sums_through_client, range(10, 30), pure=False)
    assert collect(client, futures) == [sum(range(1, n + 1)) for n in range(10, 30)]


def test_tasks_inside_tasks(client):
    assert client.submit(fibonacci, 8).result(timeout=60) == 21


def test_async_tasks(client):
    futures = client.map(async_increment, range(100))
    assert collect(client, futures) == list(range(1, 101))
    mixed = client.map(increment, client.map(async_increment, range(20)))
    assert collect(client, mixed) == list(range(2, 22))


def test_fire_and_forget(client, tmp_path):
    trace = tmp_path / "trace"
    fire_and_forget(client.submit(touch_and_sleep, str(trace), 0, pure=False))
    wait_for(trace.exists, TIMEOUT, "the task ran though no client holds its future")


def test_coordination(client):
    def wait_then_read():
        if not Event("go").wait(timeout=20):
            raise TimeoutError
        with Lock("one-at-a-time"):
            return Variable("number").get(timeout=20)

    futures = [client.submit(wait_then_read, pure=False) for _ in range(4)]
    Variable("number").set(7)
    Event("go").set()
    assert collect(client, futures) == [7] * 4


def test_worker_plugin(client):
    """A plugin that watches transitions sees every task of its worker."""

    class Watch(WorkerPlugin):
        name = "watch"

        def setup(self, worker):
            self.finished = []

        def transition(self, key, start, finish, **kwargs):
            if finish == "memory":
                self.finished.append(key)

        def teardown(self, worker):
            worker.watch_ended = True

    client.register_plugin(Watch())
    try:
        futures = client.map(increment, range(40), pure=False)
        collect(client, futures)

        def seen(dask_worker):
            return dask_worker.plugins["watch"].finished

        keys = [key for keys in client.run(seen).values() for key in keys]
        assert sorted(keys) == sorted(future.key for future in futures)
    finally:
        client.unregister_worker_plugin("watch")
    assert all(client.run(lambda dask_worker: dask_worker.watch_ended).values())


def test_worker_state_in_a_task(client):
    def annotate():
        worker = get_worker()
        worker.note = getattr(worker, "note", 0) + 1
        return worker.get_current_task()

    future = client.submit(annotate, key="asks-its-own-name", workers="plain")
    assert future.result(timeout=TIMEOUT) == "asks-its-own-name"
    notes = client.run(lambda dask_worker: getattr(dask_worker, "note", 0))
    assert notes == {address_of(client, "plain"): 1, address_of(client, "special"): 0}


def test_diagnostics(client, tmp_path):
    """The task stream, the profile and the report know what ran."""
    with (
        performance_report(filename=str(tmp_path / "report.html")),
        get_task_stream(client) as stream,
    ):
        start = time.time()
        futures = client.map(sleep_and_return, range(20), seconds=0.05, pure=False)
        collect(client, futures)
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert {record["key"] for record in stream.data} == {future.key for future in futures}
    for record in stream.data:
        (compute,) = (part for part in record["startstops"] if part["action"] == "compute")
        assert start - 1 < compute["start"] < compute["stop"] < time.time() + 1
        assert compute["stop"] - compute["start"] >= 0.05

    def profiled():
        return client.profile(start=start)["count"] > 0

    wait_for(profiled, TIMEOUT, "the profiler of a worker saw a task")


def test_story_and_cluster_dump(client, tmp_path):
    future = client.submit(increment, 1, key="told", pure=False)
    wait(future, timeout=TIMEOUT)

    def told(dask_worker):
        return list(dask_worker.state.story("told"))

    stories = [story for story in client.run(told).values() if story]
    assert any("memory" in row for row in stories[0])
    client.dump_cluster_state(str(tmp_path / "dump"), format="yaml")
    assert "told" in (tmp_path / "dump.yaml").read_text()


def test_nbytes_are_known(client):
    future = client.submit(bytes, 123_456, pure=False)
    wait(future, timeout=TIMEOUT)
    (size,) = client.nbytes([future.key], summary=False).values()
    assert 123_456 <= size < 125_000


def test_workers_are_separate_processes(client):
    futures = client.map(pid_where_it_ran, range(200), pure=False)
    assert len(set(collect(client, futures))) == 2


def test_invalid_worker_state_is_not_left(client):
    """After all of the above, each worker's own check of its state finds nothing wrong."""

    def validate(dask_worker):
        dask_worker.validate_state()
        return True

    assert all(client.run(validate).values())
