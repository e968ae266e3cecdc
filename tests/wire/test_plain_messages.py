"""Messages without results: the same bytes and the same values as distributed's."""

from __future__ import annotations

import pytest
from distributed.core import Status
from distributed.protocol import dumps, loads, to_serialize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastworker.wire.result_messages import pack, unpack

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.binary(max_size=20),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.text(max_size=8), inner, max_size=4),
    ),
    max_leaves=20,
)


def packed(message):
    return pack(message, {}, 1 << 26)


@settings(deadline=None, max_examples=300)
@given(st.one_of(values, st.dictionaries(st.text(max_size=8), values, max_size=5)))
def test_same_bytes_same_values(message):
    frames = dumps(message)
    assert packed(message) == frames
    assert unpack([memoryview(frames[0])]) == (loads(frames),)


@pytest.mark.parametrize(
    "message",
    [
        {"op": "heartbeat", "reply": True, "keys": ["a", ("b", 1)], "load": 0.5, "x": None},
        "OK",
        None,
        [{"op": "a"}, {"op": "b", "x": 2**63}],
        {"op": "x", "value": {1, 2}},
        {"op": "x", "value": b"x" * 20_000, "text": "x" * 20_000, "list": list(range(1000))},
        {"op": "x", "value": {1: 2}},
    ],
    ids=lambda message: repr(message)[:20],
)
def test_what_is_packed_natively(message):
    frames = packed(message)
    assert frames == dumps(message)
    assert unpack([memoryview(frames[0])]) == (loads(frames),)


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [Status.running, Text("x"), [to_serialize(1)], 2**64, bytearray(b"x"), "\ud800", object()],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_left_to_distributed(value):
    assert packed({"op": "x", "value": value}) is None
    assert packed(value) is None


@pytest.mark.parametrize("value", [{1, 2}, Status.running], ids=repr)
def test_marked_values(value):
    assert unpack(dumps({"value": value})) == ({"value": value},)


@example(b"\x81\x80\x00")  # a map as a key
@given(st.binary(max_size=60))
def test_garbage_frames_are_left_to_distributed(garbage):
    unpack([memoryview(garbage)])
