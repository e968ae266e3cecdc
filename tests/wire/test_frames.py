"""A message split into its frames."""

from __future__ import annotations

import gc
import struct
import weakref

import numpy as np
import pytest
from distributed.protocol.utils import pack_frames, unpack_frames

from fastworker.link.decode import decode
from fastworker.wire import Frames, WireError
from support.wire.messages import OTHERS, TASKS, as_stock, compute_task, frames_of, same, stock


def head_of(sizes, body=b"", n=None):
    """The head of a message whose frames have these sizes."""
    return struct.pack(f"={1 + len(sizes)}Q", len(sizes) if n is None else n, *sizes) + body


@pytest.mark.parametrize("name", [*TASKS, *OTHERS])
def test_all_in_the_head(name):
    parts = frames_of([{**TASKS, **OTHERS}[name], compute_task()])
    head = pack_frames(parts)
    frames = Frames.of_head(head)
    assert len(frames) == len(parts)
    assert frames.missing == []
    assert frames.total_bytes == sum(part.nbytes for part in parts)
    assert list(frames) == parts
    with pytest.raises(IndexError, match="there is no frame"):
        frames[len(parts)]
    assert same([as_stock(message) for message in decode(frames)], stock(parts))


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "u1").data]
)
@pytest.mark.parametrize("fit", range(8))
def test_some_come_after_the_head(kind, fit):
    parts = [
        bytes(part) for part in frames_of([compute_task(), TASKS["compute-task with buffers"]])
    ]
    parts.append(b"")
    assert len(parts) == 6 or fit < len(parts)
    head = kind(head_of(list(map(len, parts)), b"".join(parts[:fit])))
    frames = Frames.of_head(head)
    assert frames.missing == [len(part) for part in parts[fit:] if part or fit < len(parts) - 1]
    assert frames.missing in (unpack_frames(head, partial=True)[1], [])
    assert frames.total_bytes == sum(map(len, parts))
    while frames.missing:
        frames.add(kind(parts[len(frames)]))
    expected = stock([kind(part) for part in parts])
    assert same([as_stock(message) for message in decode(frames)], expected)


def test_missing_frames_are_missed():
    parts = frames_of([compute_task()])
    frames = Frames.of_head(head_of([part.nbytes for part in parts], bytes(parts[0])))
    with pytest.raises(WireError, match="there is no frame 1: the message has 1"):
        decode(frames)


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (b"", "the head of a message has at least 8 bytes, here 0"),
        (b"1234567", "the head of a message has at least 8 bytes, here 7"),
        (head_of([], n=1), "a head of 8 bytes cannot have the sizes of 1 frames"),
        (head_of([1, 2], n=3), "a head of 24 bytes cannot have the sizes of 3 frames"),
        (head_of([], n=2**64 - 1), "cannot have the sizes of 18446744073709551615 frames"),
        (head_of([], n=2**61), "cannot have the sizes of"),
        (head_of([2**64 - 1]), "frame 0 cannot have 18446744073709551615 bytes"),
        (head_of([1, 2**48], b"x"), "frame 1 cannot have 281474976710656 bytes"),
        (head_of([], b"x"), "the head of a message has 9 bytes and its frames account for 8"),
        (head_of([3], b"ab"), "the head of a message has 18 bytes and its frames account for 16"),
        (head_of([1, 3], b"abc"), "has 27 bytes and its frames account for 25"),
        (head_of([1], b"ab"), "has 18 bytes and its frames account for 17"),
    ],
)
def test_heads_that_are_none(head, problem):
    with pytest.raises(WireError) as caught:
        Frames.of_head(head)
    assert problem in str(caught.value)


def test_every_truncated_head():
    parts = frames_of([compute_task(), compute_task()])
    head = pack_frames(parts)
    whole = set(np.cumsum([8 * (1 + len(parts)), *(part.nbytes for part in parts)]))
    for n in range(len(head)):
        if n in whole:  # no more than the head of a message whose other frames follow
            assert Frames.of_head(head[:n]).missing
        else:
            with pytest.raises(WireError):
                Frames.of_head(head[:n])


def test_frames_of_another_size_than_announced():
    frames = Frames.of_head(head_of([5, 6]))
    frames.add(b"12345")
    with pytest.raises(WireError, match="frame 1: 6 bytes announced, 5 received"):
        frames.add(b"12345")
    with pytest.raises(WireError, match="no frame is missing"):
        frames.add(b"123456")


def test_no_frame_is_none():
    with pytest.raises(TypeError):
        Frames.of_head(head_of([5])).add(None)
    with pytest.raises(TypeError):
        Frames([None])
    with pytest.raises(TypeError):
        Frames.of_head("text")


def test_memory_is_held_as_long_as_needed_and_no_longer():
    class Memory(bytearray):
        pass

    memory = Memory(head_of([1, 1], b"\x90x"))
    alone = Memory(b"\x90")
    frames, sequence = Frames.of_head(memory), Frames([alone])
    for held in (memory, alone):
        with pytest.raises(BufferError):
            held.clear()
    assert decode(frames) == decode(sequence) == []
    gone = [weakref.ref(memory), weakref.ref(alone)]
    del memory, alone, held
    gc.collect()
    assert None not in [ref() for ref in gone]
    del frames, sequence
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def test_what_is_refused_holds_no_memory():
    memory = bytearray(head_of([3], b"ab"))
    with pytest.raises(WireError):
        Frames.of_head(memory)
    memory.clear()
    with pytest.raises(TypeError):
        Frames([memory, None])
    memory.extend(b"x")
