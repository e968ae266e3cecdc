"""How many root tasks a worker gets: as in stock, unless they have proven to be tiny.

The scheduler checks its own state at every step here (gen_cluster has it validate).
"""

from __future__ import annotations

from functools import partial

import pytest
from distributed import Scheduler, Worker, wait
from distributed.utils_test import async_poll_for, gen_cluster

from fastworker.scheduler import LowLatency
from support.lane import Depths, increment, result_of_size, slow, tiny_then_large

until = partial(async_poll_for, timeout=30, period=0.01)
STOCK = 2  # ceil(1.1 x 1 thread)
QUICK_ENOUGH = {"tiny_duration": "5 s", "queue_work": "1000 s"}  # a slow machine is no slow task

one_thread = partial(
    gen_cluster,
    client=True,
    nthreads=[("127.0.0.1", 1)],
    timeout=90,
    config={"distributed.scheduler.worker-saturation": 1.1},
)


async def lane(client, **overrides) -> tuple[LowLatency, Depths]:
    """Register both at the scheduler, and get what it has made of them."""
    await client.register_plugin(LowLatency(**{**QUICK_ENOUGH, **overrides}))
    scheduler = client.cluster_scheduler
    depths = Depths()
    await depths.start(scheduler)
    scheduler.add_plugin(depths)
    return scheduler.plugins[LowLatency.name], depths


def undisturbed(scheduler: Scheduler) -> None:
    """Nothing of what the lane sets for a moment is left behind."""
    assert scheduler.WORKER_SATURATION == 1.1
    for ws in scheduler.workers.values():
        before = ws in scheduler.idle_task_count
        scheduler.check_idle_saturated(ws)
        assert (ws in scheduler.idle_task_count) == before
    scheduler.validate_state()


async def run_map(client, *args, **kwargs) -> list:
    return await client.gather(client.map(*args, pure=False, **kwargs))


@one_thread()
async def test_tiny_tasks_are_sent_ahead(client, scheduler, a):
    client.cluster_scheduler = scheduler
    plugin, depths = await lane(client, queue_depth=32, proven=16)
    assert await run_map(client, increment, range(400)) == list(range(1, 401))
    assert STOCK < depths.most() <= 32
    # Not before sixteen of them had finished.
    assert all(depth <= STOCK for _, depth, finished in depths.sent if finished < 16)
    assert plugin.queue.sent > 0
    undisturbed(scheduler)


@one_thread()
async def test_without_the_lane_they_are_not(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, queue_depth=0)
    await run_map(client, increment, range(200))
    assert depths.most() == STOCK


@one_thread(nthreads=[("127.0.0.1", 1), ("127.0.0.1", 3)])
async def test_depth_is_per_thread(client, scheduler, a, b):
    client.cluster_scheduler = scheduler
    await lane(client, queue_depth=8)
    depths = {a.address: 0, b.address: 0}

    class PerWorker(Depths):
        def transition(self, key, start, finish, *args, **kwargs):
            for ws in scheduler.workers.values():
                depths[ws.address] = max(depths[ws.address], len(ws.processing))

    scheduler.add_plugin(PerWorker(), name="per-worker")
    await run_map(client, increment, range(500))
    assert 2 < depths[a.address] <= 8
    assert 4 < depths[b.address] <= 24
    undisturbed(scheduler)


@one_thread()
async def test_large_results_are_not(client, scheduler, a):
    client.cluster_scheduler = scheduler
    plugin, depths = await lane(client, tiny_nbytes="64 KiB")
    futures = client.map(result_of_size, range(100), nbytes=70_000, pure=False)
    await wait(futures)
    assert depths.most() == STOCK
    assert plugin.queue.sent == 0
    undisturbed(scheduler)


@one_thread()
async def test_slow_tasks_are_not(client, scheduler, a):
    client.cluster_scheduler = scheduler
    plugin, depths = await lane(client, tiny_duration="5 ms")
    await run_map(client, slow, range(50), seconds=0.006)
    assert depths.most() == STOCK
    assert plugin.queue.sent == 0


@one_thread()
async def test_work_sent_ahead_is_bounded(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, queue_work="20 ms", queue_depth=1000)
    await run_map(client, slow, range(100), seconds=0.004)
    assert depths.most() <= 5


