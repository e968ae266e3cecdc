"""Made-up and damaged messages, always the same ones; ``ci/fuzz`` looks further."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fastworker.link.decode import decode
from support.wire.inert import compare, inert
from support.wire.messages import as_stock, frames_of, same, stock
from support.wire.mutations import damaged
from support.wire.strategies import (
    damages,
    messages,
    same_each_time,
)


@same_each_time(150)
@given(st.lists(messages, max_size=4))
def test_made_up_messages(batch):
    frames = frames_of(batch)
    assert same([as_stock(message) for message in decode(frames)], stock(frames))


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
