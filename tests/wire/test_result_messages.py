"""Messages with results: the same frames as distributed's, and the same results out of them."""

from __future__ import annotations

import collections
import datetime
import pickle
import time

import numpy as np
import pytest
from dask.sizeof import sizeof
from distributed.comm import utils as comm_utils
from distributed.metrics import context_meter
from distributed.protocol import dumps, loads, to_serialize
from distributed.protocol.serialize import dask_deserialize, dask_serialize
from hypothesis import given
from hypothesis import strategies as st

from fastworker.wire.result_messages import NeedsOffload, Shared, pack, unpack
from support.wire.messages import same
from support.wire.mutations import DAMAGES
from support.wire.strategies import damages, plain, same_each_time

SHARD = 64 << 20
CONTEXT = {"pickle-protocol": pickle.HIGHEST_PROTOCOL, "compression": None}
RANDOM = np.random.default_rng(1)

ARRAYS = {
    "doubles": np.arange(10.0),
    "no dimensions": np.array(5),
    "empty": np.empty((0, 3)),
    "fortran": np.asfortranarray(RANDOM.random((30, 20))),
    "every other": np.arange(100)[::2],
    "backwards": np.arange(100)[::-1],
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "one of one": np.ones((1, 1, 1)),
    "booleans": np.arange(9) % 2 == 0,
    "halves": np.ones(5, "f2"),
    "complex": np.ones(3) * 1j,
    "big-endian": np.arange(5, dtype=">i4"),
    "dates": np.array(["2020-01-01", "NaT"], "M8[D]"),
    "durations": np.arange(4).astype("m8[us]"),
    "text": np.array(["a", "äöü"]),
    "bytes": np.array([b"a", b"xyz"]),
    "records": np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    "objects": np.array(["a", None, {1}], dtype=object),
    "sub-arrays": np.zeros(2, dtype=[("a", "u1", (2, 3))]),
    "masked": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "a matrix": np.asmatrix([[1, 2]]),
    "large": RANDOM.random(300_000),
}
ARRAYS["read-only"] = np.arange(7)
ARRAYS["read-only"].flags.writeable = False


class Mine(int):
    """A builtin's subclass, that must not come back as the builtin."""


class Whole:
    def __init__(self, x):
        self.x = x

    def __eq__(self, other):
        return type(other) is Whole and other.x == self.x

    __hash__ = None


Point = collections.namedtuple("Point", "x y")

OTHERS = {
    "numbers": [0, -1, 2**70, 1.5, float("inf"), 1j, True, None],
    "text": "a\udc00ä😀",
    "long text": "x" * 200_000,
    "bytes": b"abc",
    "no bytes": b"",
    "many bytes": bytes(300_000),
    "bytearray": bytearray(b"abc"),
    "tuple": (1, "a", (2.5, [None])),
    "bytes in a list": [b"a" * 100, b"b" * 10],
    "sets": {1, "x", frozenset({2})},
    "dict": {"a": {("b", 1): [1, 2, {3}]}, None: 4},
    "many": list(range(5_000)),
    "deep": [[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]],
    "subclass": Mine(5),
    "subclasses inside": [Mine(5), Point(1, 2), collections.OrderedDict(a=1)],
    "a class": Whole,
    "an object": Whole(3),
    "a date": datetime.date(2020, 1, 1),
    "arrays inside": {"a": [np.arange(3)], "b": np.ones((2, 2))},
    "a function": len,
    "number of numpy": np.float64(2.5),
    "an exception": ValueError("x"),
}


def equal(a, b):
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape or a.flags.writeable != b.flags.writeable:
            return False
        if a.dtype.hasobject or isinstance(a, np.ma.MaskedArray):
            return a.tolist() == b.tolist()
        return a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, BaseException):
        return a.args == b.args
    return bool(a == b)


def answer(**results):
    return {"status": "OK", "data": {k: to_serialize(v) for k, v in results.items()}}


