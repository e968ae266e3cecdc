"""Decoding bytes of unknown origin, beside stock, without running what they say.

A damaged pickle could do anything, so none is loaded here: pickles and serialized objects stay the
bytes that they are, on both sides. Everything around them is the real thing.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import dask
import numpy as np
from distributed.protocol import core as stock_core
from distributed.protocol import pickle as stock_pickle

from fastworker.link.decode import decode
from fastworker.link.unloadable import UnloadableTask
from fastworker.wire import WireError, subframes
from fastworker.wire import results as values
from support.wire.messages import as_stock, same, stock

#: What is refused here and not by stock: it reads on with what it finds, or with less than that.
STRICTER = re.compile(
    r"nested more than"
    r"|the number of a frame has to be an int"
    r"|'num-sub-frames' (is|has)"
    r"|'compression' has"
    r"|the \d+ frames that follow are not compressed as .* bytes of \w+ cannot be"
)


class Loaded(tuple[Any, ...]):
    """What a pickle or a serialized object would have been made of."""

    __slots__ = ()


def _loads(pickled: Any, *, buffers: Any = ()) -> Loaded:
    if not isinstance(pickled, (bytes, memoryview)):
        raise TypeError("not bytes")
    if bytes(pickled[:1]) == b"\xff":
        raise ValueError("some pickles cannot be loaded")
    return Loaded((bytes(pickled), *map(bytes, buffers)))


def _deserialize(header: Any, frames: Any, deserializers: Any = None) -> Loaded:
    return Loaded((repr(header), *map(bytes, frames)))


class InertPickle:
    """In the place of a module ``pickle``: types of results are loaded, nothing else is."""

    dumps = staticmethod(pickle.dumps)

    @staticmethod
    def loads(pickled: Any) -> Any:
        known = {pickle.dumps(kind): kind for kind in (bytes, np.ndarray)}
        return known.get(bytes(pickled)) or _loads(pickled)


@contextlib.contextmanager
def inert() -> Iterator[None]:
    """Within, nothing is unpickled, deserialized or imported, neither by stock nor by us."""
    with (
        mock.patch.object(subframes, "loads", _loads),
        mock.patch.object(values, "pickle", InertPickle),
        mock.patch.object(subframes, "merge_and_deserialize", _deserialize),
        mock.patch.object(stock_pickle, "loads", _loads),
        mock.patch.object(stock_core, "merge_and_deserialize", _deserialize),
        dask.config.set({"distributed.scheduler.allowed-imports": ["distributed.core"]}),
    ):
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def compare(frames: list[bytes]) -> str:
    """Decode on both sides, within `inert`, and say what came of it.

    Raises AssertionError unless both give the same, both refuse, or we are known to be stricter.
    """
    expected = error = refused = None
    try:
        expected = stock(frames)
    except Exception as caught:
        error = caught
    try:
        decoded = decode(frames)
    except WireError as caught:
        assert str(caught)
        refused = caught
    except ValueError as caught:
        assert str(caught) == "some pickles cannot be loaded"
        assert error is not None
        return "unloadable elsewhere"
    if refused is not None:
        assert error is not None or STRICTER.search(refused.problem), refused
        return "refused" if error is not None else "stricter"
    ours = [as_stock(message) for message in decoded]
    if any(isinstance(m, dict) and type(m.get("run_spec")) is UnloadableTask for m in ours):
        assert isinstance(error, ValueError)
        return "unloadable"
    assert error is None, f"stock raises {error!r} where we have {ours!r}"
    assert same(ours, expected)
    return "same"
