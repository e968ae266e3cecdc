"""Sizes are those of dask.sizeof, whichever functions are registered there."""

from __future__ import annotations

import array
import collections
import enum
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dask.sizeof import sizeof
from distributed.sizeof import safe_sizeof
from hypothesis import given
from hypothesis import strategies as st

from fastworker.data.sizes import nbytes_of

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3).map(lambda shift: 2**15 + shift),
    st.integers(-3, 3).map(lambda shift: 2**30 + shift),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.text(st.characters(max_codepoint=127)),
    st.binary(),
    st.binary().map(bytearray),
    st.binary().map(memoryview),
)
hashable = st.one_of(st.integers(), st.text(), st.binary(), st.floats(), st.none())
# Up to ten items: of more Dask takes a sample, at random
nested = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=10),
        st.lists(inner, max_size=10).map(tuple),
        st.sets(hashable, max_size=10),
        st.frozensets(hashable, max_size=10),
        st.dictionaries(hashable, inner, max_size=10),
    ),
)


@given(nested)
def test_builtins(value: Any) -> None:
    assert nbytes_of(value) == safe_sizeof(value)


class Number(int):
    pass


class Text(str):
    def __sizeof__(self) -> int:
        return 12345


class Color(enum.IntEnum):
    RED = 1


class Sized:
    def __sizeof__(self) -> int:
        return 5000


class Slotted:
    __slots__ = ("a", "b")


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize(
    "value",
    [
        Number(5),
        Text("text"),
        Color.RED,
        Sized(),
        Slotted(),
        Point(1, "two"),
        Sized,
        len,
        range(10),
        slice(1, 2),
        ...,
        array.array("d", [1.0, 2.0]),
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.deque([1]),
        [[[[[[[[1]]]]]]]],
        {"a": {"b": {"c": {"d": {"e": {"f": 1}}}}}},
        [1.5] * 11,
        dict.fromkeys(range(1, 12), 0.5),
        dict.fromkeys(range(1, 1001), 0.5),
        set(range(1, 101)),
        sys.maxsize,
        "ä" * 10,
        "\N{SNOWMAN}" * 10,
    ],
    ids=repr,
)
def test_others(value: Any) -> None:
    assert nbytes_of(value) == safe_sizeof(value)


def test_dict_that_has_shrunk() -> None:
    value = dict.fromkeys(range(1000))
    for i in range(995):
        del value[i]
    assert nbytes_of(value) == safe_sizeof(value) > 10_000


def test_text_with_an_encoding_kept() -> None:
    value = "ä" * 1000
    before = nbytes_of(value)
    memoryview(value.encode())
    sys.intern(value)
    assert nbytes_of(value) == safe_sizeof(value) >= before


def test_numpy() -> None:
    np = pytest.importorskip("numpy")
    for value in (
        np.zeros(1000),
        np.zeros((100, 100))[::2, ::3],
        np.broadcast_to(np.zeros(10), (1000, 10)),
        np.zeros(0),
        np.array(1.5),
        np.float64(1.5),
        np.array(["a", None], dtype=object),
    ):
        assert nbytes_of(value) == safe_sizeof(value)
        assert nbytes_of([value, value]) == safe_sizeof([value, value])


def test_pandas() -> None:
    pd = pytest.importorskip("pandas")
    value = pd.DataFrame({"a": range(100), "b": [1.5] * 100})
    assert nbytes_of(value) == safe_sizeof(value) > 1600


@pytest.fixture
def registry() -> Iterator[dict[Any, Any]]:
    """What is registered in a test is forgotten after it."""
    before = sizeof._lookup.copy()
    yield sizeof._lookup
    sizeof._lookup.clear()
    sizeof._lookup.update(before)


@pytest.mark.parametrize(
    "value", [5, 1.5, "text", b"bytes", None, True, 1j, bytearray(3), [1], (1,), {1}, {1: 2}]
)
def test_own_handlers_win(registry: dict[Any, Any], value: Any) -> None:
    assert nbytes_of(value) < 1000
    sizeof.register(type(value), lambda _: 987654)
    assert nbytes_of(value) == safe_sizeof(value) == 987654
    assert nbytes_of([value]) == safe_sizeof([value]) >= 987654
    assert nbytes_of({1: value}) == safe_sizeof({1: value})


def test_own_handler_for_all_objects(registry: dict[Any, Any]) -> None:
    for cls in (float, int):
        registry.pop(cls, None)  # where Dask has noted the handler of `object` for them
    sizeof.register(object, lambda _: 4242)
    assert nbytes_of(1.5) == safe_sizeof(1.5) == 4242
    assert nbytes_of(7) == safe_sizeof(7) == 4242


def test_unknown_sizes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __sizeof__(self) -> int:
            raise RuntimeError("no idea")

    with caplog.at_level(logging.WARNING, "distributed.sizeof"):
        assert nbytes_of(Broken()) == 1_000_000
        assert "Broken" in caplog.text
        assert nbytes_of([Broken()]) == 1_000_000


def test_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builtins do not go by Dask's dispatcher at all."""
    values = [1, 2.5, "text", b"bytes", None, [1, (2, "x")], {"a": {1}}, bytearray(5)]
    expected = [safe_sizeof(value) for value in values]

    def refuse(self: Any, *args: Any) -> None:
        raise AssertionError("asked the dispatcher")

    monkeypatch.setattr(type(sizeof), "__call__", refuse)
    assert [nbytes_of(value) for value in values] == expected
