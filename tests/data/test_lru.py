"""The part of the store that compiled code uses, and what stands for ``zict.LRU``."""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from typing import Any

import pytest

from fastworker.core.storage import Storage
from fastworker.data.lru import ResultLRU
from fastworker.data.store import Store
from support.blobs import Blob, Text


def weigh(key: Any, value: Any) -> int:
    return len(value)


@pytest.fixture
def memory() -> ResultLRU:
    return ResultLRU(100, weight=weigh)


def test_order_is_that_of_the_last_use(memory: ResultLRU) -> None:
    for key in "abcd":
        assert memory.try_put(key, key, 10)
    assert memory.order == ["a", "b", "c", "d"]
    assert memory.try_look("b") == "b"
    assert memory["a"] == "a"
    assert memory.order == ["c", "d", "b", "a"]
    assert list(memory) == ["a", "b", "c", "d"]
    assert memory.get("c") == "c" and memory.get("x", 1) == 1
    assert dict(memory.items()) == {key: key for key in "abcd"}
    assert list(memory.values()) == ["a", "b", "c", "d"]
    assert "a" in memory.values() and ("a", "a") in memory.items()
    assert memory.order == ["d", "b", "a", "c"], "to look at a view is no use"


def test_target(memory: ResultLRU) -> None:
    assert not memory.try_put("heavy", "", 101)
    assert len(memory) == 0 and not memory.over_target
    assert memory.try_put("a", "", 100) and not memory.over_target
    assert memory.try_put("b", "", 1) and memory.over_target
    assert memory.total_weight == 101 and memory.weights == {"a": 100, "b": 1}
    memory.over_target = False
    assert memory.try_take("a") == ""
    assert memory.total_weight == 1
    memory.offset = 95
    assert memory.try_put("c", "", 5) and memory.over_target
    memory.n = 4
    assert not memory.try_put("d", "", 5)


def test_put_does_nothing_for_a_key_that_is_here(memory: ResultLRU) -> None:
    assert memory.try_put("a", "1", 10)
    assert not memory.try_put("a", "2", 20)
    assert memory["a"] == "1" and memory.total_weight == 10


PLAIN = ["a", b"a", 1, 1.5, True, None, ("a", 0, (1.5, b"b")), ((),) * 3]
STRANGE = [Text("a"), ("a", Text("b")), ("a", (1, frozenset())), frozenset("a")]


@pytest.mark.parametrize("key", PLAIN, ids=repr)
def test_plain_keys(memory: ResultLRU, key: Any) -> None:
    assert memory.try_put(key, "1", 10)
    assert memory.try_look(key) == "1"
    assert memory.try_take(key) == "1"
    memory.set_noevict(key, "2")
    assert memory.try_take(key) == "2"


@pytest.mark.parametrize("key", STRANGE, ids=repr)
def test_keys_that_are_not_plain(memory: ResultLRU, key: Any) -> None:
    """With one of them the native way is closed, and everything else still works."""
    memory.set_noevict("x", "1")
    assert not memory.try_put(key, "2", 10)
    assert memory.try_look("x") == "1"
    memory.set_noevict(key, "3")
    assert not memory.try_put("y", "4", 10)
    assert memory.try_look("x") is None and memory.try_take("x") is None
    assert memory["x"] == "1" and memory[key] == "3"
    assert memory.holds_key(key) and memory.holds_key("x") and not memory.holds_key("y")
    assert memory.order == ["x", key]
    del memory[key]
    assert key not in memory and "x" in memory


def test_tuples_too_deep_are_not_plain(memory: ResultLRU) -> None:
    key: Any = ("a",)
    for _ in range(100_000):
        key = (key,)
    assert not memory.try_put(key, "1", 10)
    assert memory.try_put((((("a",),),),), "1", 10)
    while key:  # or to let it go would be deep as well
        key = key[0] if isinstance(key[0], tuple) else None


