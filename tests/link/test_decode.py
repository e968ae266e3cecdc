"""What the decoder makes of messages, beside what distributed makes of them."""

from __future__ import annotations

import logging

import distributed
import msgpack
import numpy as np
import pytest
from dask.utils_test import inc
from distributed.protocol import compression, dumps
from distributed.protocol.serialize import (
    Pickled,
    Serialize,
    Serialized,
    ToPickle,
    serialize,
    serialize_and_split,
)

from fastworker.core.messages import ComputeTask, FreeKeys
from fastworker.link.decode import decode
from fastworker.link.unloadable import UnloadableTask
from fastworker.wire import WireError
from support.wire.messages import (
    ADDRESSES,
    ODD_TASKS,
    OTHERS,
    SPAN,
    TASKS,
    as_stock,
    compute_task,
    frames_of,
    free_keys,
    same,
    stock,
    with_buffers,
    with_dependencies,
)

ALL = {**TASKS, **ODD_TASKS, **OTHERS}


def check(frames):
    """Decode, compare with stock, and give back what was decoded."""
    decoded = decode(frames)
    assert same([as_stock(message) for message in decoded], stock(frames))
    return decoded


@pytest.mark.parametrize("name", ALL)
def test_one_message(name):
    check(frames_of(ALL[name]))


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_one(name):
    check(frames_of([ALL[name]]))


def test_a_batch_of_all():
    """Nothing that a message leaves behind disturbs the next one."""
    names = [*ALL, *reversed(ALL)]
    decoded = check(frames_of([ALL[name] for name in names]))
    assert len(decoded) == len(names)
    for name, message in zip(names, decoded, strict=True):
        if name in TASKS:
            assert type(message) is (FreeKeys if name.startswith("free") else ComputeTask), name
        else:
            assert type(message) in (dict, str), name


def test_an_empty_batch():
    assert check(frames_of([])) == []


def test_the_fields_of_a_task():
    (task,) = decode(frames_of([with_dependencies()]))
    message = with_dependencies()
    assert task.key == ("sum", 3, ("a", 1))
    assert task.run_id == 1_000
    assert task.priority == (-3, 2**40, -(2**33), 1.5)
    assert task.run_spec == message["run_spec"].data
    assert task.who_has == message["who_has"]
    assert task.nbytes == message["nbytes"]
    assert task.resource_restrictions == {"GPU": 1, "MEM": 2.5e9}
    assert task.actor is True
    assert task.annotations["nested"]["a"] == (1, {"b": None})
    assert task.span_id is None
    assert task.stimulus_id == message["stimulus_id"]
    assert repr(task) == "<ComputeTask ('sum', 3, ('a', 1)) run_id=1000>"


def test_no_dependencies_are_none():
    (task,) = decode(frames_of([compute_task()]))
    assert task.who_has is None
    assert task.nbytes is None
    assert task.to_dict()["who_has"] == task.to_dict()["nbytes"] == {}


def test_the_fields_of_free_keys():
    (free,) = decode(frames_of([free_keys("x", ("y", 1))]))
    assert free.keys == ("x", ("y", 1))
    assert free.stimulus_id == free_keys()["stimulus_id"]
    assert repr(free) == "<FreeKeys 2 keys>"


@pytest.mark.parametrize("cls", [ComputeTask, FreeKeys])
def test_only_the_decoder_makes_them(cls):
    with pytest.raises(TypeError, match="decode"):
        cls()
    message = decode(frames_of([compute_task(), free_keys()]))[cls is FreeKeys]
    with pytest.raises(AttributeError):
        message.stimulus_id = "other"
    with pytest.raises(TypeError, match="to_dict"):
        message.__reduce__()


def test_fields_in_any_order():
    message = compute_task()
    reverse = {"op": message.pop("op"), **dict(reversed(message.items()))}
    (decoded,) = decode(frames_of([reverse]))
    assert type(decoded) is ComputeTask
    assert decoded.to_dict() == stock(frames_of([reverse]))[0]


