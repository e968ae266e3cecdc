"""The logs that become tuples and events when read, and the counters by prefix and state."""

from __future__ import annotations

import gc
import pickle
import random
import sys
import time
import uuid
import weakref

import dask
import pytest
from dask.utils import key_split
from distributed.worker_state_machine import (
    ComputeTaskEvent,
    ExecuteSuccessEvent,
    FreeKeysEvent,
    GatherDepSuccessEvent,
    PauseEvent,
    UpdateDataEvent,
)

from fastworker.core import TaskState, WorkerState
from fastworker.core.counters import known_prefixes, prefix_of
from fastworker.core.log import TransitionLog
from fastworker.core.messages import compute_task_of, free_keys_of


@pytest.mark.parametrize("maxlen", [None, 0, 1, 7, 64, 65, 1000])
def test_transition_log_reads_like_a_deque(maxlen: int | None) -> None:
    log = TransitionLog(maxlen)
    entries = [(f"x-{i}", "note", i) for i in range(300)]
    for i, entry in enumerate(entries):
        log.append(entry)
        expected = entries[: i + 1] if maxlen is None else entries[: i + 1][-maxlen or i + 1 :]
        assert len(log) == len(expected)
        if i % 50 == 0 or i == 299:
            assert list(log) == expected
            assert list(reversed(log)) == expected[::-1]
    assert log.maxlen == maxlen
    if expected:
        assert log[0] == expected[0] and log[-1] == expected[-1] and log[-2:] == expected[-2:]
        assert expected[-1] in log
    assert pickle.loads(pickle.dumps(log)) == log
    with pytest.raises(IndexError):
        log[len(expected)]
    log.clear()
    assert not log and list(log) == []
    log.append(("again",))
    assert list(log) == ([] if maxlen == 0 else [("again",)])


def test_bad_log_arguments() -> None:
    with pytest.raises(ValueError, match="-1"):
        TransitionLog(-1)
    with pytest.raises(TypeError):
        TransitionLog().append(["not a tuple"])  # type: ignore[arg-type]


def test_transition_log_owns_what_it_names() -> None:
    class Id(str):
        __slots__ = ("__weakref__",)

    log = TransitionLog(4)
    refs = []
    for i in range(20):
        stimulus_id = Id(f"s-{i}")
        refs.append(weakref.ref(stimulus_id))
        log.append((stimulus_id,))
    del stimulus_id
    assert [ref() is not None for ref in refs] == [False] * 16 + [True] * 4
    log.clear()
    assert not any(ref() for ref in refs)


def test_logs_keep_neither_run_specs_nor_values() -> None:
    class Big:
        pass

    ws = WorkerState(address="127.0.0.1:1")
    spec, value, fetched, scattered = Big(), Big(), Big(), Big()
    refs = [weakref.ref(x) for x in (spec, value, fetched, scattered)]
    event = ComputeTaskEvent.dummy("x", who_has={"y": ["127.0.0.1:2"]}, stimulus_id="s1")
    event.run_spec = spec
    ws.handle_stimulus(event)
    ws.handle_stimulus(
        GatherDepSuccessEvent(
            worker="127.0.0.1:2", total_nbytes=1, data={"y": fetched}, stimulus_id="s2"
        )
    )
    ws.handle_stimulus(ExecuteSuccessEvent.dummy("x", value, stimulus_id="s3"))
    ws.handle_stimulus(UpdateDataEvent(data={"z": scattered}, stimulus_id="s4"))
    ws.handle_stimulus(FreeKeysEvent(keys=["x", "y", "z"], stimulus_id="s5"))
    del event, spec, value, fetched, scattered
    gc.collect()
    assert not any(ref() for ref in refs)
    logged = list(ws.stimulus_log)
    assert [type(ev) for ev in logged] == [
        ComputeTaskEvent,
        GatherDepSuccessEvent,
        ExecuteSuccessEvent,
        UpdateDataEvent,
        FreeKeysEvent,
    ]
    assert logged[0].run_spec is None and logged[0].who_has == {"y": ["127.0.0.1:2"]}
    assert logged[1].data == {"y": None} and logged[3].data == {"z": None}
    assert logged[2].value is None and logged[2].nbytes == 1
    assert all(abs(ev.handled - time.time()) < 60 for ev in logged)


def test_log_length_comes_from_the_config() -> None:
    with dask.config.set({"distributed.admin.low-level-log-length": 3}):
        ws = WorkerState(address="127.0.0.1:1")
    for i in range(10):
        ws.handle_stimulus(PauseEvent(stimulus_id=f"s{i}"))
        ws.log.append((i,))
    assert [ev.stimulus_id for ev in ws.stimulus_log] == ["s7", "s8", "s9"]
    assert list(ws.log) == [(7,), (8,), (9,)]


