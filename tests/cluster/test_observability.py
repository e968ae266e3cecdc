"""What is seen of the same job is the same on stock workers and on fastworker's."""

from __future__ import annotations

import re

import pytest

from support.cluster.observations import SPIN, WORKERS, N, functions, observe, samples, user_frames

BOTH = ("stock", "worker-class")


@pytest.fixture(scope="module")
def observed(new_launcher, tmp_path_factory):
    """What was seen on a cluster of each kind, one after the other."""
    seen = {}
    for kind in BOTH:
        with new_launcher() as launcher:
            seen[kind] = observe(launcher, kind, tmp_path_factory.mktemp(kind))
    return seen


@pytest.fixture(scope="module")
def stock(observed):
    return observed["stock"]


@pytest.fixture(scope="module")
def ours(observed):
    return observed["worker-class"]


def test_performance_report(stock, ours):
    def tabs(html):
        return set(re.findall(r'"title":"([^"]+)"', html))

    assert tabs(ours.report) >= {
        "Summary",
        "Task Stream",
        "Worker Profile (compute)",
        "Worker Profile (administrative)",
        "Bandwidth (Workers)",
        "System",
    }
    assert tabs(ours.report) == tabs(stock.report)
    assert "count_up" in ours.report and "count_up" in stock.report


def test_task_stream(stock, ours):
    def shape(stream):
        return {
            (
                record["key"],
                record["worker"],
                record["status"],
                frozenset(record),
                record.get("nbytes"),
                str(record.get("type")),
                "compute" in [s["action"] for s in record["startstops"]],
            )
            for record in stream
        }

    def actions(stream):
        return {
            (record["key"].split("-")[0], startstop["action"])
            for record in stream
            for startstop in record["startstops"]
            if not startstop["action"].startswith("disk")  # noted if it was slow
        }

    assert len(ours.stream) == 3 * N + 5
    assert shape(ours.stream) == shape(stock.stream)
    assert actions(ours.stream) == actions(stock.stream)
    assert ("double", "transfer") in actions(ours.stream)
    for record in ours.stream:
        assert isinstance(record["thread"], int)
        for startstop in record["startstops"]:
            assert startstop["start"] <= startstop["stop"]
    spun = [
        startstop["stop"] - startstop["start"]
        for record in ours.stream
        for startstop in record["startstops"]
        if record["key"].startswith("spin") and startstop["action"] == "compute"
    ]
    assert len(spun) == N and min(spun) >= SPIN
    threads = {r["thread"] for r in ours.stream if r["key"].startswith("spin")}
    assert len(threads) == 2


def test_profile(stock, ours):
    # What stands at the root is the tasks' own code, not what runs them. (A thread may be seen when
    # it has just left a task and is busy with its result, or while it secedes, though.)
    (root,) = (child for child in stock.profile["children"] if "_task_spec" in child)
    children = ours.profile["children"]
    assert children[root]["count"] >= functions(ours.profile)["spin"] > 0
    for child in children:
        assert not re.match(r"(pull|run|_worker|_bootstrap|_run_task)\b", child)
        assert "fastworker" not in child
    for profile in (ours.profile, ours.profile_of_key):
        seen = functions(profile)
        assert seen["spin"] > 0 and "count_up" in seen
        for function in ("pull", "run", "_worker", "_bootstrap", "_run_task"):
            assert function not in seen
    # distributed's threads measure a result where the profiler may see them
    seen = functions(stock.profile_of_key).keys()
    assert {"__call__", "spin", "count_up"} <= functions(ours.profile_of_key).keys() <= seen
    assert "wait_for_file" in functions(ours.profile)
    # Of the event loop; distributed does not look at it on Python 3.11
    assert (ours.server_profile["count"] > 0) == (stock.server_profile["count"] > 0)


