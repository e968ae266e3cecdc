"""Several threads on one store: held up in the worst places, and let loose."""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fastworker.data.store import Store
from support.blobs import Blob, Text

TIMEOUT = 20
NEVER = object()


class Gate:
    """A thread waits in it until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait(self) -> None:
        self.reached.set()
        if not self.opened.wait(TIMEOUT):
            raise TimeoutError("the gate was not opened")


gates: dict[str, Gate] = {}


class Slow(Blob):
    """Waits in a gate while it is pickled, and in another one while it is unpickled."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        if gate := gates.get(f"pickle {self.name}"):
            gate.wait()
        if not self.pickles:
            raise RuntimeError(self.name)
        return restore, (self.name, self.nbytes)


def restore(name: str, nbytes: int) -> Slow:
    if gate := gates.get(f"unpickle {name}"):
        gate.wait()
    return Slow(name, nbytes)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        try:
            yield pool
        finally:
            for gate in gates.values():
                gate.opened.set()
            gates.clear()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "spill"), 1000)


def held_up(pool: ThreadPoolExecutor, gate: str, call: Callable[..., Any], *args: Any) -> Future:
    """Start a call, and come back when it waits in a gate."""
    gates[gate] = Gate()
    future = pool.submit(call, *args)
    assert gates[gate].reached.wait(TIMEOUT)
    return future


def go_on(gate: str, *futures: Future) -> list[Any]:
    gates.pop(gate).opened.set()
    return [future.result(TIMEOUT) for future in futures]


def check(store: Store, *, memory: set[Any], disk: set[Any]) -> None:
    """Everything that the store and what is below it keep is in accord, with no thread at it."""
    assert set(store.memory) == memory
    assert set(store.disk) == disk
    assert set(store) == memory | disk
    assert len(store) == len(memory) + len(disk)
    assert set(store.fast.order) == memory
    assert store.fast.total_weight == sum(v.nbytes for v in store.memory.values())
    bottom = store._slow_uncached
    assert set(bottom.weight_by_key) == disk
    assert bottom.total_weight.memory == sum(w.memory for w in bottom.weight_by_key.values())
    assert bottom.total_weight.disk == sum(w.disk for w in bottom.weight_by_key.values())
    assert len(list(Path(bottom.d.directory).iterdir())) == len(disk)
    assert not store._loads


def check_all_can_be_evicted(store: Store) -> None:
    """No key is taken for busy for ever."""
    keys = set(store)
    while store.evict() >= 0:
        pass
    check(store, memory=set(), disk=keys)


# ----------------------------------------------------------------------- while one is written


def test_read_while_it_is_written(store: Store, pool: ThreadPoolExecutor) -> None:
    x = store["x"] = Slow("x", 400)
    writer = held_up(pool, "pickle x", store.evict)
    assert store["x"] is x and store.fast.try_look("x") is x
    assert "x" in store and len(store) == 1 and list(store) == ["x"]
    assert go_on("pickle x", writer) == [400]
    check(store, memory=set(), disk={"x"})


@pytest.mark.parametrize("how", ["del", "take"])
def test_deleted_while_it_is_written(store: Store, pool: ThreadPoolExecutor, how: str) -> None:
    store["x"] = Slow("x", 400)
    writer = held_up(pool, "pickle x", store.evict)
    if how == "del":
        del store["x"]
    else:
        assert store.fast.try_take("x") == Slow("x", 400)
    assert "x" not in store and len(store) == 0 and list(store) == []
    with pytest.raises(KeyError):
        store["x"]
    with pytest.raises(KeyError):
        del store["x"]
    assert go_on("pickle x", writer) == [0]
    check(store, memory=set(), disk=set())


@pytest.mark.parametrize("how", ["set", "del, set", "take, put"])
def test_replaced_while_it_is_written(store: Store, pool: ThreadPoolExecutor, how: str) -> None:
    store["x"] = Slow("x", 400)
    writer = held_up(pool, "pickle x", store.evict)
    new = Blob("new", 300)
    if how == "set":
        store["x"] = new
    elif how == "del, set":
        del store["x"]
        store["x"] = new
    else:
        assert store.fast.try_take("x") is not None
        assert store.fast.try_put("x", new, 300)
    assert store["x"] is new
    assert store.evict() == -1, "the file is being written"
    assert go_on("pickle x", writer) == [0]
    check(store, memory={"x"}, disk=set())
    assert store.evict() == 300
    check(store, memory=set(), disk={"x"})


def test_too_heavy_while_the_former_is_written(store: Store, pool: ThreadPoolExecutor) -> None:
    """It has to wait in memory until a thread spills the next time."""
    store["x"] = Slow("x", 400)
    writer = held_up(pool, "pickle x", store.evict)
    new = store["x"] = Blob("new", 3000)
    assert store["x"] is new
    go_on("pickle x", writer)
    check(store, memory={"x"}, disk=set())
    store.spill_excess()
    check(store, memory=set(), disk={"x"})
    assert store["x"] == new


