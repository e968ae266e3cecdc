"""Made-up and damaged messages, always the same ones; ``ci/fuzz`` looks further."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from distributed.protocol import to_serialize
from distributed.protocol.serialize import ToPickle
from distributed.protocol.utils import unpack_frames
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_inert import compare, inert
from wire_messages import as_stock, compute_task, frames_of, same, stock
from wire_mutations import Damage, damaged

from fastworker.wire import Frames, WireError, decode


def same_each_time(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


keys = st.recursive(
    st.text(max_size=70) | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=5) | st.floats(),
    lambda inner: st.tuples(inner) | st.tuples(inner, inner) | st.tuples(inner, inner, inner),
    max_leaves=5,
)
plain = st.recursive(
    st.none() | st.booleans() | keys | st.text() | st.binary(max_size=300),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(keys, inner)
        | st.dictionaries(st.sampled_from(["key", "op", "__Pickled__x", "__Set"]), inner)
    ),
    max_leaves=20,
)
arrays = st.integers(0, 3_000).map(lambda n: np.arange(n) % 7)
values = st.recursive(
    plain
    | st.builds(ToPickle, plain | arrays | st.lists(arrays, max_size=3))
    | st.builds(to_serialize, plain | arrays | st.lists(arrays, max_size=3))
    | st.sets(st.integers() | st.text(max_size=3), max_size=4).filter(
        lambda s: all(isinstance(x, str) or -(2**63) <= x < 2**64 for x in s)
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "key": keys,
        "run_id": st.integers(0, 2**40) | plain,
        "priority": st.tuples(st.integers(-9, 9), st.floats(), st.integers(0, 2**40)) | plain,
        "who_has": st.dictionaries(keys, st.lists(st.text(max_size=9), max_size=3)) | plain,
        "nbytes": st.dictionaries(keys, st.integers(0, 2**40)) | plain,
        "run_spec": values,
        "annotations": st.dictionaries(st.text(max_size=9), values),
        "resource_restrictions": st.dictionaries(st.text(max_size=9), st.floats()) | st.none(),
        "span_id": st.text(max_size=70) | st.none(),
        "actor": st.booleans() | plain,
        "more": values,
    },
)
messages = st.one_of(
    fields.map(lambda changed: compute_task(**changed)),
    st.fixed_dictionaries({"op": st.text(max_size=12)}, optional={"a": values, "b": values}),
    st.fixed_dictionaries(
        {"op": st.just("free-keys")},
        optional={"keys": st.lists(keys) | plain, "stimulus_id": st.text() | plain},
    ),
    values,
)


@same_each_time(150)
@given(st.lists(messages, max_size=4))
def test_made_up_messages(batch):
    frames = frames_of(batch)
    assert same([as_stock(message) for message in decode(frames)], stock(frames))


damages = st.builds(
    Damage,
    kind=st.integers(0, 10),
    frame=st.integers(0, 15),
    at=st.integers(0, 5_000),
    length=st.integers(0, 40),
    byte=st.integers(0, 255),
)


def test_damaged_messages():
    """Each is refused, or means the same to stock. Memory stays within the message's bounds."""
    outcomes: Counter[str] = Counter()

    @same_each_time(3_000)
    @given(which=st.integers(0, 200), damages=st.lists(damages, min_size=1, max_size=4))
    def check(which, damages):
        frames = damaged(which, damages)
        outcomes[compare(frames)] += 1

    with inert():
        check()
    # A test in which nothing got through, or everything did, would prove nothing
    assert outcomes["same"] > 150
    assert outcomes["refused"] > 1_000
    assert outcomes["stricter"] < 300


def test_what_damaged_messages_allocate():
    @same_each_time(400)
    @given(which=st.integers(0, 200), damages=st.lists(damages, min_size=1, max_size=4))
    def check(which, damages):
        frames = damaged(which, damages)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(ValueError):
            decode(frames)
        # 64 bytes for an empty dict of one byte; the rest is for the error
        used = tracemalloc.get_traced_memory()[1] - before
        assert used < 100 * sum(map(len, frames)) + 50_000

    with inert():
        tracemalloc.start()
        try:
            check()
        finally:
            tracemalloc.stop()


@same_each_time(500)
@given(st.binary(max_size=200))
def test_rubbish(data):
    with inert():
        compare([data])
        compare([b"\x91\x81\x01\x81\xab__Pickled__\x01", data])
        compare([b"\x91\x81\x01\x81\xae__Serialized__\x01", data])


@same_each_time(500)
@given(
    st.lists(st.integers(0, 40) | st.integers(0, 2**64 - 1), max_size=5),
    st.integers(0, 6) | st.integers(0, 2**64 - 1),
    st.binary(max_size=100),
)
def test_heads(sizes, n, body):
    head = b"".join(x.to_bytes(8, "little") for x in (n, *sizes)) + body
    try:
        frames = Frames.of_head(head)
    except WireError:
        return
    assert len(frames) + len(frames.missing) == n
    assert 8 * (1 + n) + frames.total_bytes - sum(frames.missing) == len(head)
    if frames.missing:
        with pytest.raises(WireError):
            frames.add(b"x" if frames.missing[0] != 1 else b"")
        return
    with inert():
        if len(frames):
            compare([bytes(frame) for frame in unpack_frames(head)])
