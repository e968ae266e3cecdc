"""The counters of plain tasks: the same figures as distributed's ledger gives."""

from __future__ import annotations

import random
import sys
import threading
from collections import defaultdict

import pytest
from distributed import Worker as StockWorker
from distributed.core import Server
from distributed.metrics import DelayedMetricsLedger, context_meter

from fastworker.core import WorkerState
from fastworker.execution.timings import ExecuteMetrics
from fastworker.monitoring.metrics import MANY_NAMES, Figures
from support.in_process import ONE_WORKER, cluster, until

PARTS = ("thread_cpu", "thread_noncpu", "executor", "other")


class ServersFigures:
    """Where a server keeps what ``digest_metric`` is told, without the server."""

    digest_metric = Server.digest_metric

    def __init__(self):
        self.digests = None
        self.digests_total = defaultdict(int)
        self.digests_total_since_heartbeat = defaultdict(int)
        self.digests_max = defaultdict(int)

    def all(self):
        return [self.digests_total, self.digests_total_since_heartbeat, self.digests_max]


def ours(metrics, digests=None):
    out = ServersFigures()
    metrics.drain(*out.all(), digests)
    return out


def stock(runs):
    """What distributed makes of these runs; its clock is set by hand."""
    out = ServersFigures()
    for span_id, prefix, parts, reads, reports, outcome in runs:
        clock = iter([0.0, sum(parts) + sum(v for _, v, unit in reports if unit == "seconds")])
        ledger = DelayedMetricsLedger(func=lambda clock=clock: next(clock))
        for nbytes in reads:
            ledger._callback("memory-read", 1, "count")
            ledger._callback("memory-read", nbytes, "bytes")
        for report in reports:
            ledger._callback(*report)
        for label, seconds in zip(("thread-cpu", "thread-noncpu", "executor"), parts, strict=False):
            ledger._callback(label, seconds, "seconds")
        for label, value, unit in ledger.finalize(False if outcome == "success" else outcome):
            out.digest_metric(("execute", span_id, prefix, label, unit), value)
    return out


def count(metrics, runs):
    for span_id, prefix, parts, reads, reports, outcome in runs:
        for label, value, unit in reports:
            metrics.report(span_id, prefix, label, value, unit, outcome=outcome)
        metrics.record(
            span_id,
            prefix,
            outcome=outcome,
            **dict(zip(PARTS, parts, strict=True)),
            elapsed=sum(parts) + sum(v for _, v, unit in reports if unit == "seconds"),
            duration=-1.0 if outcome == "failed" else parts[0] + parts[1],
            read_count=len(reads),
            read_bytes=sum(reads),
            read_largest=max(reads, default=0),
        )


def random_runs(seed, n):
    rng = random.Random(seed)
    reports = [("I/O", 0.25, "seconds"), ("I/O", 100, "bytes"), (None, 2, "custom")]
    return [
        (
            rng.choice(["span-1", "span-2", None]),
            rng.choice(["inc", "add", "sum"]),
            # Binary fractions, so that sums are exact in whatever order
            [rng.randrange(64) / 64 for _ in PARTS],
            [rng.randrange(1000) for _ in range(rng.choice([0, 0, 1, 3]))],
            rng.sample(reports, rng.choice([0, 0, 1, 3])),
            rng.choice(["success", "success", "failed", "cancelled"]),
        )
        for _ in range(n)
    ]


def test_same_figures_as_the_ledger():
    runs = random_runs(0, 500)
    metrics = ExecuteMetrics()
    count(metrics, runs)
    mine, theirs = ours(metrics), stock(runs)
    assert len(theirs.digests_total) > 50
    for figures, expected in zip(mine.all(), theirs.all(), strict=True):
        assert figures == expected
        assert {k: type(v) for k, v in figures.items() if "count" in k} == {
            k: int for k in expected if "count" in k
        }


@pytest.mark.parametrize("seed", range(20))
def test_same_order_as_the_ledger(seed):
    """Names are new in the order in which ledgers would have brought them."""
    runs = [("s", "inc", *run[2:4], [], run[5]) for run in random_runs(seed, 5)]
    runs[0] = random_runs(seed, 1)[0]
    metrics = ExecuteMetrics()
    count(metrics, runs[:1])
    assert list(ours(metrics).digests_total) == list(stock(runs[:1]).digests_total)
    count(metrics, runs[1:])
    assert list(ours(metrics).digests_total) == list(stock(runs[1:]).digests_total)