def packed(message, context=CONTEXT, **options):
    return pack(message, context, SHARD, **options)


def wired(frames):
    """What is received: bytes in memory of their own."""
    return [
        memoryview(bytearray(f.tobytes("A") if isinstance(f, np.ndarray) else bytes(f)))
        for f in frames
    ]


@pytest.mark.parametrize("value", [*ARRAYS.values(), *OTHERS.values()], ids=[*ARRAYS, *OTHERS])
def test_any_result(value):
    message = answer(x=value, y=5, z=value)
    received = wired(packed(message))
    expected = loads(wired(dumps(message, context=CONTEXT)))
    (ours,) = unpack(received)
    for data in (ours["data"], loads(received)["data"]):
        assert data.keys() == {"x", "y", "z"}
        for key in data:
            assert equal(data[key], expected["data"][key])
    assert unpack(wired(dumps(message, context=CONTEXT)))[0].keys() == ours.keys()


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_frames_of_arrays_are_stock_s(array):
    if array.dtype.kind == "V":
        pytest.skip("what is pickled in the header differs from one time to the next")
    ours = packed(answer(x=array, y=array))
    theirs = dumps(answer(x=array, y=array), context=CONTEXT)
    assert [bytes(f) for f in wired(ours)] == [bytes(f) for f in wired(theirs)]


def test_arrays_are_sent_from_where_they_are_and_stay_where_they_came():
    array = RANDOM.random((1000, 1000))
    frames = packed(answer(x=array))
    assert np.shares_memory(np.asarray(frames[2]), array)
    received = wired(frames)
    (message,) = unpack(received)
    assert np.shares_memory(message["data"]["x"], np.frombuffer(received[2], "u1"))


def test_arrays_can_be_written_to_also_when_their_memory_cannot():
    frames = [memoryview(bytes(f)) for f in wired(packed(answer(x=np.arange(5))))]
    array = unpack(frames)[0]["data"]["x"]
    array[0] = 7
    assert array.tolist() == [7, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "message",
    [
        {1, 2},
        [to_serialize(1)],
        {"op": "x", "status": Whole},
        {"op": "x", "nested": [to_serialize(1)]},
        {1: {"a": {"b": to_serialize(1)}}},
        {"op": "x", "data": collections.OrderedDict(a=1)},
        {"op": "x", "number": 2**70},
        {"op": "x", "text": "\udc00"},
    ],
)
def test_what_is_left_to_distributed(message):
    assert packed(message) is None


PLAIN = [
    {"op": "get_data", "keys": {"x", ("y", 1), 5}, "who": None, "reply": True},
    {"op": "update_data", "data": {"x": to_serialize(1)}, "who_has": {"x": ["a", "b"]}},
    {},
    {"status": "busy"},
]


@pytest.mark.parametrize("message", PLAIN)
def test_messages_around_results(message):
    (ours,) = unpack(wired(packed(message)))
    assert ours == loads(wired(dumps(message, context=CONTEXT)))


def test_compressed_and_split_results():
    pytest.importorskip("lz4")
    context = {**CONTEXT, "compression": "lz4"}
    values = {"zeros": np.zeros(50_000), "text": "x" * 50_000, "small": np.zeros(5), "b": b"x" * 9}
    message = answer(**values)
    frames = packed(message, context)
    assert [bytes(f) for f in wired(frames)] == [
        bytes(f) for f in wired(dumps(message, context=context))
    ]
    assert sum(f.nbytes for f in wired(frames)) < 50_000
    assert equal(unpack(wired(frames))[0]["data"], values)
    split = pack(message, CONTEXT, 1000)
    assert len(split) > 400
    assert equal(loads(wired(split))["data"], values)
    assert equal(unpack(wired(split))[0]["data"], values)