def test_too_heavy_and_another_one_writes_it_first(
    store: Store, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had to stay for the sake of the former one, and then another thread made room."""
    store["x"] = Slow("x", 400)
    former = held_up(pool, "pickle x", store.evict)
    writers = []
    replace = store._replace

    def replace_and_be_slow(*args: Any) -> Any:
        replaced = replace(*args)
        assert go_on("pickle x", former) == [0]
        writers.append(held_up(pool, "pickle new", store.evict))
        return replaced

    monkeypatch.setattr(store, "_replace", replace_and_be_slow)
    store["x"] = Slow("new", 1200)
    assert go_on("pickle new", *writers) == [1200]
    check(store, memory=set(), disk={"x"})


def test_two_write_at_once(store: Store, pool: ThreadPoolExecutor) -> None:
    store["x"] = Slow("x", 400)
    store["y"] = Slow("y", 500)
    writers = [held_up(pool, f"pickle {key}", store.evict) for key in "xy"]
    assert store.evict() == -1
    assert go_on("pickle y", writers[1]) == [500]
    check_sums = store._slow_uncached.total_weight.memory
    assert check_sums >= 500
    assert go_on("pickle x", writers[0]) == [400]
    check(store, memory=set(), disk={"x", "y"})


def test_no_more_is_spilled_than_has_to_be(store: Store, pool: ThreadPoolExecutor) -> None:
    store["x"] = Slow("x", 400)
    store["y"] = Slow("y", 400)
    assert store.fast.try_put("z", Blob("z", 400), 400) and store.fast.over_target
    writer = held_up(pool, "pickle x", store.spill_excess)
    store.spill_excess()
    assert set(store.memory) == {"x", "y", "z"}, "what the other one writes is enough"
    go_on("pickle x", writer)
    check(store, memory={"y", "z"}, disk={"x"})


def test_deleted_while_it_fails_to_pickle(
    store: Store, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    store["x"] = Slow("x", 400, pickles=False)
    store["y"] = Blob("y", 400)
    writer = held_up(pool, "pickle x", store.evict)
    del store["x"]
    assert go_on("pickle x", writer) == [0]
    assert store.logged_pickle_errors == set()
    check(store, memory={"y"}, disk=set())
    assert store.evict() == 400


def test_limit_on_disk_holds_for_all_writers(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """Each alone would fit on disk, both together do not."""
    store = Store(str(tmp_path / "spill"), 10**6)
    store["x"] = Slow("x", 400)
    store.evict()
    file = store.spilled_total.disk
    store = Store(str(tmp_path / "limited"), 10**6, int(file * 1.5))
    store["x"] = Slow("x", 400)
    store["y"] = Slow("y", 400)
    writers = [held_up(pool, f"pickle {key}", store.evict) for key in "xy"]
    assert sorted(go_on("pickle y", writers[1]) + go_on("pickle x", writers[0])) == [-1, 400]
    check(store, memory={"x"}, disk={"y"})


# ----------------------------------------------------------------------- while one is read


def spilled(store: Store, name: str = "x", nbytes: int = 400) -> None:
    store[name] = Slow(name, nbytes)
    while name in store.memory:
        store.evict()
    gc.collect()


@pytest.mark.parametrize("nbytes", [400, 3000])
def test_all_who_ask_get_the_same(store: Store, pool: ThreadPoolExecutor, nbytes: int) -> None:
    spilled(store, "x", nbytes)
    first = held_up(pool, "unpickle x", store.__getitem__, "x")
    others = [pool.submit(store.__getitem__, "x") for _ in range(3)]
    assert "x" in store and len(store) == 1
    values = go_on("unpickle x", first, *others)
    assert values[0] == Slow("x", nbytes)
    assert all(value is values[0] for value in values)
    fits = nbytes <= 1000
    check(store, memory={"x"} if fits else set(), disk=set() if fits else {"x"})
    assert store.cumulative_metrics["disk-read", "count"] == 1


def test_deleted_while_it_is_read(store: Store, pool: ThreadPoolExecutor) -> None:
    spilled(store)
    readers = [held_up(pool, "unpickle x", store.__getitem__, "x")]
    readers += [pool.submit(store.__getitem__, "x") for _ in range(3)]
    del store["x"]
    assert "x" not in store and len(store) == 0
    gates.pop("unpickle x").opened.set()
    for reader in readers:
        with pytest.raises(KeyError):
            reader.result(TIMEOUT)
    check(store, memory=set(), disk=set())


@pytest.mark.parametrize("how", ["set", "del, put", "evicted too"])
def test_replaced_while_it_is_read(store: Store, pool: ThreadPoolExecutor, how: str) -> None:
    spilled(store)
    readers = [held_up(pool, "unpickle x", store.__getitem__, "x")]
    readers += [pool.submit(store.__getitem__, "x") for _ in range(3)]
    new = Blob("new", 300)
    if how == "del, put":
        del store["x"]
        assert store.fast.try_put("x", new, 300)
    else:
        assert not store.fast.try_put("x", new, 300), "there is a file to be removed"
        store["x"] = new
    if how == "evicted too":
        assert store.evict() == 300
    assert go_on("unpickle x", *readers) == [new] * 4
    check(store, memory={"x"}, disk=set())
    check_all_can_be_evicted(store)


def test_unpickling_that_asks_for_itself(store: Store) -> None:
    """What it gets may be an error, but not a deadlock."""
    stores["it"] = store
    store["x"] = AsksForItself()
    store.evict()
    gc.collect()
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(store.__getitem__, "x").result(TIMEOUT), AsksForItself)
    assert list(store) == ["x"]


stores: dict[str, Store] = {}


class AsksForItself:
    depth = 0

    def __reduce__(self) -> Any:
        return asking, ()


def asking() -> AsksForItself:
    AsksForItself.depth += 1
    if AsksForItself.depth < 3:
        stores["it"]["x"]
    return AsksForItself()


# ----------------------------------------------------------------------- all at once


class Owner(threading.Thread):
    """Writes and deletes keys that are its own and knows what they must be; reads all others."""

    def __init__(self, store: Store, number: int, steps: int, keys: list[Any]) -> None:
        super().__init__(name=f"owner-{number}")
        self.store = store
        self.keys = keys[number::THREADS]
        self.all_keys = keys
        self.rng = random.Random(number)
        self.steps = steps
        self.truth: dict[Any, Blob] = {}
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            for version in range(self.steps):
                self.step(version)
        except BaseException as error:
            self.error = error

    def step(self, version: int) -> None:
        store, rng = self.store, self.rng
        key = rng.choice(self.keys)
        what = rng.random()
        if what < 0.35:
            nbytes = rng.choice((40, 100, 300, 1200))
            value = Blob((key, version), nbytes, pickles=nbytes > 100 or rng.random() < 0.98)
            if rng.random() < 0.3 or not store.fast.try_put(key, value, nbytes):
                store[key] = value
            elif store.fast.over_target:
                store.spill_excess()
            self.truth[key] = value
        elif what < 0.55:
            held = self.truth.pop(key, None)
            assert (key in store) == (held is not None)
            if rng.random() < 0.5 and (taken := store.fast.try_take(key)) is not None:
                assert taken == held
            elif held is not None:
                del store[key]
            else:
                with pytest.raises(KeyError):
                    del store[key]
            assert key not in store
        elif what < 0.75:
            held = self.truth.get(key)
            found = store.fast.try_look(key)
            if found is None:
                if held is None:
                    with pytest.raises(KeyError):
                        store[key]
                    return
                found = store[key]
            assert found == held
        elif what < 0.9:
            other = rng.choice(self.all_keys)
            try:
                value = store[other]
            except KeyError:
                return
            assert value.name[0] == other
        elif what < 0.95:
            store.evict()
        else:
            assert set(self.truth) <= set(store)
            assert len(store) <= len(self.all_keys)


THREADS = 4


@pytest.mark.parametrize("strange", [False, True])
def test_let_loose(tmp_path: Path, strange: bool) -> None:
    """Every thread finds of its own keys what it left there, while all spill and read them."""
    store = Store(str(tmp_path / "spill"), 1000)
    keys: list[Any] = [*"abcdefghij", ("t", 0), ("t", "u", 1.5), 7, b"bytes"]
    if strange:
        keys += [Text("k"), Text("l")]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        owners = [Owner(store, i, 1500, keys) for i in range(THREADS)]
        for owner in owners:
            owner.start()
        for owner in owners:
            owner.join(100)
            assert not owner.is_alive()
    finally:
        sys.setswitchinterval(interval)
    for owner in owners:
        if owner.error is not None:
            raise owner.error
    truth = {key: value for owner in owners for key, value in owner.truth.items()}
    memory = set(store.memory)
    check(store, memory=memory, disk=set(truth) - memory)
    for key, value in truth.items():
        assert store[key] == value


def test_values_that_use_the_store_as_they_go(store: Store) -> None:
    """A value is never let go in the middle of a change to the store, or under its locks."""
    seen: list[int] = []

    class Nosy(Blob):
        __slots__ = ()

        def __del__(self) -> None:
            with ThreadPoolExecutor(1) as pool:  # a lock that is held would be in its way
                seen.append(pool.submit(look_around, store).result(TIMEOUT))

    for i in range(5):
        store["x"] = Nosy(i, 100)
        assert store.fast.try_put(i, Nosy(i, 100), 100)
    assert len(seen) == 4
    del store["x"]
    assert len(seen) == 5
    for i in range(5):
        assert store.fast.try_take(i) is not None
    assert len(seen) == 10


def look_around(store: Store) -> int:
    store["nosy"] = Blob("nosy", 100)
    found = len([store[key] for key in store])
    del store["nosy"]
    return found