def test_a_drain_leaves_nothing():
    metrics = ExecuteMetrics()
    assert metrics.empty
    count(metrics, random_runs(1, 50))
    assert not metrics.empty
    assert ours(metrics).digests_total
    assert metrics.empty
    assert not ours(metrics).digests_total
    # Outcomes are counted for ever
    assert sum(metrics.tasks_total.values()) == 50


def test_parts_of_zero_seconds_are_named():
    metrics = ExecuteMetrics()
    metrics.record("s", "inc")
    assert ours(metrics).digests_total == {
        ("execute", "s", "inc", label, "seconds"): 0
        for label in ("thread-cpu", "thread-noncpu", "executor", "other")
    }


def test_bad_arguments():
    metrics = ExecuteMetrics()

    class Name(str):
        pass

    with pytest.raises(TypeError, match="id of a span must be a str or None; got 3"):
        metrics.record(3, "inc")
    with pytest.raises(TypeError, match="prefix of a key must be a str; got None"):
        metrics.record("s", None)
    with pytest.raises(TypeError, match="prefix of a key must be a str; got 'inc'"):
        metrics.record("s", Name("inc"))
    with pytest.raises(ValueError, match=r"outcome must be one of .*; got 'lost'"):
        metrics.record("s", "inc", outcome="lost")
    assert metrics.empty


def test_a_report_that_cannot_be_counted_costs_no_other(caplog):
    metrics = ExecuteMetrics()
    metrics.report("s", "inc", "I/O", "many", "bytes")
    metrics.report("s", "inc", ["unhashable"], 1, "bytes")
    metrics.report("s", "inc", "I/O", 3, "count")
    metrics.record("s", "inc", other=1.0)
    total = ours(metrics).digests_total
    assert total["execute", "s", "inc", "I/O", "count"] == 3
    assert total["execute", "s", "inc", "other", "seconds"] == 1
    assert len(total) == 5
    lines = [r for r in caplog.records if r.message.startswith("Cannot count what a task reported")]
    assert [r.name for r in lines] == 2 * ["fastworker.execution"]