@one_thread(
    worker_kwargs={
        "memory_limit": "10 MB"
    },  # this process takes more, so the memory monitor is off
    config={
        "distributed.scheduler.worker-saturation": 1.1,
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": False,
    },
)
async def test_memory_sent_ahead_is_bounded(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, queue_memory=0.01)  # 100 kB
    futures = client.map(result_of_size, range(300), nbytes=10_000, pure=False)
    await wait(futures)
    assert STOCK < depths.most() <= 10


@one_thread()
async def test_the_first_large_one_ends_it(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, proven=16, queue_depth=16)
    futures = client.map(tiny_then_large, range(200), tiny=100, nbytes=70_000, pure=False)
    await wait(futures)
    keys = [f.key for f in futures]
    first_large = depths.finished.index(keys[100]) + 1
    before = [depth for _, depth, finished in depths.sent if finished < first_large]
    assert STOCK < max(before) <= 16
    # What was there drains, and nothing is added to it before it is down to stock's depth.
    after = [depth for _, depth, finished in depths.sent if finished >= first_large]
    assert after and max(after) <= STOCK
    undisturbed(scheduler)


@one_thread()
async def test_the_first_slow_one_ends_it(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, proven=16, queue_depth=16, tiny_duration="50 ms")
    futures = client.map(slow_from, range(60), first=40, seconds=0.5, pure=False)
    await wait(futures)
    first_slow = depths.finished.index(futures[40].key) + 1
    assert depths.most() > STOCK
    after = [depth for _, depth, finished in depths.sent if finished >= first_slow]
    assert not after or max(after) <= STOCK
    undisturbed(scheduler)


def slow_from(i, first, seconds):
    return slow(i, seconds if i >= first else 0)


@one_thread()
async def test_a_slow_one_that_still_runs_ends_it(client, scheduler, a):
    """Workers tell the scheduler of those in their heartbeats; it then forgets the average."""
    client.cluster_scheduler = scheduler
    plugin, _ = await lane(client, queue_depth=16)
    futures = client.map(increment, range(100), pure=False)
    await wait(futures)
    ts = scheduler.tasks[futures[0].key]
    workers = list(scheduler.workers.values())
    assert plugin.queue.depth(ts, workers, 1.1) == 16
    ts.prefix.add_exec_time(60.0)
    assert plugin.queue.depth(ts, workers, 1.1) == 1.1


@one_thread()
async def test_a_group_may_prove_itself_again(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, proven=16)
    futures = client.map(lambda i: bytes(70_000 if i < 50 else 1), range(300), pure=False)
    await wait(futures)
    large = {f.key for f in futures[:50]}
    assert all(depth <= STOCK for key, depth, _ in depths.sent if key in large)
    assert depths.most() > STOCK


@one_thread()
async def test_each_kind_of_task_proves_itself(client, scheduler, a):
    """Tiny ones in front of the queue do not open the door to those behind them."""
    client.cluster_scheduler = scheduler
    _, depths = await lane(client, proven=16)
    tiny = client.map(increment, range(300), priority=1, pure=False)
    large = client.map(result_of_size, range(50), nbytes=70_000, priority=0, pure=False)
    await wait(tiny + large)
    keys = {f.key for f in large}
    assert depths.most() > STOCK
    of_large = [depth for key, depth, _ in depths.sent if key in keys]
    assert len(of_large) == 50 and max(of_large) <= STOCK
    undisturbed(scheduler)


@one_thread()
async def test_interleaved_kinds(client, scheduler, a):
    """Two groups take turns in the queue: the tiny one is sent ahead up to the next large one."""
    client.cluster_scheduler = scheduler
    plugin, depths = await lane(client, proven=4)
    graph = {}
    for i in range(60):
        graph.update({("small", 20 * i + j): (increment, j) for j in range(20)})
        graph["large", i] = (result_of_size, i, 70_000)
        graph["used", i] = (used_up, ("large", i), [("small", 20 * i + j) for j in range(20)])
    futures = client.get(graph, [("used", i) for i in range(60)], sync=False)
    assert await client.gather(futures) == [210 + 70_000] * 60
    sent = {"small": 0, "large": 0, "used": 0}
    for key, depth, _ in depths.sent:
        sent[key[0]] = max(sent[key[0]], depth)
    assert sent["large"] <= STOCK < sent["small"], sent
    assert plugin.queue.sent > 0
    undisturbed(scheduler)


def used_up(large, small):
    return len(large) + sum(small)


