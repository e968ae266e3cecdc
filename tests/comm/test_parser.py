"""Bytes to messages and back, in any pieces; nonsense is refused before memory is taken for it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworker.comm.outgoing import message_bytes
from fastworker.comm.parser import FrameError, MessageTooLarge, Parser

MAX_FRAMES, MAX_NBYTES = 1 << 16, 1 << 30


def parser(max_frames: int = MAX_FRAMES, max_nbytes: int = MAX_NBYTES) -> Parser:
    return Parser(max_frames, max_nbytes)


def layout(frames: list[bytes], in_head: int) -> bytes:
    """A message as the protocol has it, with the first ``in_head`` frames in the head."""
    lengths = struct.pack(f"{len(frames) + 1}Q", len(frames), *map(len, frames))
    head = len(lengths) + sum(map(len, frames[:in_head]))
    return struct.pack("Q", head) + lengths + b"".join(frames)


def contents(message: list[memoryview] | None) -> list[bytes] | None:
    return None if message is None else [bytes(frame) for frame in message]


sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([15, 16, 17, 4096, 32 * 1024 - 1, 32 * 1024, 64 * 1024, 200_000]),
)


@st.composite
def a_message(draw):
    frames = [
        bytes([i % 251]) * size
        for i, size in enumerate(draw(st.lists(sizes, min_size=1, max_size=8)))
    ]
    return frames, draw(st.integers(0, len(frames)))


@settings(deadline=None, max_examples=150)
@given(st.lists(a_message(), min_size=1, max_size=4), st.data())
def test_any_pieces_make_the_same_messages(messages, data):
    stream = b"".join(layout(frames, in_head) for frames, in_head in messages)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    reader = parser()
    got = []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(stream)], strict=True):
        reader.feed(stream[start:stop])
        while (message := reader.next_message()) is not None:
            got.append(contents(message))
    assert got == [frames for frames, _ in messages]
    assert not reader.in_message
    assert reader.received == len(stream)


def test_byte_by_byte():
    frames = [b"a" * 3, b"", b"b" * 70_000, b"c"]
    reader = parser()
    for byte in layout(frames, 2) * 2:
        reader.feed(bytes([byte]))
    assert contents(reader.next_message()) == frames
    assert contents(reader.next_message()) == frames
    assert reader.next_message() is None


@settings(deadline=None, max_examples=100)
@given(a_message())
def test_what_is_written_can_be_read(message):
    frames, _ = message
    mixed = [bytearray(frame) if i % 2 else frame for i, frame in enumerate(frames)]
    reader = parser()
    reader.feed(message_bytes(mixed))
    assert contents(reader.next_message()) == frames


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=300))
def test_nonsense_is_an_error_or_waits_for_more(garbage):
    """Never a crash; and what was refused once is refused for ever."""
    reader = parser(max_frames=1 << 10, max_nbytes=1 << 20)
    try:
        reader.feed(garbage)
    except FrameError:
        with pytest.raises(FrameError):
            reader.feed(layout([b"fine"], 1))
    assert reader.allocated <= (1 << 20) + 8 * (1 << 10)


@settings(deadline=None, max_examples=300)
@given(a_message(), st.data())
def test_damaged_messages(message, data):
    """One byte of a valid head is another: an error, or other frames, never a crash."""
    frames, in_head = message
    damaged = bytearray(layout(frames, in_head))
    at = data.draw(st.integers(0, min(len(damaged), 8 * (len(frames) + 2)) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    reader = parser(max_frames=1 << 12, max_nbytes=1 << 22)
    try:
        reader.feed(damaged)
    except FrameError:
        return
    assert reader.allocated <= (1 << 22) + 8 * (1 << 12)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([8, 0], "without frames"),
        ([8 * 1001 + 8, 1001], "1001 frames"),
        ([8, 1], "a head of 8 bytes"),
        ([16 + 5, 1, 4], "ends within a frame"),
        ([16 + 4, 1, 5], "ends within a frame"),
        ([16, 1, 100_001], "more than 100000"),
        ([24, 2, 60_000, 60_000], "more than 100000"),
        ([24, 2, 2**64 - 1, 2**64 - 1], "more than 100000"),
        ([2**64 - 1, 1], "more than 100000"),
        ([0, 2**61 + 1], "frames in one message"),
        (list(struct.unpack("2Q", b"GET / HTTP/1.1\r\n")), "frames in one message"),
    ],
)
def test_impossible_numbers(numbers, words):
    reader = parser(max_frames=1000, max_nbytes=100_000)
    with pytest.raises(FrameError, match=words):
        reader.feed(struct.pack(f"{len(numbers)}Q", *numbers))
    assert reader.next_message() is None
    with pytest.raises(FrameError):
        reader.feed(b"more")


def test_messages_before_the_nonsense_arrive():
    reader = parser(max_nbytes=1000)
    with pytest.raises(FrameError):
        reader.feed(layout([b"fine"], 1) + struct.pack("3Q", 16, 1, 1001))
    assert contents(reader.next_message()) == [b"fine"]
    assert reader.next_message() is None


def test_memory_comes_with_the_bytes():
    """A peer that announces a lot gets no memory for it before it sends."""
    count, each = 50_000, 1 << 14
    reader = parser(max_nbytes=count * each)
    reader.feed(struct.pack("2Q", 8 * (count + 1), count))
    assert reader.allocated == 0
    reader.feed(struct.pack("1000Q", *[each] * 1000))
    assert reader.allocated < 20_000
    reader.feed(struct.pack(f"{count - 1000}Q", *[each] * (count - 1000)))
    assert reader.allocated < 8 * 2 * count + 70_000


def test_the_first_message_has_limits_of_its_own():
    """What follows it in the same packet has the others already."""
    reader = parser(max_frames=5, max_nbytes=1000)
    reader.set_limits_of_first(2, 10)
    reader.feed(layout([b"x" * 10], 1) + layout([b"x" * 200] * 5, 1))
    assert [len(reader.next_message()), len(reader.next_message())] == [1, 5]
    for frames in ([b""] * 3, [b"x" * 11]):
        reader = parser(max_frames=5, max_nbytes=1000)
        reader.set_limits_of_first(2, 10)
        with pytest.raises(FrameError):
            reader.feed(layout(frames, 1))
    for limits in [(0, 1), (1, 2**63), (2**60, 1)]:
        with pytest.raises((ValueError, OverflowError)):
            Parser(*limits)


@pytest.mark.parametrize(
    ("frames", "error", "limit", "setting"),
    [
        ([b""] * 6, FrameError, 5, "max-frames"),
        ([b"x" * 2000], MessageTooLarge, 1000, "max-message-bytes"),
    ],
)
def test_an_error_says_where_its_limit_comes_from(frames, error, limit, setting):
    """A setting that would not have helped is not named."""
    for first, where in [
        (limit // 5, r"\(the limit of the first message\)"),
        (limit, rf"\(fastworker\.comm\.{setting}\)"),  # no narrower than the configured one
    ]:
        reader = parser(max_frames=5, max_nbytes=1000)
        reader.set_limits_of_first(*((first, 10) if error is FrameError else (2, first)))
        with pytest.raises(error, match=f"more than {first} {where}$"):
            reader.feed(layout(frames, 1))
    reader = parser(max_frames=5, max_nbytes=1000)
    reader.set_limits_of_first(1, 10)
    with pytest.raises(error, match=rf"more than {limit} \(fastworker\.comm\.{setting}\)$"):
        reader.feed(layout([b"hello"], 1) + layout(frames, 1))


def address(view: memoryview) -> int:
    import ctypes

    return ctypes.addressof((ctypes.c_char * len(view)).from_buffer(view))


def test_frames_are_writable_and_aligned():
    frames = [b"h" * 3, b"s" * 100, b"l" * 40_000, b"m" * 9, b"L" * 3_000_000]
    reader = parser()
    reader.feed(layout(frames, 1))
    message = reader.next_message()
    for frame in message:
        assert not frame.readonly
        assert frame.format == "B"
        assert address(frame) % 16 == 0
    assert address(message[4]) % 64 == 0
    for frame in message[1:]:
        # Behind the head nothing shares the memory of a frame that a caller may keep
        if len(frame) > 256:
            assert len(frame.obj) == len(frame)
    message[2][0] = 1
    assert message[4][0] == ord("L")


@pytest.mark.parametrize(
    ("in_head", "nbytes", "most"), [(500, 1000, 64 << 10), (0, 100, 4 << 10), (0, 1000, 1000)]
)
def test_small_frames_share_little(in_head, nbytes, most):
    """What one small frame keeps alive is bounded; behind the head it is next to nothing."""
    reader = parser()
    reader.feed(layout([b"x" * nbytes] * 500, in_head))
    message = reader.next_message()
    assert contents(message) == [b"x" * nbytes] * 500
    owners = {id(frame.obj): len(frame.obj) for frame in message}
    assert max(owners.values()) <= most
    assert sum(owners.values()) < 1.2 * 500 * nbytes


def test_parts_of_one_buffer_lie_next_to_each_other():
    """What distributed split, and put in the head together, can be joined without a copy."""
    from distributed.protocol.utils import merge_memoryviews

    parts = [bytes([i]) * 50_000 for i in range(5)]
    reader = parser()
    reader.feed(layout([b"header", *parts, b"x" * 50_000], 6))
    message = reader.next_message()
    merged = merge_memoryviews(message[1:6])
    assert merged == b"".join(parts)
    assert address(merged) == address(message[1])
    assert message[6].obj is not message[1].obj