def test_threads_lose_nothing():
    """Eight threads count while another one drains, on a switch interval of nothing."""
    metrics = ExecuteMetrics()
    n_threads, n_runs, n_spans = 8, 20_000, 50
    total, since, largest = {}, {}, {}
    done = threading.Event()

    def work(seed):
        rng = random.Random(seed)
        for _ in range(n_runs):
            # A span id of its own every time, as they come from messages
            span_id = "-".join(["span", str(rng.randrange(n_spans))])
            metrics.record(span_id, rng.choice(["inc", "add"]), other=1.0)
            metrics.report(span_id, "inc", "mine", 1, "count")

    def drain():
        while not done.is_set():
            metrics.drain(total, since, largest, None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
        reader = threading.Thread(target=drain)
        for thread in [*threads, reader]:
            thread.start()
        for thread in threads:
            thread.join(60)
        done.set()
        reader.join(60)
    finally:
        sys.setswitchinterval(interval)
        done.set()
    metrics.drain(total, since, largest, None)
    assert metrics.tasks_total["success"] == n_threads * n_runs
    assert sum(v for k, v in total.items() if k[3] == "other") == n_threads * n_runs
    assert sum(v for k, v in total.items() if k[3] == "mine") == n_threads * n_runs
    assert total == since


def test_quantiles_of_durations():
    Digest = pytest.importorskip("crick") and pytest.importorskip("distributed.counter").Digest
    metrics = ExecuteMetrics(durations=True)
    for i in range(1001):
        metrics.record("s", "inc", other=1.0, duration=float(i))
        metrics.record("s", "add", outcome="failed", elapsed=2.0, duration=5000.0)
        metrics.record("s", "add", outcome="cancelled", elapsed=3.0)
    metrics.report("s", "inc", "I/O", 3, "count")
    digests = defaultdict(Digest)
    assert ours(metrics, digests).digests_total
    assert set(digests) == {"task-duration"}
    durations = digests["task-duration"].components[0]
    assert durations.size() == 1001  # without those that failed
    assert durations.quantile(0.5) == pytest.approx(500, rel=0.02)
    assert durations.max() == 1000
    assert metrics.dropped == 0


def test_room_for_durations_is_bounded():
    calls = []
    metrics = ExecuteMetrics(durations=True)
    metrics.wake = lambda: calls.append(1)
    for _ in range(70_000):
        metrics.record("s", "inc", duration=1.0)
    assert calls == [1]  # once, when half of it is taken
    assert metrics.dropped == 70_000 - 65536
    assert ours(metrics).digests_total
    for _ in range(70_000):
        metrics.record("s", "inc", duration=1.0)
    assert calls == [1, 1]


@cluster(nthreads=ONE_WORKER)
async def test_no_quantiles_of_spans(c, s, a):
    """A digest is of 24 kB, and there is no end of spans."""
    pytest.importorskip("crick")
    await c.submit(report_one, 1)  # the way of plain tasks
    await c.submit(report_one_async, 2)  # the way of the event loop
    a.digest_metric(("p2p", "span", "foreground", "process", "bytes"), 1)
    a.digest_metric(("memory-monitor", "evict", "seconds"), 1)
    a.digest_metric("latency", 1)
    names = set(a.digests)
    assert {"task-duration", "latency", ("memory-monitor", "evict", "seconds")} <= names
    assert not [name for name in names if name[0] in ("execute", "p2p")]
    assert len([name for name in a.digests_total if name[3:] == ("mine", "records")]) == 2


def test_a_reader_finds_all_that_was_counted():
    figures = Figures()
    name = ("execute", "s", "inc", "other", "seconds")
    for i, of in enumerate(("digests_total", "digests_total_since_heartbeat", "digests_max")):
        figures.of_tasks.record("s", "inc", other=float(i + 1))
        assert getattr(figures, of)[name] == [1, 3, 3][i]
    assert figures.of_tasks.empty
    if figures.digests is not None:
        figures.of_tasks.record("s", "dec", duration=1.0)
        assert "task-duration" in figures.digests

    # What was counted after the scheduler was told belongs to the next heartbeat
    figures.digests_total_since_heartbeat = defaultdict(int)
    figures.of_tasks.record("s", "inc", other=0.5)
    assert figures.digests_total_since_heartbeat == {
        name: 0.5,
        **{(*name[:3], part, "seconds"): 0 for part in ("thread-cpu", "thread-noncpu", "executor")},
    }


@pytest.mark.parametrize("crick", [True, False])
def test_a_value_is_added_as_distributed_adds_it(crick):
    mine, theirs = Figures(), ServersFigures()
    mine.digests = theirs.digests = None
    if crick:
        Digest = pytest.importorskip("crick") and pytest.importorskip("distributed.counter").Digest
        mine.digests, theirs.digests = defaultdict(Digest), defaultdict(Digest)
    for value in (-1, 0, 2, 1.5, 2.0):
        for figures in (mine, theirs):
            figures.digest_metric("latency", value)
    for figures in (mine, theirs):
        figures.digest_metric(("memory-monitor", "evict", "seconds"), -3)
        with pytest.raises(TypeError):
            figures.digest_metric("none", None)
    for of in ("digests_total", "digests_total_since_heartbeat", "digests_max"):
        assert repr(getattr(mine, of)) == repr(getattr(theirs, of))
    if crick:
        assert set(mine.digests) == set(theirs.digests)
        sizes = [f.digests["latency"].components[0].size() for f in (mine, theirs)]
        assert sizes[0] == sizes[1] > 0


def test_a_task_that_has_left_the_state_is_counted():
    """A reader waits for a thread that is about to count, as that thread holds the core's lock."""
    figures, state, counting = Figures(), WorkerState(), threading.Event()
    figures.count_with(state, figures.drain)
    seen = []

    def read():
        counting.wait(20)
        seen.append(dict(figures.digests_total))

    reader = threading.Thread(target=read)
    reader.start()
    with state.lock:
        counting.set()
        reader.join(0.2)  # a reader that did not wait would have ended by then
        figures.of_tasks.record("s", "inc", other=1.0)
    reader.join(20)
    assert seen[0]["execute", "s", "inc", "other", "seconds"] == 1


def test_figures_are_drained_before_there_is_no_room():
    figures = Figures()
    if figures.digests is None:
        pytest.skip("needs crick")
    figures.count_with(object(), figures.drain)
    for _ in range(200_000):
        figures.of_tasks.record("s", "inc", duration=1.0)
    assert figures.of_tasks.dropped == 0
    assert figures.digests["task-duration"].components[0].size() == 200_000


def test_names_of_old_spans_come_to_an_end():
    """Their figures are added up under no span; sums and maxima over all of them stay right."""
    figures = Figures()
    n = 2 * MANY_NAMES
    figures.digest_metric(("memory-monitor", "evict", "seconds"), 1)
    for i in range(n):
        figures.of_tasks.record(f"span-{i}", "inc", other=float(i))
        figures.digest_metric(("p2p", f"span-{i}", "foreground", "process", "bytes"), 1)
        if i % 100 == 99:
            assert len(figures.digests_total) <= MANY_NAMES + 100 * 5
            figures.digests_total_since_heartbeat.clear()  # as a heartbeat does
    total, largest = figures.digests_total, figures.digests_max
    others = [(k, v) for k, v in total.items() if k[0] == "execute" and k[3] == "other"]
    assert sum(v for _, v in others) == n * (n - 1) / 2
    assert sum(v for k, v in total.items() if k[0] == "p2p") == n
    assert total["memory-monitor", "evict", "seconds"] == 1
    # The latest are there one by one
    assert total["execute", f"span-{n - 1}", "inc", "other", "seconds"] == n - 1
    assert total["p2p", f"span-{n - 100}", "foreground", "process", "bytes"] == 1
    put_together = largest["execute", None, "inc", "other", "seconds"]
    assert total["execute", f"span-{int(put_together) + 1}", "inc", "other", "seconds"]
    assert ("execute", f"span-{int(put_together)}", "inc", "other", "seconds") not in largest
    assert set(largest) == set(total)


def test_names_that_are_in_use_stay():
    figures = Figures()
    for i in range(MANY_NAMES):
        figures.of_tasks.record("span", f"prefix-{i}")
    names = set(figures.digests_total)
    figures.of_tasks.record("span", "one more")
    assert names < set(figures.digests_total)
    figures.digests_total_since_heartbeat.clear()
    for i in range(MANY_NAMES):
        figures.of_tasks.record("span-2", f"prefix-{i}", other=1.0)
    assert figures.digests_total
    assert not names & set(figures.digests_total)  # of what was there at the last look
    assert figures.digests_total["execute", "span-2", "prefix-1", "other", "seconds"] == 1.0


@cluster(nthreads=ONE_WORKER)
async def test_the_worker_has_the_four_mappings_of_a_server(c, s, a):
    assert isinstance(a, StockWorker)
    await c.submit(report_one, 1, key="one-1")
    await until(lambda: a.execute_metrics.tasks_total["success"] == 1)
    for of in ("digests_total", "digests_total_since_heartbeat", "digests_max"):
        assert any(k[2:] == ("one", "mine", "records") for k in getattr(a, of)), of
        setattr(a, of, fresh := defaultdict(int))
        a.digest_metric("mine", 2)
        assert getattr(a, of) is fresh
        assert fresh["mine"] == 2
    a.digests = None
    a.digest_metric("mine", 2)
    assert a.digests is None


def report_one(i):
    context_meter.digest_metric("mine", 1, "records")
    return i


async def report_one_async(i):
    return report_one(i)


@cluster(nthreads=[("127.0.0.1", 4)])
async def test_figures_of_many_tasks_while_many_look(c, s, a):
    """Nothing is lost or counted twice: not on the worker, nor with heartbeats in between."""
    n = 2000
    stop = threading.Event()
    seen = []

    def look():
        while not stop.is_set():
            total = a.digests_total
            seen.append(sum(v for k, v in list(total.items()) if k[-1] == "records"))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=look) for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        futures = c.map(report_one, range(n), key=[f"one-{i}" for i in range(n)])
        for _ in range(5):
            await a.heartbeat()
        assert await c.gather(futures) == list(range(n))
    finally:
        stop.set()
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join(20)
    assert max(seen) <= n
    assert a.execute_metrics.tasks_total == {"success": n, "failed": 0, "cancelled": 0}
    figures = {k[2:]: v for k, v in a.digests_total.items() if k[0] == "execute"}
    assert figures["one", "mine", "records"] == n
    await a.heartbeat()
    assert s.cumulative_worker_metrics["execute", "one", "mine", "records"] == n
    for (prefix, label, unit), value in figures.items():
        told = s.cumulative_worker_metrics["execute", prefix, label, unit]
        assert told == pytest.approx(value)