@one_thread()
async def test_dependents_go_first(client, scheduler, a):
    """Results of root tasks that wait in the worker's queue are used up in order."""
    client.cluster_scheduler = scheduler
    _, depths = await lane(client)
    roots = client.map(increment, range(300), pure=False)
    sums = [client.submit(sum, roots[i : i + 10]) for i in range(0, 300, 10)]
    assert sum(await client.gather(sums)) == sum(range(1, 301))
    assert depths.most() > STOCK
    undisturbed(scheduler)


@one_thread()
async def test_errors_and_cancelled_tasks(client, scheduler, a):
    client.cluster_scheduler = scheduler
    await lane(client)
    good = client.map(increment, range(200), pure=False)
    bad = client.map(lambda i: 1 / 0, range(50), pure=False)
    gone = client.map(increment, range(200), pure=False)
    await client.cancel(gone[::2])
    await wait(good + bad + gone[1::2])
    assert {f.status for f in bad} == {"error"}
    assert await client.gather(good) == list(range(1, 201))
    undisturbed(scheduler)


@one_thread(nthreads=[("127.0.0.1", 1)] * 2)
async def test_workers_come_and_go(client, scheduler, a, b):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client)
    futures = client.map(increment, range(600), pure=False)
    await until(lambda: depths.most() > STOCK if depths.sent else False)
    await a.close()
    async with Worker(scheduler.address, nthreads=2):
        assert await client.gather(futures) == list(range(1, 601))
        undisturbed(scheduler)


@one_thread()
async def test_groups_that_are_gone_are_forgotten(client, scheduler, a):
    client.cluster_scheduler = scheduler
    plugin, _ = await lane(client)
    futures = client.map(increment, range(10), pure=False)
    await wait(futures)
    assert [*plugin.queue.evidence] == [*scheduler.task_groups]
    del futures
    await until(lambda: not scheduler.task_groups)
    assert not plugin.queue.evidence


@one_thread(nthreads=[("127.0.0.1", 1)] * 2)
async def test_a_worker_that_is_gone_is_forgotten(client, scheduler, a, b):
    client.cluster_scheduler = scheduler
    plugin, _ = await lane(client, proven=10_000)  # so that no worker is filled up
    await run_map(client, increment, range(40))
    gone, left = (scheduler.workers[worker.address] for worker in (a, b))
    assert plugin.queue.have_room == {gone, left}
    await a.close()
    await until(lambda: a.address not in scheduler.workers)
    assert plugin.queue.have_room == {left}


@one_thread()
async def test_removed_in_the_middle(client, scheduler, a):
    client.cluster_scheduler = scheduler
    _, depths = await lane(client)
    futures = client.map(increment, range(600), pure=False)
    await until(lambda: depths.most() > STOCK if depths.sent else False)
    await client.unregister_scheduler_plugin(LowLatency.name)
    at = len(depths.finished)
    assert await client.gather(futures) == list(range(1, 601))
    after = [depth for _, depth, finished in depths.sent if finished > at]
    assert not after or max(after) <= STOCK
    undisturbed(scheduler)


@one_thread(config={"distributed.scheduler.worker-saturation": "inf"})
async def test_nothing_to_do_without_a_queue(client, scheduler, a):
    client.cluster_scheduler = scheduler
    plugin, _ = await lane(client)
    assert await run_map(client, increment, range(300)) == list(range(1, 301))
    assert plugin.queue.sent == 0 and not plugin.queue.evidence


@one_thread(config={"distributed.scheduler.worker-saturation": 50.0})
async def test_a_deeper_setting_of_the_user_stays(client, scheduler, a):
    client.cluster_scheduler = scheduler
    plugin, depths = await lane(client, queue_depth=8)
    await run_map(client, increment, range(300))
    assert depths.most() == 50
    assert plugin.queue.sent == 0
    assert scheduler.WORKER_SATURATION == 50.0


@pytest.mark.parametrize(
    "startstops, seconds",
    [
        (None, None),
        ((), None),
        ([{"action": "transfer", "start": 1.0, "stop": 9.0}], None),
        ([{"action": "compute", "start": 1.0, "stop": 1.5}], 0.5),
        ([{"action": "compute", "start": 2.0, "stop": 1.5}], 0.0),
    ],
)
def test_compute_seconds(startstops, seconds):
    from fastworker.scheduler.root_queue import compute_seconds

    assert compute_seconds(startstops) == seconds