def test_functions_that_a_user_has_registered():
    class Registry:
        """Puts back what was there before."""

        def __enter__(self):
            self.before = dict(dask_serialize._lookup), dict(dask_deserialize._lookup)

        def __exit__(self, *exc):
            for registry, lookup in zip(
                (dask_serialize, dask_deserialize), self.before, strict=True
            ):
                registry._lookup.clear()
                registry._lookup.update(lookup)

    message = answer(x=np.arange(5), y="text", z=b"bytes", t=("text",))
    packed(message)  # so that everything is known by now
    with Registry():
        for kind in (np.ndarray, str, bytes):
            dask_serialize.register(kind, lambda value: ({}, [b"something else"]))
            dask_deserialize.register(kind, lambda header, frames: bytes(frames[0]))
        data = unpack(wired(packed(message)))[0]["data"]
        assert data == {**dict.fromkeys("xyz", b"something else"), "t": (b"something else",)}
    assert equal(unpack(wired(packed(message)))[0]["data"]["x"], np.arange(5))


class Stubborn:
    def __reduce__(self):
        raise RuntimeError("not me")


class Unwelcome:
    def __reduce__(self):
        return int, ("not a number",)


def test_what_cannot_be_serialized():
    # Stock has more to say of it
    assert packed(answer(x=1, y=Stubborn()), on_error="raise") is None
    with pytest.raises(TypeError, match="Stubborn"):
        unpack(wired(packed(answer(x=1, y=Stubborn()))))


def test_what_cannot_be_deserialized():
    with pytest.raises(ValueError, match="not a number"):
        unpack(wired(packed(answer(x=1, y=Unwelcome()))))


def test_what_takes_long_is_for_another_thread():
    heavy = [Whole(bytes(100)) for _ in range(5)]
    sizes = dict.fromkeys((Whole,), 6_000_000)

    def weigh(value):
        return sizes[type(value)]

    sizeof.register(Whole, weigh)
    try:
        message = answer(x=heavy[0], y=heavy[1])
        with pytest.raises(NeedsOffload):
            packed(message)
        assert packed(message, light=False) is not None
        assert packed(answer(x=heavy[0])) is not None
    finally:
        del sizeof._lookup[Whole]
    large = RANDOM.random(2_000_000)
    array = wired(packed(answer(x=large, y=5)))
    assert equal(unpack(array)[0]["data"]["x"], large)
    for other in (Whole(bytes(2_000_000)), bytes(2_000_000)):
        received = wired(packed(answer(x=large, y=other)))
        with pytest.raises(NeedsOffload):
            unpack(received)
        assert equal(unpack(received, light=False)[0]["data"]["y"], other)


class Counted:
    """Knows how often it was pickled."""

    count = 0

    def __reduce__(self):
        self.count += 1
        return Whole, (self.count,)


def test_what_is_shared_is_serialized_once():
    value = Counted()
    shared = Shared(value)
    message = {"status": "OK", "data": {"x": shared, "y": to_serialize(1)}}
    for _ in range(3):
        assert unpack(wired(packed(message)))[0]["data"] == {"x": Whole(1), "y": 1}
    assert value.count == 1
    # Not for those with whom something else was agreed on
    older = packed(message, {**CONTEXT, "pickle-protocol": 4})
    assert unpack(wired(older))[0]["data"]["x"] == Whole(2)
    # Stock serializes it as it does anything
    assert loads(wired(dumps(message, context=CONTEXT)))["data"]["x"] == Whole(3)
    known = Shared(5)
    packed({"x": known})
    assert known.parts is None


def test_many_light_ones_are_heavy():
    """Each is in its place at once, but together they take long."""
    values = {f"x{i}": bytes(50) * 40 for i in range(6000)}
    pickled = {key: [value.decode("latin-1")] for key, value in values.items()}
    with pytest.raises(NeedsOffload):
        packed(answer(**pickled))
    received = wired(packed(answer(**pickled), light=False))
    with pytest.raises(NeedsOffload):
        unpack(received)
    assert unpack(received, light=False) == ({"status": "OK", "data": pickled},)
    assert packed(answer(**values)) is not None