def test_fields_that_come_twice():
    """The last one counts; what is damaged can have any number of them."""
    pairs = [(msgpack.packb(k), msgpack.packb(v)) for k, v in compute_task(run_spec=1).items()]
    for name, value in pairs:
        for again in ([(name, value)], [(name, b"\x05")], [(name, value)] * 3, pairs):
            every = [*pairs, *again]
            head = b"\x91\xde" + len(every).to_bytes(2, "big")
            (decoded,) = check([head + b"".join(map(b"".join, every))])
            assert type(decoded) is dict
    for i in range(1, len(pairs) + 1):
        every = [*pairs[:i], *pairs]
        head = b"\x91\xde" + len(every).to_bytes(2, "big")
        check([head + b"".join(map(b"".join, every))])


def test_the_operation_comes_first_or_it_is_a_dict():
    message = compute_task()
    (decoded,) = check(frames_of([{"key": message.pop("key"), **message}]))
    assert type(decoded) is dict


def test_strings_that_come_again_are_made_once():
    messages = [compute_task(i=i, who_has={"x": ADDRESSES}, nbytes={"x": 1}) for i in range(3)]
    a, b, c = decode(frames_of(messages))
    assert a.span_id is b.span_id is c.span_id
    assert a.span_id == SPAN
    assert a.who_has["x"][1] is c.who_has["x"][1]


def test_more_strings_than_are_kept():
    """Strings drive each other out, and each is still itself."""
    spans = [f"{i:036x}" for i in range(20_000)]
    decoded = decode(frames_of([compute_task(span_id=span, run_spec=None) for span in spans]))
    assert [task.span_id for task in decoded] == spans


def test_frames_may_be_any_bytes():
    frames = frames_of([compute_task(), with_buffers()])
    for kind in (bytes, bytearray, memoryview, lambda frame: np.frombuffer(frame, "u1").data):
        check([kind(frame) for frame in frames])
        check(tuple(kind(frame) for frame in frames))


def test_frames_that_are_no_bytes():
    with pytest.raises(TypeError):
        decode(["text"])


# What comes in frames of its own


@pytest.mark.parametrize("name", sorted(k for k in compression.compressions if isinstance(k, str)))
def test_compression(name):
    message = [with_buffers(), {"op": "x", "value": Serialize(np.zeros(100_000))}, compute_task()]
    frames = dumps(message, context={"compression": name})
    if name != "auto":
        assert sum(memoryview(frame).nbytes for frame in frames) < 400_000
    task, _, _ = check(frames)
    zeros, noise = task.run_spec.args[0]
    assert not zeros.any()
    assert noise.any()


def test_frames_split_into_shards():
    message = {"op": "x", "value": Serialize([np.arange(10_000), np.arange(5)])}
    frames = frames_of([message], frame_split_size=1_000, context={"compression": None})
    assert len(frames) > 50
    check(frames)


def test_buffers_are_those_of_the_frames():
    """No copy is made of what is not compressed."""
    frames = frames_of([with_buffers()], context={"compression": None})
    (task,) = decode(frames)
    own = [np.frombuffer(frame, "u1") for frame in frames]
    for array in task.run_spec.args[0]:
        assert any(np.shares_memory(array, frame) for frame in own)


def test_what_a_scheduler_passes_on():
    """Pickled and Serialized come from another peer and go out as they came."""
    parts = dumps([ToPickle(np.arange(10_000))])
    header = distributed.protocol.core.msgpack.loads(parts[1])
    pickled = Pickled(header, parts[2:])
    header, frames = serialize_and_split(np.arange(30_000))
    header["compression"], frames = zip(*map(compression.maybe_compress, frames), strict=True)
    split = Serialized(header, list(frames))
    plain = Serialized(*serialize(np.arange(3)))
    message = {"op": "x", "a": pickled, "b": [split, plain], "c": ToPickle(inc)}
    check(frames_of([message, message]))


def test_serialized_within_a_header():
    header, frames = serialize(np.arange(3))
    outer = Serialized({**header, "note": Serialize(np.arange(4))}, frames)
    check(frames_of([{"op": "x", "value": outer}]))


def test_what_cannot_be_packed_is_pickled_by_the_sender():
    """The sender tries twice then, and leaves the frames of its first try in the message."""
    message = [compute_task(), {"op": "x", "value": 1 + 2j, "more": ToPickle(inc)}]
    frames = frames_of(message)
    assert len(frames) == 1 + 3 + 1
    check(frames)