def test_call_stack(stock, ours):
    assert set(ours.call_stacks) == set(stock.call_stacks) == {"hold-0", "outside-0"}
    for key, function in [("hold-0", "hold"), ("outside-0", "hold_outside")]:
        assert user_frames(ours.call_stacks[key]) == [function, "wait_for_file"]
        assert user_frames(stock.call_stacks[key]) == [function, "wait_for_file"]
        assert "_bootstrap" in ours.call_stacks[key][0]
    for name in WORKERS:
        # Nothing is left of tasks that are over
        assert ours.workers[name]["active"] == stock.workers[name]["active"] == ({}, set())
        assert ours.workers[name]["call_stack"] == {}


def comparable(metrics):
    """Names of figures, without those that depend on which task comes first."""
    return {
        name
        for name in metrics
        if isinstance(name, tuple) and name[0] in ("execute", "gather-dep", "get-data")
    }


def test_span(stock, ours):
    assert comparable(ours.span_metrics) == comparable(stock.span_metrics)
    assert {name for name in ours.span_metrics if name[0] == "execute"} >= {
        ("execute", "spin", "thread-cpu", "seconds"),
        ("execute", "spin", "thread-noncpu", "seconds"),
        ("execute", "spin", "executor", "seconds"),
        ("execute", "spin", "other", "seconds"),
        ("execute", "double", "memory-read", "count"),
        ("execute", "double", "memory-read", "bytes"),
        ("execute", "report", "reading", "records"),
        ("execute", "report", "reading", "seconds"),
        ("execute", "fail", "failed", "seconds"),
        ("execute", "unwell", "reading", "records"),
        ("execute", "unwell", "failed", "seconds"),
        ("execute", "async", "thread-noncpu", "seconds"),
    }
    assert ours.span_states == stock.span_states
    assert ours.span_nbytes == stock.span_nbytes


@pytest.mark.parametrize("of", ["span_metrics", "scheduler_metrics"])
def test_amounts_of_fine_metrics(stock, ours, of):
    mine, theirs = getattr(ours, of), getattr(stock, of)
    assert comparable(mine) == comparable(theirs)
    counted = {
        name: value
        for name, value in theirs.items()
        if name[0] == "execute" and name[-1] != "seconds"
    }
    assert len(counted) >= 8
    assert {name: mine[name] for name in counted} == counted
    assert {name: type(mine[name]) for name in counted} == {
        name: type(value) for name, value in counted.items()
    }
    for seen, metrics in ((ours, mine), (stock, theirs)):
        spun = {k[2]: v for k, v in metrics.items() if k[1] == "spin" and k[3] == "seconds"}
        assert sum(spun.values()) >= N * SPIN
        # No second is counted twice: two threads had no more than this
        inside = spun["thread-cpu"] + spun["thread-noncpu"]
        assert inside + spun["executor"] <= 2 * seen.elapsed
        assert sum(spun.values()) <= N * seen.elapsed
    assert min(mine.values()) >= 0


@pytest.mark.parametrize("name", WORKERS)
def test_digests(stock, ours, name):
    mine, theirs = ours.workers[name], stock.workers[name]
    for figures in ("digests_total", "digests_max"):
        assert comparable(mine[figures]) == comparable(theirs[figures])
        counted = {
            k for k in comparable(theirs[figures]) if k[0] == "execute" and k[-1] != "seconds"
        }
        assert {k: mine[figures][k] for k in counted} == {k: theirs[figures][k] for k in counted}
    for figure, most in mine["digests_max"].items():
        assert most <= mine["digests_total"][figure] + 1e-9
    # The tasks of the other one may be too short for the profiler
    for figure in ("latency", "tick-duration", *["profile-duration"][: name == "left"]):
        assert mine["digests_total"][figure] > 0


@pytest.mark.parametrize("name", WORKERS)
def test_worker(stock, ours, name):
    """What the worker knows of itself."""
    mine, theirs = ours.workers[name], stock.workers[name]
    assert mine["identity"] - theirs["identity"] == {"fastworker", "fastworker_comm"}
    assert theirs["identity"] <= mine["identity"]
    for what in (
        "metrics",
        "task_counts",
        "task_counts_by_prefix",
        "states_with_times",
        "executed_count",
        "threads",
        "counters",
    ):
        assert mine[what] == theirs[what], what


