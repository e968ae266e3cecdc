"""Native msgpack beside msgpack's own."""

from __future__ import annotations

import enum

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworker.wire.encode import pack_plain

MAX_DEPTH = 64  # of what is packed natively

texts = st.text(st.characters(codec="utf-8"))
integers = st.integers(-(2**63), 2**64 - 1)
scalars = st.one_of(st.none(), st.booleans(), integers, st.floats(), texts, st.binary())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(st.one_of(texts, integers, st.binary()), inner),
    ),
)


def by_msgpack(value):
    return msgpack.packb(value, use_bin_type=True)


@given(values)
@settings(max_examples=200, deadline=None)
def test_plain_values(value):
    assert pack_plain(value) == by_msgpack(value)


BOUNDARIES = [0, 1, 15, 16, 31, 32, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**16, 2**16 + 1]


@pytest.mark.parametrize("n", BOUNDARIES)
def test_lengths_where_the_form_changes(n):
    for value in ("x" * n, b"x" * n, [None] * n, (1,) * n, dict.fromkeys(range(n)), "\u20ac" * n):
        assert pack_plain(value) == by_msgpack(value)


@pytest.mark.parametrize("bits", [0, 4, 5, 6, 7, 8, 15, 16, 31, 32, 62, 63])
def test_numbers_where_the_form_changes(bits):
    for value in range(2**bits - 2, 2**bits + 3):
        assert pack_plain(value) == by_msgpack(value)
        assert pack_plain(-value) == (by_msgpack(-value) if value <= 2**63 else None)


class Text(str):
    pass


class Number(int):
    pass


class Fraction(float):
    pass


class Mapping(dict):
    pass


class Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value",
    [
        Text("x"),
        Number(1),
        Fraction(1),
        Mapping(),
        Colour.RED,
        {1, 2},
        frozenset(),
        bytearray(b"x"),
        memoryview(b"x"),
        2**64,
        -(2**63) - 1,
        "\ud800",
        object(),
        1j,
    ],
    ids=repr,
)
def test_what_is_not_plain_is_left_alone(value):
    assert pack_plain(value) is None
    assert pack_plain([1, {"x": (value,)}]) is None


def test_depth():
    value = 1
    for _ in range(MAX_DEPTH):
        value = [value]
    assert pack_plain(value) == by_msgpack(value)
    assert pack_plain([value]) is None
    endless = []
    endless.append(endless)
    assert pack_plain(endless) is None
    endless = {}
    endless["x"] = endless
    assert pack_plain(endless) is None