def test_messages_log_the_same_as_events() -> None:
    def strip(ws: WorkerState) -> tuple[list, list]:
        return [r[:-1] for r in ws.log], list(ws.stimulus_log)

    events, messages = (WorkerState(address="127.0.0.1:1") for _ in range(2))
    compute = ComputeTaskEvent.dummy("x", who_has={"y": ["127.0.0.1:2"]}, stimulus_id="s1")
    arrived = GatherDepSuccessEvent(
        worker="127.0.0.1:2", total_nbytes=1, data={"y": 5}, stimulus_id="s2"
    )
    events.handle_stimulus(
        compute,
        arrived,
        ExecuteSuccessEvent.dummy("x", 1, stimulus_id="s3"),
        FreeKeysEvent(keys=["x"], stimulus_id="s4"),
    )
    messages.handle_events((compute_task_of(compute), arrived))
    messages.handle_stimulus(ExecuteSuccessEvent.dummy("x", 1, stimulus_id="s3"))
    messages.handle_events((free_keys_of(FreeKeysEvent(keys=["x"], stimulus_id="s4")),))
    assert strip(events) == strip(messages)
    assert events.tasks.keys() == messages.tasks.keys()


KEYS = [
    "x", "x-1", "x-1-2-3", ("x-2", 1), "('x-2', 1)", "('x', 1)", "hello-world-1", b"hello-world-1",
    "ae05086432ca935f6eba409a8ecd4896", "<module.submodule.myclass object at 0xdaf372", None,
    "x-abcdefab", "_(x)", "", "-", "--", "-1", "1-", ("",), (("x", 1), 2), (None,), 5, 1.5,
    "x-abcdefab-1", "a-b-c-1d2", "é-ü-7", "x-٣", "inc-" + "f" * 32, "inc-" + "0" * 32,
    ("sum-part-" + "0af" * 8, 0, 3), "x-y z-1", "'x'-3",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_prefix_is_dasks(key: object) -> None:
    for _ in range(2):  # the second time from memory
        assert TaskState(key).prefix == key_split(key)


def test_keys_leave_nothing_where_their_prefixes_are_remembered() -> None:
    """dask's `key_split` keeps the last 100,000 keys, and they are part of the worker's memory."""
    rng = random.Random(0)
    before, known = key_split.cache_info(), known_prefixes()
    for i in range(2000):
        unique = uuid.UUID(int=rng.getrandbits(128))
        assert prefix_of(f"of-one-task-{unique}") == "of-one-task"
        assert prefix_of((f"of-one-graph-{unique.hex}", i)) == "of-one-graph"
        assert prefix_of(f"of-one-map-{unique}-{i}") == "of-one-map"
    assert known_prefixes() <= known + 20  # now and then an id begins with a word of letters alone
    for i in range(2000):
        for key in (rng.randbytes(16).hex(), f"<an object at {i}>", i, (i, 0), f"x{i}".encode()):
            prefix_of(key)
        assert known_prefixes() <= 1000
    assert key_split.cache_info() == before


def test_counts_follow_the_states() -> None:
    ws = WorkerState(address="127.0.0.1:1")
    for i in range(3):
        ws.handle_stimulus(ComputeTaskEvent.dummy(f"inc-{i}", stimulus_id="s"))
    ws.handle_stimulus(ComputeTaskEvent.dummy(("add-9f", 0), stimulus_id="s", priority=(9,)))
    assert ws.task_counter.current_count() == {
        ("inc", "executing"): 1,
        ("inc", "ready"): 2,
        ("add", "ready"): 1,
    }
    assert ws.task_counter.current_count(by_prefix=False) == {"executing": 1, "ready": 3}
    time.sleep(0.01)
    before = ws.task_counter.cumulative_elapsed(by_prefix=False)
    assert before["ready"] > 2 * before["executing"] > 0
    ws.handle_stimulus(FreeKeysEvent(keys=["inc-1", "inc-2", ("add-9f", 0)], stimulus_id="s"))
    assert ws.task_counter.current_count(by_prefix=False) == {"executing": 1}
    # Time that was spent in a state is not forgotten with the tasks
    after = ws.task_counter.cumulative_elapsed()
    assert after["inc", "ready"] + after["add", "ready"] >= before["ready"]
    ws.validate_state()


def test_counting_holds_no_task() -> None:
    ws = WorkerState(address="127.0.0.1:1")
    for i in range(100):
        ws.handle_stimulus(ComputeTaskEvent.dummy(f"x-{i}", stimulus_id="s"))
        ws.handle_stimulus(ExecuteSuccessEvent.dummy(f"x-{i}", 1, stimulus_id="s"))
        ws.handle_stimulus(FreeKeysEvent(keys=[f"x-{i}"], stimulus_id="s"))
    gc.collect()
    tasks = [ts for ts in TaskState._instances if str(ts.key).startswith("x-")]
    assert not tasks, [sys.getrefcount(ts) for ts in tasks]