def test_reads_are_counted(tmp_path: Any) -> None:
    store = Store(str(tmp_path), 100)
    assert store.fast.try_put("a", "", 10) and store.fast.try_put("b", "", 20)
    store.fast.try_look("a")
    store.fast.try_look("a")
    store.fast.try_look("nothing")
    assert store["b"] == ""
    assert (store.fast.read_count, store.fast.read_bytes) == (3, 40)
    assert store.cumulative_metrics == {
        ("memory-read", "count"): 3,
        ("memory-read", "bytes"): 40,
    }


def test_evict_calls_back_and_keeps_what_fails() -> None:
    evicted = []

    def on_evict(key: str, value: str) -> None:
        if value == "bad":
            raise OSError("no room")
        evicted.append((key, value))

    memory = ResultLRU(10, weight=weigh, on_evict=[on_evict])
    memory["a"] = "12345"
    memory["b"] = "bad"
    memory["c"] = "123"
    assert evicted == [("a", "12345")] and memory.order == ["b", "c"]
    with pytest.raises(OSError, match="no room"):
        memory.evict()
    assert memory.order == ["b", "c"] and memory.total_weight == 6
    assert memory.evict("c") == ("c", "123", 3)
    with pytest.raises(KeyError):
        memory.evict("c")
    with pytest.raises(OSError, match="no room"):
        memory["d"] = "12345678"
    assert memory["d"] == "12345678"
    memory.close()
    memory["e"] = "123"
    assert memory.order == ["b", "d", "e"], "closed: nothing is evicted"
    with pytest.raises(KeyError):
        ResultLRU(10, weight=weigh).evict()


def test_store_of_an_existing_buffer(tmp_path: Any) -> None:
    from distributed.spill import SpillBuffer

    buffer = SpillBuffer(str(tmp_path), 1234, max_spill=5678)
    store = Store.in_place_of(buffer)
    assert (store.n, store._slow_uncached.max_weight) == (1234, 5678)
    assert store._slow_uncached.d.directory == str(tmp_path)
    assert isinstance(store.fast, Storage)
    buffer["a"] = 1
    with pytest.raises(ValueError, match="in use already"):
        Store.in_place_of(buffer)
    with pytest.raises(NotImplementedError):
        store.pop("a", None)


def test_bytes_for_a_key() -> None:
    """Of our own; the key and the value belong to the caller."""
    n = 20_000
    keys = [f"task-{i}" for i in range(n)]
    values = [object() for _ in range(n)]
    memory = ResultLRU(10**9, weight=weigh)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for key, value in zip(keys, values, strict=True):
            memory.try_put(key, value, 16)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(memory) == n
    assert (after - before) / n <= 150


def test_nothing_is_kept(tmp_path: Any) -> None:
    """A store that holds itself is garbage like any other."""
    store = Store(str(tmp_path), 10**6)
    blob = Blob([store, store.fast], 100)
    store["a"] = blob
    store[Text("b")] = [store]
    gone = weakref.ref(store), weakref.ref(blob)
    del store, blob
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_values_are_let_go_at_once(tmp_path: Any) -> None:
    store = Store(str(tmp_path), 10**6)
    ways = [
        lambda: store.__delitem__("x"),
        lambda: store.fast.try_take("x"),
        lambda: store.__setitem__("x", 1),
        lambda: store.evict(),
    ]
    for way in ways:
        store["x"] = blob = Blob("x", 100)
        gone = weakref.ref(blob)
        del blob
        way()
        assert gone() is None


def test_failures_are_on_record_for_this_value_only(tmp_path: Any) -> None:
    store = Store(str(tmp_path), 10**6)
    assert store.fast.try_put("x", Blob("x", 100, pickles=False), 100)
    assert store.evict() == -1 and store.logged_pickle_errors == {"x"}
    assert store.fast.try_take("x") is None, "the record has to go too"
    del store["x"]
    assert not store.logged_pickle_errors
    assert store.fast.try_put("x", Blob("x", 100), 100)
    assert store.fast.try_take("x") is not None
