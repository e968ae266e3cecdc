"""The short way for small messages: the same bytes and the same values as distributed's."""

from __future__ import annotations

import enum

import pytest
from distributed.protocol import dumps, loads, to_serialize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastworker.comm.plain import decode, encode

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


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.text(max_size=8), values, max_size=5))
def test_same_bytes_same_values(message):
    frames = dumps(message)
    frame = encode(message)
    assert frame is None or [frame] == frames
    plain = decode(memoryview(frames[0]))
    if plain is not None:
        assert plain == (loads(frames),)


def test_an_ordinary_call_goes_the_short_way():
    message = {"op": "heartbeat", "reply": True, "keys": ["a", ("b", 1)], "load": 0.5, "x": None}
    frame = encode(message)
    assert [frame] == dumps(message)
    assert decode(memoryview(frame)) == (loads([frame]),)


class Colour(enum.Enum):
    RED = 1


class Text(str):
    pass


@pytest.mark.parametrize(
    "value",
    [
        {1, 2},
        Colour.RED,
        Text("x"),
        to_serialize(1),
        2**63,
        bytearray(b"x"),
        b"x" * 20_000,
        "x" * 20_000,
        list(range(1000)),
        {1: 2},
        [[[[[[[[[1]]]]]]]]],
        "\ud800",
        object(),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_what_is_left_to_distributed(value):
    assert encode({"op": "x", "value": value}) is None


@pytest.mark.parametrize(
    "message",
    [{"value": {1, 2}}, {"value": Colour.RED}, {"value": to_serialize(b"1")}, {"__Enum__": 1}],
    ids=lambda message: repr(message)[:20],
)
def test_marked_frames_are_left_to_distributed(message):
    assert decode(memoryview(dumps(message)[0])) is None


@example(b"\x81\x80\x00")  # a map as a key
@given(st.binary(max_size=60))
def test_garbage_frames_are_left_to_distributed(garbage):
    decode(memoryview(garbage))