def test_frames_without_a_reference_are_ignored():
    check([*frames_of([compute_task()]), memoryview(b"what is this?")])


def test_one_object_referred_to_twice():
    frames = frames_of([{"op": "x", "a": ToPickle([1])}])
    both = frames_of([{"op": "x", "a": {"__Pickled__": 1}, "b": {"__Pickled__": 1}}])[0]
    (message,) = check([both, *frames[1:]])
    assert message["a"] is not message["b"]


def test_markers_that_mark_nothing():
    check(frames_of([{"op": "x", "a": {"__Pickled__": 0, "b": 1}, "c": {b"__Set__": 1}}]))


# Tasks that cannot be unpickled


class OnlyElsewhere:
    """Can be unpickled unless ``armed``."""

    armed = False
    loaded = 0

    def __reduce__(self):
        return _load, ()


def _load():
    OnlyElsewhere.loaded += 1
    if OnlyElsewhere.armed:
        raise ModuleNotFoundError("no such module on this worker")
    return OnlyElsewhere()


@pytest.fixture
def armed(monkeypatch):
    monkeypatch.setattr(OnlyElsewhere, "armed", True)
    monkeypatch.setattr(OnlyElsewhere, "loaded", 0)


BAD = ToPickle(OnlyElsewhere())


def test_a_task_that_cannot_be_unpickled(armed):
    first, second = decode(frames_of([compute_task("a", run_spec=BAD), compute_task("b")]))
    assert first.key == "a"
    assert type(first.run_spec) is UnloadableTask
    assert isinstance(first.run_spec.error, ModuleNotFoundError)
    assert "no such module" in first.run_spec.message["exception_text"]
    assert "_load" in first.run_spec.message["traceback_text"]
    assert type(second) is ComputeTask
    assert type(second.run_spec) is not UnloadableTask


@pytest.mark.parametrize(
    "message",
    [
        compute_task(run_spec=BAD, unknown=1),
        {"run_spec": BAD, **compute_task(run_spec=BAD)},
        {"op": "compute-task", "run_spec": BAD},
        {"run_spec": BAD, "op": "compute-task"},
    ],
    ids=["unknown-field", "another-order", "no-more", "operation-last"],
)
def test_also_in_a_message_that_is_none_of_ours(armed, message):
    (decoded,) = decode(frames_of([message]))
    assert type(decoded) is dict
    assert type(decoded["run_spec"]) is UnloadableTask
    assert OnlyElsewhere.loaded == 1


@pytest.mark.parametrize(
    "message",
    [
        {"op": "other", "run_spec": BAD},
        compute_task(run_spec=ToPickle(inc), key=BAD),
        compute_task(run_spec=[BAD]),
        compute_task(annotations={"a": BAD}),
        {"op": "compute-task", "more": {BAD: 1}},
        {"op": "other", "set": {"__Set__": True, "as-list": BAD}},
        BAD,
    ],
    ids=["another-op", "the-key", "within", "annotations", "a-map-key", "a-set", "no-message"],
)
def test_elsewhere_it_is_an_error(armed, message):
    frames = frames_of([compute_task(), message])
    with pytest.raises(ModuleNotFoundError, match="no such module"):
        decode(frames)


def test_what_is_logged(armed, caplog):
    caplog.set_level(logging.INFO)

    def logged(read):
        caplog.clear()
        with pytest.raises(ModuleNotFoundError):
            read(frames_of([{"op": "x", "value": BAD}]))
        return [(r.name, r.levelname, r.getMessage(), r.exc_info[0]) for r in caplog.records]

    assert logged(decode) == logged(distributed.protocol.loads)


def test_nothing_is_loaded_twice(armed):
    with pytest.raises(WireError):
        decode([*frames_of([compute_task(run_spec=BAD)])[:1], b"\xc1"])
    assert OnlyElsewhere.loaded == 0
    decode(frames_of([compute_task(run_spec=BAD, more=1), compute_task(run_spec=BAD, actor=5)]))
    assert OnlyElsewhere.loaded == 2
