"""Stores and stock's SpillBuffer are told the same stories and must be in the same state."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from distributed.spill import HandledError, MaxSpillExceeded, PickleError, SpillBuffer
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworker.data.store import Store
from support.blobs import Blob, Text

TARGET = 1000
TOO_LONG = "x" * 300
"""No file can be called that: to write it raises OSError."""

keys = st.sampled_from(["a", "b", "c", "d", 1, "1", ("t", 0), 2.5, TOO_LONG])
strange_keys = st.one_of(keys, st.sampled_from([Text("a"), Text("e"), ("t", Text("b"))]))
sizes = st.sampled_from([40, 100, 250, 400, 600, 999, 1000, 1001, 1500])
blobs = st.builds(
    Blob, st.integers(0, 10**6), sizes, st.sampled_from([True, True, True, True, False])
)
buffers = st.sampled_from([b"b" * n for n in (40, 400, 1000, 1500)])
values = st.one_of(blobs, buffers, st.integers(-5, 5))


def steps(keys: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    step = st.one_of(
        st.tuples(st.just("set"), keys, values),
        st.tuples(st.just("put"), keys, values),
        st.tuples(st.just("get"), keys),
        st.tuples(st.just("look"), keys),
        st.tuples(st.just("del"), keys),
        st.tuples(st.just("take"), keys),
        st.tuples(st.just("evict")),
        st.tuples(st.just("target"), st.sampled_from([500, TARGET, 1400])),
    )
    return st.lists(step, max_size=40)


class Stock(SpillBuffer):
    """SpillBuffer, but for the things that `Store` says it does otherwise."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, Blob) and not value.pickles and value.nbytes > self.n:
            with contextlib.suppress(KeyError):
                del self[key]
            raise PickleError(key) from TypeError()
        with contextlib.suppress(AssertionError):
            super().__setitem__(key, value)
        self.logged_pickle_errors.discard(key)

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except (PickleError, MaxSpillExceeded, OSError):
            with contextlib.suppress(HandledError), self._handle_errors(None):
                raise
            return self.fast.d[key] if key in self.fast else self.slow[key]

    def evict(self) -> int:
        return super().evict() if self.fast else -1


class Side:
    """One of the two, what it logs, and how to do each step."""

    def __init__(self, cls: type[SpillBuffer], path: Path, max_spill: int | bool) -> None:
        self.native = cls is Store
        self.store = cls(str(path), TARGET, max_spill)
        self.logged: list[tuple[str, str]] = []

    def do(self, step: tuple[Any, ...]) -> Any:
        handler = logging.Handler()
        handler.emit = lambda record: self.logged.append((record.levelname, record.getMessage()))
        logger = logging.getLogger("distributed.spill")
        logger.addHandler(handler)
        try:
            return getattr(self, step[0] + "_")(*step[1:])
        except Exception as error:
            return type(error), error.args, type(error.__cause__)
        finally:
            logger.removeHandler(handler)

    def set_(self, key: Any, value: Any) -> None:
        self.store[key] = value

    def put_(self, key: Any, value: Any) -> None:
        """As the core does, which knows how heavy the value is."""
        from dask.sizeof import sizeof

        if not self.native or not self.store.fast.try_put(key, value, sizeof(value)):
            self.store[key] = value
        elif self.store.fast.over_target:
            self.store.spill_excess()

    def get_(self, key: Any) -> Any:
        return self.store[key]

    def look_(self, key: Any) -> Any:
        if self.native and (found := self.store.fast.try_look(key)) is not None:
            return found
        return self.store[key]

    def del_(self, key: Any) -> None:
        del self.store[key]

    def take_(self, key: Any) -> None:
        if not self.native or self.store.fast.try_take(key) is None:
            del self.store[key]

    def evict_(self) -> int:
        return self.store.evict()

    def target_(self, n: int) -> None:
        self.store.n = n

    def state(self) -> dict[str, Any]:
        store = self.store
        return {
            "fast": dict(store.fast.items()),
            "order": list(store.fast.order),
            "weights": store.fast.weights,
            "total": store.fast.total_weight,
            "slow": set(store.slow),
            "on disk": store._slow_uncached.weight_by_key,
            "spilled": store.spilled_total,
            "files": len(list(Path(store._slow_uncached.d.directory).iterdir())),
            "unpicklable": store.logged_pickle_errors,
            "metrics": {
                name: value
                for name, value in store.cumulative_metrics.items()
                if name[1] != "seconds"
            },
            "keys": list(store),
            "len": len(store),
            "logged": self.logged,
        }


def same(ours: Any, stock: Any) -> bool:
    return type(ours) is type(stock) and bool(ours == stock)


def tell(story: list[tuple[Any, ...]], max_spill: int | bool) -> None:
    logger = logging.getLogger("distributed.spill")
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(logger, "filters", [])  # that keep repeated messages back
        patch.setattr(logger, "propagate", False)
        ours = Side(Store, Path(folder, "ours"), max_spill)
        stock = Side(Stock, Path(folder, "stock"), max_spill)
        for i, step in enumerate(story):
            answers = ours.do(step), stock.do(step)
            assert same(*answers), (i, step, answers)
            assert ours.state() == stock.state(), (i, step)
            for key in ours.store:
                assert key in ours.store
        for key in list(ours.store):
            assert same(ours.do(("get", key)), stock.do(("get", key)))
        assert ours.state() == stock.state()


@settings(max_examples=300, deadline=None)
@given(steps(keys), st.sampled_from([False, 300, 1500]))
def test_stories(story: list[tuple[Any, ...]], max_spill: int | bool) -> None:
    tell(story, max_spill)


@settings(max_examples=100, deadline=None)
@given(steps(strange_keys), st.sampled_from([False, 300]))
def test_stories_with_keys_that_run_python(
    story: list[tuple[Any, ...]], max_spill: int | bool
) -> None:
    tell(story, max_spill)
