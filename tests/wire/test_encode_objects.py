"""Messages with objects: as stock packs them, and what becomes of those that cannot be packed."""

from __future__ import annotations

import logging

import msgpack
import pytest
from distributed.protocol import pickle
from distributed.protocol.compression import compressions
from distributed.protocol.core import dumps, loads
from distributed.protocol.serialize import Serialize, Serialized, ToPickle, serialize
from distributed.utils_test import captured_logger

from fastworker.link.degraded import CannotSend, ReportPacker
from fastworker.wire.encode_objects import MessagePacker


class Point:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Point and other.x == self.x

    def __hash__(self):
        return hash(self.x)


class Unpicklable:
    def __reduce__(self):
        raise RuntimeError("not me")


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


def finished(**fields):
    return {
        "key": ("x", 1),
        "run_id": 3,
        "nbytes": 1,
        "type": b"t",
        "typename": "int",
        "metadata": {},
        "thread": 5,
        "startstops": [{"action": "compute", "start": 1.0, "stop": 2.0}],
        "op": "task-finished",
        "stimulus_id": "s",
        "status": "OK",
        **fields,
    }


def erred(**fields):
    return {
        "key": ("x", 1),
        "run_id": 3,
        "exception": Serialize(pickle.dumps(ValueError("v"))),
        "traceback": None,
        "exception_text": "ValueError('v')",
        "traceback_text": "somewhere",
        "thread": 5,
        "startstops": [],
        "op": "task-erred",
        "stimulus_id": "s",
        "status": "error",
        **fields,
    }


def surely(message):
    """What arrives in a message's place, the packer, and what was logged as an error."""
    packer = ReportPacker()
    with captured_logger("fastworker.wire", logging.ERROR) as log:
        one = packer.pack_surely(message)
    if one is None:
        return None, packer, log.getvalue()
    (result,) = loads([b"\x91" + one, *packer.frames])
    return result, packer, log.getvalue()


def test_nothing_is_changed_that_can_be_packed():
    result, packer, log = surely(finished(metadata={"x": Point(1)}))
    assert result["metadata"] == {"x": Point(1)}
    assert not log and not packer.degraded and not packer.unsendable


def test_metadata_that_cannot_be_packed_is_pickled_or_left_out():
    result, packer, log = surely(finished(metadata={"x": ["\ud800"]}))  # no UTF-8
    assert result["metadata"] == {"x": ["\ud800"]} and "pickled" in log and packer.degraded == 1

    result, packer, log = surely(finished(metadata={"x": Unpicklable()}))
    assert result["metadata"] == {} and result["key"] == ("x", 1) and result["thread"] == 5
    assert result["startstops"] == ({"action": "compute", "start": 1.0, "stop": 2.0},)
    assert "task-finished" in log and "('x', 1)" in log and "not me" in log
    assert packer.degraded == 1 and packer.unsendable == 0

    result, _, log = surely(finished(startstops=[Unpicklable()]))
    assert result["startstops"] == () and result["thread"] is None and "timings" in log


def test_an_exception_that_cannot_be_packed_becomes_text():
    message = erred(exception=ToPickle(Unpicklable()), traceback=Serialize(Unpicklable()))
    result, packer, log = surely(message)
    error = pickle.loads(result["exception"])
    assert type(error) is Exception and error.args == ("ValueError('v')",)
    assert result["traceback"] is None and result["traceback_text"] == "somewhere"
    assert "task-erred" in log and "('x', 1)" in log
    assert packer.degraded == 1


def test_a_text_that_is_no_unicode():
    result, _, log = surely(erred(exception_text="ValueError('\ud800')"))
    assert result["exception_text"] == "ValueError('?')"
    assert type(pickle.loads(result["exception"])) is ValueError  # the least loss
    assert "printable" in log


def test_other_messages_are_left_out_and_named():
    message = {"op": "log-event", "topic": "mine", "msg": Unpicklable()}
    result, packer, log = surely(message)
    assert result is None and packer.unsendable == 1
    assert "Not sent" in log and "log-event" in log and "mine" in log
    result, _, log = surely(Unpicklable())
    assert result is None and "Unpicklable" in log


def test_the_end_of_a_task_is_never_left_out():
    for message in (finished(key="\ud800"), erred(key="\ud800")):
        with pytest.raises(CannotSend, match=message["op"]):
            ReportPacker().pack_surely(message)