def test_what_takes_long_is_configured_while_we_run(monkeypatch):
    message = answer(x=5)
    received = wired(packed(message))
    monkeypatch.setattr(comm_utils, "OFFLOAD_THRESHOLD", 1)
    with pytest.raises(NeedsOffload):
        packed(message)
    with pytest.raises(NeedsOffload):
        unpack(received)
    assert packed(answer(x=np.arange(5))) is not None
    monkeypatch.setattr(comm_utils, "OFFLOAD_THRESHOLD", False)
    assert packed(message) is not None and unpack(received) is not None


def test_serializers():
    message = answer(x=5, y=np.arange(3))
    frames = packed(message, serializers=["msgpack"], on_error="message")
    theirs = dumps(message, context=CONTEXT, serializers=["msgpack"], on_error="message")
    assert [bytes(f) for f in frames] == [bytes(f) for f in theirs]


def test_time_is_metered_once_a_message():
    seen = []
    with context_meter.add_callback(lambda label, value, unit: seen.append((label, unit))):
        received = wired(packed(answer(**{f"x{i}": i for i in range(100)})))
        unpack(received)
        packed({"op": "ping"})
    assert sorted(seen) == [
        (label, "seconds") for label in ("compress", "decompress", "deserialize", "serialize")
    ]


def test_what_stock_meters_is_not_metered_again():
    """Sleeping is what takes the time here: noted once, by either side."""
    seen = collections.Counter()

    def note(label, value, unit):
        seen[label] += value

    def sleep(value=None, frames=None):
        time.sleep(0.2)
        return ({}, []) if frames is None else Whole(1)

    dask_serialize.register(Whole)(sleep)
    dask_deserialize.register(Whole)(sleep)
    try:
        start = time.perf_counter()
        with context_meter.add_callback(note):
            (message,) = unpack(wired(packed(answer(x=Whole(1), y=2))))
        took = time.perf_counter() - start
    finally:
        del dask_serialize._lookup[Whole], dask_deserialize._lookup[Whole]
    assert type(message["data"]["x"]) is Whole
    assert min(seen["serialize"], seen["deserialize"]) >= 0.2
    assert seen.total() <= took


# ---------------------------------------------------------------------- whatever comes

BASE = [
    [bytes(f) for f in wired(dumps(message, context=CONTEXT))]
    for message in (
        answer(x=np.arange(4), y=np.arange(4), z=5),
        answer(x=b"abc", y="text", z=np.ones((2, 2))),
        *PLAIN,
    )
]


def compared(frames):
    """Both decode a message to the same, or both refuse it; or we leave it to stock."""
    try:
        expected = loads(frames)
    except Exception as error:
        expected = error
    try:
        ours = unpack(frames)
    except Exception:
        assert isinstance(expected, Exception)
        return "refused"
    if ours is None:
        return "left"
    assert not isinstance(expected, Exception), expected
    assert repr(ours[0]) == repr(expected)
    return "same"


@pytest.mark.parametrize("which", range(len(BASE)))
def test_damaged_heads_and_arrays(which):
    """Pickles are left as they are: a damaged one could do anything."""
    outcomes = collections.Counter()

    @same_each_time(200)
    @given(st.lists(damages, min_size=1, max_size=3))
    def check(some):
        frames = [bytearray(f) for f in BASE[which]]
        for d in some:
            i = d.frame % len(frames) if frames else 0
            if frames and b"\x80" not in bytes(frames[i][:1]) and b"\x94" not in frames[i]:
                DAMAGES[d.kind % 8](frames[i], d, frames)
        outcomes[compared([bytes(f) for f in frames])] += 1

    check()
    assert outcomes["same"] or outcomes["left"]


@same_each_time(200)
@given(st.dictionaries(st.text(max_size=5), plain, max_size=5))
def test_made_up_results(results):
    message = {"status": "OK", "data": {k: to_serialize(v) for k, v in results.items()}}
    frames = packed(message)
    if frames is None:  # a lone surrogate in a key
        return
    assert same(unpack(wired(frames))[0]["data"], results)
