"""Messages with objects: as stock packs them."""

from __future__ import annotations

import logging

import msgpack
import pytest
from distributed.protocol.compression import compressions
from distributed.protocol.core import dumps, loads
from distributed.protocol.serialize import Serialize, Serialized, ToPickle, serialize

from fastworker.wire.encode_objects import MessagePacker
from support.failing import Unpicklable


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    def __hash__(self):
        return hash(self.x)


def packed(messages, **kwargs):
    """The frames of a batch."""
    packer = MessagePacker(**kwargs)
    parts = [packer.pack(message) for message in messages]
    first = msgpack.Packer().pack_array_header(len(parts)) + b"".join(parts)
    return [first, *packer.frames]


def messages():
    numpy = pytest.importorskip("numpy")
    header, frames = serialize(Point(7))
    return [
        {"op": "a", "x": ToPickle(Point(1))},
        {"op": "b", "x": Serialize(Point(2)), "y": Serialize([1, b"x"]), "z": {3, 4}},
        {"op": "c"},
        {"op": "d", "x": Serialized(header, frames)},
        {"op": "e", "x": ToPickle(numpy.arange(100_000)), "y": ToPickle(Point(5))},
        {"op": "f", "x": Serialize(numpy.zeros(50_000)), "y": logging.INFO},
    ]


@pytest.mark.parametrize("compression", [None, *(name for name in compressions if name)])
def test_frames_are_those_of_stock(compression):
    context = {"compression": compression}
    batch = messages()
    ours = packed(batch, context=context)
    theirs = dumps(messages(), context=context)
    assert list(map(bytes, ours)) == list(map(bytes, theirs))
    result = loads(ours)
    assert [message["op"] for message in result] == list("abcdef")
    assert result[0]["x"] == Point(1) and result[1]["x"] == Point(2) and result[3]["x"] == Point(7)
    assert result[1]["z"] == {3, 4}
    assert result[4]["x"].sum() == sum(range(100_000)) and result[4]["y"] == Point(5)


def test_what_msgpack_cannot_pack_is_pickled():
    batch = [{"op": "a", "x": Point(1)}, {"op": "b", 2**70: 2**80}]
    result = loads(packed(batch))
    assert result == ({"op": "a", "x": Point(1)}, {"op": "b", 2**70: 2**80})
    assert loads(dumps(batch[:1])) == result[:1]


def test_a_message_that_fails_leaves_nothing_behind():
    packer = MessagePacker()
    first = packer.pack({"x": ToPickle(1)})
    for bad in (
        {"x": ToPickle(2), "y": ToPickle(Unpicklable())},
        {"x": ToPickle(2), "y": "\ud800"},
        {"x": ToPickle(2), "y": Serialize(Unpicklable())},
    ):
        with pytest.raises(Exception):  # noqa: B017  whatever packing raised
            packer.pack(bad)
        assert len(packer.frames) == 1
    second = packer.pack({"x": ToPickle(3)})
    frames = [b"\x92" + first + second, *packer.frames]
    assert loads(frames) == ({"x": 1}, {"x": 3})