@pytest.mark.parametrize("name", WORKERS)
def test_startstops(stock, ours, name):
    mine, theirs = ours.workers[name]["startstops"], stock.workers[name]["startstops"]
    assert set(mine) == set(theirs)
    for key, entries in mine.items():
        computed = [action for action, *_ in entries if action == "compute"]
        assert computed == [action for action, *_ in theirs[key] if action == "compute"]
        assert all(start <= stop for _, start, stop in entries)


@pytest.mark.parametrize("name", WORKERS)
def test_stories(stock, ours, name):
    mine, theirs = ours.workers[name], stock.workers[name]
    assert mine["stimuli"] == theirs["stimuli"]
    assert set(mine["stories"]) == set(theirs["stories"])
    for key, story in theirs["stories"].items():
        if key.startswith(("async", "report", "unwell")):  # without a queue or transfers
            assert mine["stories"][key] == story
        assert [e[:4] for e in mine["stories"][key] if e[0] == key] == [
            e[:4] for e in story if e[0] == key
        ]


def test_stories_that_the_client_gets(stock, ours):
    def without_transfers(story):
        """Which keys a transfer brings, and what it was that began it, is a matter of luck."""
        return sorted(str(entry[:-1]) for entry in story if "gather-dependencies" not in entry)

    for key, story in stock.stories.items():
        assert len(story) > 4
        assert without_transfers(ours.stories[key]) == without_transfers(story)


def test_logs(stock, ours):
    def failures(logs):
        return [
            [line for line in message.splitlines()[1:] if not line.startswith("Traceback")]
            for message in logs
            if "Compute Failed" in message
        ]

    for name in WORKERS:
        assert len(failures(ours.logs[name])) == 1
        assert failures(ours.logs[name]) == failures(stock.logs[name])


def test_dump(stock, ours):
    assert set(ours.dump) == set(stock.dump)
    assert set(ours.dump["workers"]) == set(WORKERS)
    for name in WORKERS:
        mine, theirs = ours.dump["workers"][name], stock.dump["workers"][name]
        assert set(mine) == {*theirs, "fastworker", "fastworker_comm"}
        assert set(mine["tasks"]) == set(theirs["tasks"])
        for key, task in theirs["tasks"].items():
            assert set(mine["tasks"][key]) == set(task), key
            assert mine["tasks"][key]["state"] == task["state"]
        assert len(mine["log"]) == pytest.approx(len(theirs["log"]), abs=2 * N)


def test_prometheus(stock, ours):
    pytest.importorskip("prometheus_client")
    # What ran without the event loop: all but the coroutine
    plain = {
        "left": {"success": 2 * N + 3, "failed": 1, "cancelled": 0},
        "right": {"success": N + 1, "failed": 1, "cancelled": 0},
    }
    for name in WORKERS:
        mine, theirs = samples(ours.pages[name]), samples(stock.pages[name])
        own = {sample for sample in mine if sample.startswith("dask_fastworker_")}
        for outcome, n in plain[name].items():
            assert mine[f'dask_fastworker_tasks_total{{outcome="{outcome}"}}'] == n
        assert set(mine) - own == set(theirs)
        assert mine["dask_fastworker_digest_values_dropped_total"] == 0
        assert mine["dask_fastworker_outbox_waiting_messages"] >= 0
        batches = mine["dask_fastworker_outbox_batches_total"]
        assert 0 < batches <= mine["dask_fastworker_outbox_messages_total"]
        # The counts are read one after the other, while the worker may send
        assert mine['dask_fastworker_outbox_batch_size_bucket{le="+Inf"}'] >= batches - 2
        for state in ("memory", "error"):
            sample = f'dask_worker_tasks{{state="{state}"}}'
            assert mine.get(sample) == theirs.get(sample)
        for sample in ("dask_worker_threads", "dask_worker_transfer_incoming_count"):
            assert mine[sample] == theirs[sample]
        assert mine['dask_worker_spill_count_total{activity="memory-read"}'] > 0
