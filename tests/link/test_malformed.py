"""Bytes that are no message: a clear error that says where, and nothing else happens."""

from __future__ import annotations

import pickle
import struct
import tracemalloc

import msgpack
import numpy as np
import pytest
from distributed.protocol import to_serialize
from distributed.protocol.serialize import ToPickle

from fastworker.link.decode import decode
from fastworker.wire import WireError
from support.wire.inert import compare, inert
from support.wire.messages import (
    ODD_TASKS,
    OTHERS,
    TASKS,
    as_stock,
    compute_task,
    frames_of,
    free_keys,
    same,
    stock,
    with_buffers,
)

SMALL = {k: v for k, v in {**TASKS, **ODD_TASKS, **OTHERS}.items() if k != "long"}


def pack(value) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


def error_of(*frames) -> WireError:
    with pytest.raises(WireError) as caught:
        decode([*frames])
    return caught.value


def place(error):
    return error.message, error.frame, error.offset


@pytest.fixture
def traced():
    tracemalloc.start()
    yield
    tracemalloc.stop()


def peak() -> int:
    return tracemalloc.get_traced_memory()[1]


# What real messages become on a bad day


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation(name):
    frames = frames_of([SMALL[name], compute_task()])
    step = max(1, len(frames[0]) // 1_000)
    for n in range(0, len(frames[0]), step):
        error = error_of(frames[0][:n], *frames[1:])
        assert error.frame == 0
        assert error.offset <= n


def test_every_truncation_of_a_header():
    frames = frames_of([compute_task(), with_buffers(100), {"op": "x", "a": to_serialize(b"abc")}])
    headers = [1, 2, 5]
    for i in headers:
        for n in range(len(frames[i])):
            error = error_of(*frames[:i], frames[i][:n], *frames[i + 1 :])
            assert error.frame == i
            assert error.message == headers.index(i)
            assert error.offset <= n


def test_every_number_of_frames():
    frames = frames_of([with_buffers(100), compute_task(), with_buffers(100)])
    for n in range(len(frames)):
        error_of(*frames[:n])


def test_no_frames():
    assert str(error_of()) == "a message has at least one frame"


@pytest.mark.parametrize("name", SMALL)
def test_every_flipped_bit(name):
    """Either it is refused or it means the same as to stock."""
    frames = frames_of([SMALL[name], free_keys("x")])
    outcomes = set()
    with inert():
        for i, frame in enumerate(frames):
            most = 4_000 if frame.nbytes < 2_000 else 100
            step = max(1, frame.nbytes * 8 // most)
            for bit in range(0, frame.nbytes * 8, step):
                bad = bytearray(frame)
                bad[bit // 8] ^= 1 << (bit % 8)
                outcomes.add(compare([*frames[:i], bytes(bad), *frames[i + 1 :]]))
    assert {"same", "refused"} <= outcomes


def test_nothing_of_a_batch_is_returned():
    """Not even what came before the fault, however good it was."""
    good = [compute_task(i=i) for i in range(50)]
    frames = frames_of([*good, {"op": "x", "last": 1}])
    assert len(decode(frames)) == 51
    error = error_of(frames[0][:-1], *frames[1:])
    assert error.message == 50


# Lies


@pytest.mark.parametrize(
    "head",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
        b"\xdd\x7f\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\xdc\xff\xff",
        b"\xde\xff\xff",
        b"\xda\xff\xff",
        b"\xc5\xff\xff",
        b"\x9f",
        b"\x8f",
    ],
)
@pytest.mark.parametrize("wrap", [b"", b"\x91", b"\x92\x01", b"\x81\xa2op", b"\x81\xa2op\x91"])
def test_lengths_that_lie(traced, head, wrap):
    error = error_of(wrap + head + b"\x01\xa1x")
    assert "needed" in error.problem
    assert peak() < 100_000


@pytest.mark.parametrize("kind", [b"\xdd", b"\xdf"], ids=["arrays", "maps"])
def test_lengths_that_lie_within_each_other(traced, kind):
    """Each claims all that is left, and together they claim 500 times what there is."""
    n = 1_000_000
    width = 5 if kind == b"\xdd" else 6  # a map has a key before its first value
    claims = (n - (i + 1) * width for i in range(500))
    heads = (
        kind + struct.pack(">I", claim if kind == b"\xdd" else claim // 2) + bytes(width - 5)
        for claim in claims
    )
    body = b"".join(heads)
    error = error_of(body + bytes(n - len(body)))
    assert "of which" in error.problem
    assert peak() < 12 * n


def test_what_fits_is_not_a_lie():
    for value in ([[[1], 2], [3]], {"a": {"b": [1]}, "c": []}, [[], [[]], {}, {"x": {}}]):
        frames = frames_of([{"op": "x", "value": value}])
        assert same(decode(frames), stock(frames))


@pytest.mark.parametrize("unit", [b"\x91", b"\x81\x01", b"\x81\xa1x"], ids=["array", "map", "str"])
def test_depth(unit):
    for depth in (1, 100, 511, 512):
        frames = [unit * depth + b"\xc0"]
        assert decode(frames) == stock(frames)
    for depth in (513, 1_000, 100_000):
        error = error_of(unit * depth + b"\xc0")
        assert error.problem == "arrays and maps nested more than 512 deep"
        assert error.offset == 512 * len(unit) + 1
    error_of(b"\x81" * 100_000)
    error_of(b"\x91" * 100_000)


def test_depth_within_a_field():
    def nested(depth):
        return [compute_task(run_spec=None), b"\x91" * depth + b"\xc0"]

    for depth in (1, 510):
        message, value = nested(depth)
        frame = pack([message]).replace(pack("annotations") + b"\x80", pack("annotations") + value)
        (decoded,) = decode([frame])
        assert as_stock(decoded) == stock([frame])[0]
    message, value = nested(511)
    frame = pack([message]).replace(pack("annotations") + b"\x80", pack("annotations") + value)
    assert "deep" in error_of(frame).problem


def test_what_senders_pack_is_never_too_deep():
    value = 1
    for _ in range(508):
        value = [value]
    frames = frames_of([{"op": "x", "value": value}])
    assert decode(frames) == stock(frames)


# Where the fault is


@pytest.mark.parametrize(
    ("frame", "message", "offset", "problem"),
    [
        (b"\xc1", 0, 0, "0xc1 begins no value"),
        (b"\x92\x80\xc1", 1, 2, "0xc1 begins no value"),
        (b"\x90\x00\x01", None, 1, "2 bytes follow the last message"),
        (b"\x91\x80\x01", 0, 2, "1 bytes follow the last message"),
        (b"\x80\x01", 0, 1, "1 bytes follow the last message"),
        (b"", None, 0, "1 more bytes needed and 0 there"),
        (b"\x92\x80", None, 1, "2 more bytes needed and 1 there"),
        (b"\x91\xa3ab", 0, 2, "3 more bytes needed and 2 there"),
        (
            b"\x93\xa5abc\xa2d",
            0,
            2,
            "5 more bytes needed and 5 there, of which 2 are other items' at least",
        ),
        (b"\x91\x81\xa1\xff\x01", 0, 3, "a string that is not UTF-8: invalid start byte"),
        (b"\x91\xa2\xc3\x28", 0, 2, "a string that is not UTF-8: invalid continuation byte"),
        (b"\x91\xa3\xed\xa0\x80", 0, 2, "a string that is not UTF-8: invalid continuation byte"),
        (b"\x91\x81\x80\x01", 0, 2, "a dict cannot be a key of a map"),
        (b"\x91\x81\x91\x80\x01", 0, 2, "a tuple cannot be a key of a map"),
        (b"\x91\xd5\xff\x00\x00", 0, 2, "extension type -1 of 2 bytes: "),
        (b"\x91\xd4\xfe\x00", 0, 2, "extension type -2 of 1 bytes: "),
        (b"\x91\x81\xa8__Enum__\x01", 0, 12, "a ['__Enum__'] that cannot be made"),
        (b"\x91\x81\xa7__Set__\x01", 0, 11, "a ['__Set__'] that cannot be made"),
    ],
)  # fmt: skip
def test_where(frame, message, offset, problem):
    error = error_of(frame)
    assert place(error) == (message, 0, offset)
    assert error.problem.startswith(problem)
    prefix = "" if message is None else f"message {message}, "
    assert str(error).startswith(f"{prefix}frame 0, byte {offset}: {problem}")


def test_it_is_a_value_error_that_can_be_sent_on():
    error = error_of(b"\xc1")
    assert isinstance(error, ValueError)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), place(again)) == (str(error), place(error))


def test_errors_are_logged_as_by_stock(caplog):
    error_of(b"\xc1")
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("distributed.protocol.core", "CRITICAL")
    assert record.getMessage() == "Failed to deserialize"


@pytest.mark.parametrize("code", [0, 1, 127])
@pytest.mark.parametrize("n", [0, 1, 2, 4, 8, 16, 17, 300, 70_000])
def test_extension_types(code, n):
    frames = [pack({"op": "x", "value": msgpack.ExtType(code, bytes(n))})]
    assert same(decode(frames), stock(frames))


@pytest.mark.parametrize(
    "time", [msgpack.Timestamp(0), msgpack.Timestamp(1, 5), msgpack.Timestamp(-1, 999_999_999)]
)
def test_timestamps(time):
    frames = [pack({"op": "x", "time": time})]
    assert decode(frames) == stock(frames) == [{"op": "x", "time": time}]


# What messages say of other frames


@pytest.mark.parametrize("marker", ["__Pickled__", "__Serialized__"])
@pytest.mark.parametrize(
    ("number", "problem"),
    [
        (2, "there is no frame 2: the message has 2"),
        (2**64 - 1, "there is no frame"),
        (True, "the number of a frame has to be an int, not True"),
        (1.0, "the number of a frame has to be an int, not 1.0"),
        ("1", "the number of a frame has to be an int, not '1'"),
        (None, "the number of a frame has to be an int, not None"),
        ([1], "the number of a frame has to be an int, not (1,)"),
    ],
)
@pytest.mark.parametrize("field", ["run_spec", "annotations"])
def test_frames_that_are_not_there(marker, number, problem, field):
    message = (
        compute_task(run_spec=None, **{field: {marker: number}})
        if field != "run_spec"
        else (compute_task(run_spec={marker: number}))
    )
    error = error_of(pack([{}, message]), b"")
    assert (error.message, error.frame) == (1, 0)
    assert problem in error.problem


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_that_points_nowhere_is_no_marker(number):
    """To stock too; what is to be serialized needs more, then, to be anything."""
    frames = [pack([{"op": "x", "value": {"__Pickled__": number}}])]
    assert decode(frames) == stock(frames)
    error = error_of(pack([{"__Serialized__": number}]))
    assert "cannot be made" in error.problem


def pickled(**fields) -> bytes:
    header = {"pickled-obj": pickle.dumps(5), "compression": (), "num-sub-frames": 0, **fields}
    return pack({k: v for k, v in header.items() if v is not ...})


def test_a_header_that_is_right():
    message = compute_task(run_spec={"__Pickled__": 1})
    for header in (
        pickled(),
        pickled(compression=...),
        pickled(more=[1, {"a": 2}]),
        pack({"num-sub-frames": 0, b"x": 1, "pickled-obj": pickle.dumps(5)}),
        b"\x82" + b"\xd9\x0bpickled-obj" + pack(pickle.dumps(5)) + pack("num-sub-frames") + b"\x00",
        b"\xdf\x00\x00\x00\x02" + pickled(compression=...)[1:],
    ):
        frames = [pack([message]), header]
        (task,) = decode(frames)
        assert task.run_spec == 5
        assert same(task.to_dict(), stock(frames)[0])


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"\x93\x01\x02\x03", "the header of a pickle has to be a map"),
        (pickled(**{"pickled-obj": ...}), "the header of a pickle has no 'pickled-obj'"),
        (pickled(**{"pickled-obj": "text"}), "'pickled-obj' has to be bytes"),
        (pickled(**{"num-sub-frames": ...}), "'num-sub-frames' has to be a number, not None"),
        (pickled(**{"num-sub-frames": "1"}), "'num-sub-frames' has to be a number, not '1'"),
        (pickled(**{"num-sub-frames": True}), "'num-sub-frames' has to be a number, not True"),
        (pickled(**{"num-sub-frames": -1}), "'num-sub-frames' is -1, and 1 frames follow"),
        (pickled(**{"num-sub-frames": 2}), "'num-sub-frames' is 2, and 1 frames follow"),
        (pickled(**{"num-sub-frames": 2**64 - 1}), "and 1 frames follow"),
        (pickled(compression=None), "'compression' has to be an array, not None"),
        (pickled(compression="lz4"), "'compression' has to be an array, not 'lz4'"),
        (pickled(**{"num-sub-frames": 1}), "'compression' has 0 names for 1 frames"),
        (
            pickled(**{"num-sub-frames": 1, "compression": ["none such"]}),
            "the 1 frames that follow are not compressed as ('none such',): KeyError",
        ),
        (
            pickled(**{"num-sub-frames": 1, "compression": ["zlib"]}),
            "the 1 frames that follow are not compressed as ('zlib',)",
        ),
        (
            pickled(**{"num-sub-frames": 1, "compression": ["lz4"]}),
            "the 1 frames that follow are not compressed as ('lz4',)",
        ),
        (pickled() + b"\x00", "1 bytes follow the header of a pickle"),
        (b"\x81\x05\x01", "a name has to be str or bytes, not int"),
        (pickled(more={1: 2}), "a name has to be str or bytes, not int"),
        (b"", "1 more bytes needed and 0 there"),
    ],
)
def test_a_header_of_a_pickle_that_is_wrong(header, problem):
    for field in ("run_spec", "annotations"):
        message = compute_task(**{"run_spec": None, field: {"__Pickled__": 1}})
        error = error_of(pack([message]), header, b"\xff\xff\xff\x7f not compressed")
        assert (error.message, error.frame) == (0, 1)
        assert problem in error.problem


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        (b"\x93\x01\x02\x03", "the header of a serialized object has to be a map"),
        (pack({}), "'num-sub-frames' has to be a number, not None"),
        (pack({"num-sub-frames": 5}), "'num-sub-frames' is 5, and 1 frames follow"),
        (pack({"num-sub-frames": 1, "compression": None}), "'compression' has to be an array"),
        (pack({"num-sub-frames": 1, "compression": ()}), "'compression' has 0 names for 1 frames"),
        (pack({"num-sub-frames": 1, "compression": ["zlib"]}), "are not compressed as ('zlib',)"),
        (pack({"num-sub-frames": 0}) + b"\x00", "1 bytes follow"),
        (pack({"x": {"__Set__": True}}), "a ['__Set__'] that cannot be made"),
    ],
)
def test_a_header_of_a_serialized_object_that_is_wrong(header, problem):
    error = error_of(pack([{}, {"__Serialized__": 1}]), header, b"not compressed")
    assert (error.message, error.frame) == (1, 1)
    assert problem in error.problem


def test_what_deserializing_raises_is_no_fault_of_the_bytes():
    header = {"serializer": "error", "num-sub-frames": 1}
    with pytest.raises(TypeError, match="could not be sent"):
        decode([pack([{"__Serialized__": 1}]), pack(header), b"could not be sent"])


def test_a_long_pickle_is_not_copied(traced):
    frames = frames_of([{"op": "x", "value": ToPickle(np.zeros(1))}])
    payload = pickle.dumps(b"x" * 10_000_000)
    frames[1:] = [pickled(**{"pickled-obj": payload})]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    (message,) = decode(frames)
    assert len(message["value"]) == 10_000_000
    assert peak() - before < 15_000_000
