"""The store of results beside distributed's SpillBuffer, below the target and across it.

``native`` is the way that the core takes: from compiled code it costs less than here, where every
call is one of Python's. ``mapping`` is what Python code calls. All figures are per key.

Operations of tens of nanoseconds differ by a third from one process to the next, by where things
happen to lie in memory: those figures are for information.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dask.sizeof import sizeof
from distributed.sizeof import safe_sizeof
from distributed.spill import SpillBuffer

from fastworker.data.sizes import nbytes_of
from fastworker.data.store import Store
from machines import fresh_keys
from versus import Record, Side, Versus

N = 1_000
NO_TARGET = 10**12


def side(
    cls: type[SpillBuffer],
    path: Path,
    run: Callable[..., None],
    target: int = NO_TARGET,
    nbytes: int = 16,
    held: bool = False,
) -> Side:
    """`run` on an empty mapping, or with `held` on a full one, with keys and values for it."""
    folder = path / cls.__name__
    keys = fresh_keys(N)

    def prepare() -> tuple[Any, ...]:
        data = cls(str(folder), target)
        values = [bytes(nbytes) for _ in keys]
        if held:
            fill(data, keys, values)
        return data, keys, values

    def run_and_empty(data: Any, keys: list[Any], values: list[Any]) -> None:
        run(data, keys, values)
        assert not data

    return Side(prepare, run_and_empty)


def fill(data: Any, keys: list[Any], values: list[Any]) -> None:
    for key, value in zip(keys, values, strict=True):
        data[key] = value


def drop(data: Any, keys: list[Any], values: list[Any]) -> None:
    for key in keys:
        del data[key]


def fill_and_drop(data: Any, keys: list[Any], values: list[Any]) -> None:
    fill(data, keys, values)
    drop(data, keys, values)


def fill_and_drop_natively(data: Any, keys: list[Any], values: list[Any]) -> None:
    put, take = data.fast.try_put, data.fast.try_take
    for key, value in zip(keys, values, strict=True):
        put(key, value, 16)
    for key in keys:
        take(key)


def read_and_drop(data: Any, keys: list[Any], values: list[Any]) -> None:
    for key in keys:
        data[key]
    drop(data, keys, values)


def read_and_drop_natively(data: Any, keys: list[Any], values: list[Any]) -> None:
    look, take = data.fast.try_look, data.fast.try_take
    for key in keys:
        look(key)
    for key in keys:
        take(key)


def test_put_and_take(versus: Versus, tmp_path: Path) -> None:
    versus(
        "store/put-take/native",
        stock=side(SpillBuffer, tmp_path, fill_and_drop),
        others={"mapping": side(Store, tmp_path, fill_and_drop)},
        ours=side(Store, tmp_path, fill_and_drop_natively),
        per=N,
        judged=False,
        at_least=25,
    )


def test_put_and_delete(versus: Versus, tmp_path: Path) -> None:
    versus(
        "store/put-take/mapping",
        stock=side(SpillBuffer, tmp_path, fill_and_drop),
        ours=side(Store, tmp_path, fill_and_drop),
        per=N,
        judged=False,
        at_least=3,
    )


def test_look(versus: Versus, tmp_path: Path) -> None:
    versus(
        "store/look-take/native",
        stock=side(SpillBuffer, tmp_path, read_and_drop, held=True),
        others={"mapping": side(Store, tmp_path, read_and_drop, held=True)},
        ours=side(Store, tmp_path, read_and_drop_natively, held=True),
        per=N,
        judged=False,
        at_least=25,
    )


def test_spill_and_read_back(versus: Versus, tmp_path: Path) -> None:
    """A tenth fits into memory, so that pickling and files are what it costs, on both sides."""
    target = N * 1000 // 10
    versus(
        "store/spill",
        stock=side(SpillBuffer, tmp_path, spill, target, 1000),
        ours=side(Store, tmp_path, spill, target, 1000),
        per=N,
        judged=False,
    )


def spill(data: Any, keys: list[Any], values: list[Any]) -> None:
    fill(data, keys, values)
    assert len(data.slow) >= N * 0.9 - 1
    for key, value in zip(keys, values, strict=True):
        assert data[key] == value
    drop(data, keys, values)


VALUES = {
    "int": 5,
    "float": 1.5,
    "str": "some text",
    "bytes": b"some bytes",
    "None": None,
    "object": object(),
    "list": [1, 2.5, "three"],
    "dict": {"a": 1, "b": [2]},
}


@pytest.mark.parametrize("kind", VALUES)
def test_sizes(versus: Versus, kind: str) -> None:
    value = VALUES[kind]
    assert nbytes_of(value) == sizeof(value)

    def run(measure: Callable[[object], int]) -> None:
        for _ in range(N):
            measure(value)

    versus(
        f"store/nbytes/{kind}",
        stock=Side(lambda: (safe_sizeof,), run),
        ours=Side(lambda: (nbytes_of,), run),
        per=N,
        judged=False,
        at_least=2,
    )


def test_memory_of_a_key(record: Record, tmp_path: Path) -> None:
    """Bytes besides the key and the value, 10,000 keys below target."""

    def bytes_per_key(cls: type[SpillBuffer]) -> float:
        keys = fresh_keys(10_000)
        values = [object() for _ in keys]
        data = cls(str(tmp_path / cls.__name__), NO_TARGET)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            fill(data, keys, values)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        return (after - before) / len(keys)

    record(
        "store/bytes",
        stock=bytes_per_key(SpillBuffer),
        ours=bytes_per_key(Store),
        unit="bytes/key",
        at_most=150,
    )
