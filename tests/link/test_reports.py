"""The core's records as bytes, beside stock's messages."""

from __future__ import annotations

from math import nan

import msgpack
import pytest
from distributed.protocol.core import dumps
from distributed.worker_state_machine import GatherDepSuccessEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworker.core import WorkerState
from fastworker.core.records import Dropped, Finished, Held, describe_type, to_instructions
from fastworker.link.reports import pack_report
from support.core import events

texts = st.text(st.characters(codec="utf-8"))
integers = st.integers(-(2**63), 2**64 - 1)
keys = st.recursive(
    st.one_of(texts, texts.map(str.encode), integers, st.floats(allow_nan=False)),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(tuple),
)


def run(key, value=1, *, run_id=1, stimulus_id="stimulus", state=None):
    """The message about a task that the core has seen through."""
    state = state if state is not None else WorkerState(nthreads=1)
    state.handle_stimulus(events.compute(key, run_id=run_id))
    success = events.success(key, value, run_id=run_id, stop=11.5, stimulus_id=stimulus_id)
    (record,) = state.handle_events((success,))
    assert type(record) is Finished
    return record


def by_stock(record):
    (instruction,) = to_instructions([record])
    frames = dumps(instruction.to_dict())
    assert len(frames) == 1
    return frames[0]


@given(keys, st.integers(0, 2**64 - 1), texts)
@settings(max_examples=200, deadline=None)
def test_finished(key, run_id, stimulus_id):
    describe_type(int)
    record = run(key, run_id=run_id, stimulus_id=stimulus_id)
    assert pack_report(record) == by_stock(record)


@given(keys, texts)
@settings(max_examples=200, deadline=None)
def test_dropped(key, stimulus_id):
    state = WorkerState(nthreads=1)
    run(key, state=state)
    (record,) = state.handle_events((events.free(key, stimulus_id=stimulus_id),))
    assert type(record) is Dropped
    assert pack_report(record) == by_stock(record)


@given(keys, texts)
@settings(max_examples=200, deadline=None)
def test_held(key, stimulus_id):
    state = WorkerState(nthreads=1, address="tcp://10.0.0.1:1")
    peer = "tcp://10.0.0.2:2"
    state.handle_stimulus(events.compute("needs it", {key: [peer]}))
    arrived = GatherDepSuccessEvent(
        worker=peer, total_nbytes=1, data={key: 1}, stimulus_id=stimulus_id
    )
    records = state.handle_events((arrived,))
    (record,) = (record for record in records if type(record) is Held)
    assert pack_report(record) == by_stock(record)


@pytest.mark.parametrize(
    "metadata", [{}, {"a": 1, "b": [1.5, None, {"c": (b"d",)}]}, {"x" * 5000: "y" * 5000}]
)
def test_finished_with_metadata_and_no_times(metadata):
    describe_type(int)
    state = WorkerState(nthreads=1)
    state.handle_stimulus(events.compute("x"))
    state.tasks["x"].metadata = metadata
    (record,) = state.handle_events((events.success("x", 1, start=nan, stop=nan),))
    assert record.metadata == metadata or not metadata
    assert pack_report(record) == by_stock(record)


def test_metadata_that_is_not_plain():
    describe_type(int)
    state = WorkerState(nthreads=1)
    state.handle_stimulus(events.compute("x"))
    state.tasks["x"].metadata = {"x": {1, 2}}
    (record,) = state.handle_events((events.success("x", 1),))
    assert pack_report(record) is None


class Refuses(type):
    """A metaclass whose types have a hash and an equality that must not be asked for."""

    def __hash__(cls):
        raise AssertionError("hash")

    def __eq__(cls, other):
        raise AssertionError("eq")


def test_a_type_is_looked_up_without_asking_it_anything():
    class Odd(metaclass=Refuses):
        pass

    record = run("x", Odd())
    assert pack_report(record) is None  # not described so far
    pickled, name, cls = describe_type(Odd)
    assert cls is Odd and "Odd" in name
    assert pack_report(record) == by_stock(record)
    assert msgpack.unpackb(pack_report(record))["type"] == pickled


def test_many_types_do_not_pile_up_nor_mix():
    for i in range(2500):
        cls = type(f"Type{i}", (), {})
        describe_type(cls)
        record = run("x", cls())
        assert f"Type{i}" in msgpack.unpackb(pack_report(record))["typename"]
