"""A message's frames as an object of their own."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from fastworker.link.decode import decode
from fastworker.wire import Frames, WireError
from support.wire.messages import OTHERS, TASKS, as_stock, compute_task, frames_of, same, stock

KINDS = [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "u1").data]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*TASKS, *OTHERS])
def test_frames_are_those_that_were_given(name, kind):
    parts = [kind(bytes(part)) for part in frames_of([{**TASKS, **OTHERS}[name], compute_task()])]
    frames = Frames(parts)
    assert len(frames) == len(parts)
    assert frames.total_bytes == sum(memoryview(part).nbytes for part in parts)
    assert all(frame is part for frame, part in zip(frames, parts, strict=True))
    with pytest.raises(IndexError, match="there is no frame"):
        frames[len(parts)]
    assert same([as_stock(message) for message in decode(frames)], stock(parts))


def test_missing_frames_are_missed():
    with pytest.raises(WireError, match="there is no frame 1: the message has 1"):
        decode(Frames(frames_of([compute_task()])[:1]))


def test_no_frame_is_none():
    for frames in ([None], ["text"], [b"x", None]):
        with pytest.raises(TypeError):
            Frames(frames)


def test_memory_is_held_as_long_as_needed_and_no_longer():
    class Memory(bytearray):
        pass

    memory = Memory(b"\x90")
    frames = Frames([memory])
    with pytest.raises(BufferError):
        memory.clear()
    assert decode(frames) == []
    gone = weakref.ref(memory)
    del memory
    gc.collect()
    assert gone() is not None
    del frames
    gc.collect()
    assert gone() is None


def test_what_is_refused_holds_no_memory():
    memory = bytearray(b"x")
    with pytest.raises(TypeError):
        Frames([memory, None])
    memory.extend(b"x")
