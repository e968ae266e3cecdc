"""Small pickles, each beside ``pickle.loads``: the same objects, the same errors."""

from __future__ import annotations

import collections
import datetime
import decimal
import functools
import gc
import operator
import pickle
import sys
import threading
import types
import weakref
from fractions import Fraction
from typing import Any

import cloudpickle
import numpy as np
import pytest
from dask._task_spec import Alias, DataNode, Dict, List, Task, TaskRef, Tuple
from distributed.protocol.pickle import dumps
from hypothesis import given, settings
from hypothesis import strategies as st

from fastworker.wire.pickles import loads, reads


class Plain:
    """State in a ``__dict__``."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    class Inner:
        pass

    def method(self) -> int:
        return 1


class Slotted:
    """State in slots and in a ``__dict__``."""

    __slots__ = ("__dict__", "__weakref__", "a", "b")

    def __eq__(self, other: object) -> bool:
        return [getattr(self, n, None) for n in ("a", "b", "c")] == [
            getattr(other, n, None) for n in ("a", "b", "c")
        ]


class OnlySlots:
    __slots__ = ("a",)

    def __eq__(self, other: object) -> bool:
        return type(other) is OnlySlots and self.a == other.a


class Restored(Plain):
    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state, restored=True)


class MyTask(Task):
    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.key = f"mine-{self.key}"


class MyList(list):
    pass


class MyDict(dict):
    pass


Point = collections.namedtuple("Point", "x y")


def slotted(**attributes: Any) -> Slotted:
    new = Slotted()
    for name, value in attributes.items():
        setattr(new, name, value)
    return new


def only_slots(a: Any) -> OnlySlots:
    new = OnlySlots()
    new.a = a
    return new


def closure(x: int) -> Any:
    def add(y: int) -> int:
        return x + y

    return add


OBJECTS: dict[str, Any] = {
    "task": Task("x", operator.add, 1, 2),
    "task that needs others": Task("x", operator.add, TaskRef("y"), TaskRef(("z", 1))),
    "task with options": Task("x", sorted, TaskRef("y"), key=None, reverse=True),
    "task in a task": Task("x", operator.add, Task(None, operator.neg, TaskRef("y")), 1),
    "list of inputs": Task("x", sum, List(TaskRef("y"), TaskRef("z"), 3)),
    "other containers": Task("x", len, Dict({"a": TaskRef("y"), "b": Tuple(1, TaskRef("z"))})),
    "fused": Task.fuse(Task("x", operator.neg, 1), Task("y", operator.neg, TaskRef("x"))),
    "alias": Alias("x", "y"),
    "data": DataNode("x", {"a": [1, 2.5, "c"]}),
    "subclass of task": MyTask("x", operator.neg, 1),
    "constants": (None, True, False, (), [], {}, frozenset()),
    "ints": [0, 1, 255, 256, 65535, 65536, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63],
    "long": [2**64, -(2**64), 1 << 1000, -(1 << 1000)],
    "floats": [0.0, -0.0, 1.5, 1e300, float("inf"), float("-inf"), 5e-324],
    "text": ["", "a", "é", "\U0001f600", "\ud800", "x" * 255, "x" * 256, "x" * 3000],
    "bytes": [b"", b"\x00\xff", b"x" * 255, b"x" * 256],
    "tuples": ((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((), ((),))),
    "frozenset": frozenset({1, "a", (2, 3)}),
    "long list": list(range(50)),
    "dictionary": {"a": 1, (1, 2): [3], None: {4: 5}},
    "attributes": Plain(a=1, b=[2]),
    "no attributes": Plain(),
    "slots": slotted(a=1, b="2"),
    "slots and attributes": slotted(a=1, c=3),
    "only slots": only_slots(5),
    "setstate": Restored(a=1),
    "list of one's own": MyList([1, 2, 3]),
    "one in a list of one's own": MyList([1]),
    "dictionary of one's own": MyDict(a=1, b=2),
    "one in a dictionary of one's own": MyDict(a=1),
    "ordered": collections.OrderedDict(b=1, a=2),
    "default": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1, 2, 3], maxlen=5),
    "counter": collections.Counter("abca"),
    "named tuple": Point(1, y=2),
    "partial": functools.partial(int, base=2).keywords,
    "error": ValueError("a", 1).args,
    "date": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
    "decimal": decimal.Decimal("1.5"),
    "fraction": Fraction(1, 3),
    "slice": slice(1, None, 2),
    "range": range(1, 9, 2),
    "complex": 1 + 2j,
    "dtype": np.dtype("f4"),
    "scalar": np.float64(1.5),
    "function": operator.add,
    "builtin": len,
    "class": Plain,
    "inner class": Plain.Inner,
    "method of a class": Plain.method,
}


def both(pickled: bytes) -> tuple[Any, Any]:
    """What comes of a pickle here and there: an object, or the type and text of an error.

    What pickle itself says of a pickle that is none differs from one Python to the next.
    """

    def outcome(load: Any) -> Any:
        try:
            return load(pickled)
        except pickle.UnpicklingError as error:
            return type(error)
        except Exception as error:
            return type(error), str(error)

    return outcome(loads), outcome(pickle.loads)


def assert_same(ours: Any, stock: Any) -> None:
    assert type(ours) is type(stock)
    if not isinstance(stock, (float, complex)) or stock == stock:
        assert ours == stock
    assert repr(ours) == repr(stock) or type(ours).__repr__ is object.__repr__


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_same_objects(name: str, protocol: int) -> None:
    pickled = pickle.dumps(OBJECTS[name], protocol)
    assert reads(pickled) or name in ("fused", "long")
    assert_same(*both(pickled))
    if isinstance(OBJECTS[name], Task):
        assert [getattr(loads(pickled), slot) for slot in Task.get_all_slots()] == [
            getattr(pickle.loads(pickled), slot) for slot in Task.get_all_slots()
        ]


@pytest.mark.parametrize("name", OBJECTS)
def test_as_tasks_come(name: str) -> None:
    """With the pickler that clients have, and the object as a task's input."""
    task = Task("x", operator.add, OBJECTS[name], TaskRef("y"))
    pickled = dumps(task)
    assert reads(pickled) or name in ("fused", "long")
    ours, stock = both(pickled)
    assert_same(ours.args[0], stock.args[0])
    assert ours.dependencies == stock.dependencies >= {"y"}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
def test_older_protocols(protocol: int) -> None:
    pickled = pickle.dumps(OBJECTS["task"], protocol)
    assert not reads(pickled)
    assert_same(*both(pickled))


def test_functions_by_value() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("def f(x, *, y=2):\n    'doc'\n    return g(x) + y\ndef g(x): return 10 * x", namespace)
    for function, argument, result in [
        (lambda x: x + 1, 1, 2),
        (closure(5), 1, 6),
        (namespace["f"], 1, 12),
        (functools.partial(closure(5), 2), None, 7),
    ]:
        pickled = cloudpickle.dumps(function)
        assert reads(pickled)
        ours = loads(pickled)
        assert (ours(argument) if argument is not None else ours()) == result
    assert loads(cloudpickle.dumps(namespace["f"])).__doc__ == "doc"


def test_the_same_object_twice() -> None:
    shared: list[Any] = [1]
    a, b = loads(pickle.dumps((shared, shared)))
    assert a is b
    circle: list[Any] = []
    circle.append(circle)
    found = loads(pickle.dumps(circle))
    assert found[0] is found and len(found) == 1


def test_many_and_deep() -> None:
    """Too much for the fixed room: not ours, and right."""
    deep: Any = ()
    for _ in range(200):
        deep = (deep,)
    for thing, ours in [
        ([str(i) for i in range(60)], True),
        ([str(i) for i in range(300)], False),
        (tuple(range(40)), True),
        (tuple(range(200)), False),
        (deep, False),
        ([[[[[[[[1, 2]]]]]]]], True),
        (functools.reduce(lambda x, _: [x, x], range(40), []), None),
        (functools.reduce(lambda x, _: [0, [x, 1]], range(40), []), False),
    ]:
        pickled = pickle.dumps(thing)
        assert ours is None or reads(pickled) is ours
        if ours is not None:
            assert loads(pickled) == thing
        else:
            assert type(loads(pickled)) is list


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b".",
        b"\x80\x04",
        b"\x80\x04.",
        b"\x80\x05N",
        b"\x80\x06N.",
        b"\x80\x03N.",
        b"N.",
        b"\x80\x04(.",
        b"\x80\x04N(.",
        b"\x80\x04(N.",
        b"\x80\x04(0.",
        b"\x80\x04N(0.",
        b"\x80\x04(N0N.",
        b"\x80\x04t.",
        b"\x80\x04N\x86.",
        b"\x80\x04(N(N\x86t.",
        b"\x80\x04\x94.",
        b"\x80\x04Nh\x00.",
        b"\x80\x04N\x94h\x00.",
        b"\x80\x04N\x94h\x01.",
        b"\x80\x04N\x94j\x01\x00\x00\x00.",
        b"\x80\x04N\x94j\x00\x00\x00\x00.",
        b"\x80\x04}(NNNu.",
        b"\x80\x04}(NNu.",
        b"\x80\x04](NNe.",
        b"\x80\x04N(NNe.",
        b"\x80\x04N(NNu.",
        b"\x80\x04}(]Nu.",
        b"\x80\x04}]Ns.",
        b"\x80\x04(]\x91.",
        b"\x80\x04NNR.",
        b"\x80\x04N)R.",
        b"\x80\x04NN\x81.",
        b"\x80\x04N)\x81.",
        b"\x80\x04NNb.",
        b"\x80\x04N}b.",
        b"\x80\x04NNa.",
        b"\x80\x04K\x01.",
        b"\x80\x04K",
        b"\x80\x04M\x01",
        b"\x80\x04J\x01\x02\x03",
        b"\x80\x04X\x05\x00\x00\x00abc.",
        b"\x80\x04X\xff\xff\xff\xffabc.",
        b"\x80\x04\x8c\x05abc.",
        b"\x80\x04\x8c\x01\xff.",
        b"\x80\x04C\x03ab",
        b"\x80\x04\x8a\x00.",
        b"\x80\x04\x8a\x02\xff",
        b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00N.",
        b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00N.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
        b"\x80\x04\x95\x02",
        b"\x80\x04NN\x93.",
        b"\x80\x04\x8c\x03sysN\x93.",
        b"\x80\x04\x8c\x03sys\x8c\x07no_such\x93.",
        b"\x80\x04\x8c\x0eno_such_module\x8c\x01x\x93.",
        b"\x80\x04\x8c\x00\x8c\x00\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x0cstr.no_such_\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x0bstr.__len__\x93.",
        b"\x80\x04\x8c\x08builtins\x8c\x03int\x93\x8c\x01a\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\x06object\x93K\x01\x85\x81.",
        b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)\x81}b.",
        b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)\x81}\x8c\x01aNsb.",
        b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)\x81N}\x8c\x01aNs\x86b.",
        b"\x80\x04\x8c\x08builtins\x8c\x06object\x93)\x81NK\x01\x86b.",
        b"\x80\x04N.what comes after the end",
        b"\x80\x04NNNN.",
        b"\x80\x04NP.",
        b"\x80\x04\x80\x04N.",
    ],
)
def test_made_by_hand(code: bytes) -> None:
    ours, stock = both(code)
    assert repr(ours) == repr(stock) or "object at" in repr(stock), code


class Damage(Exception):
    pass


def raises(*args: Any) -> Any:
    raise Damage(*args)


class Unwilling:
    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        return {
            "function": (raises, ("in a function", 1)),
            "state": (Unwilling, ("state",), {"a": 1}),
            "args": (object, (1, 2)),
        }[self.how]

    def __setstate__(self, state: Any) -> None:
        raise Damage("in __setstate__", state)


@pytest.mark.parametrize("how", ["function", "state", "args"])
def test_errors_of_the_objects(how: str) -> None:
    pickled = pickle.dumps([Plain(a=1), Unwilling(how), 2])
    assert reads(pickled)
    ours, stock = both(pickled)
    assert ours == stock and issubclass(ours[0], (Damage, TypeError))


made: list[weakref.ref[Plain]] = []


def note(attributes: dict[str, Any]) -> Plain:
    new = Plain(**attributes)
    made.append(weakref.ref(new))
    return new


class Noted(Plain):
    def __reduce__(self) -> Any:
        return note, (vars(self),)


def test_nothing_is_kept() -> None:
    """Neither after an error, with half of it on the stack, nor after success."""
    made.clear()
    good = pickle.dumps([Noted(a=1), (Noted(b=2), {"c": Noted()})])
    bad = pickle.dumps([Noted(a=1), (Noted(b=2), Unwilling("function"), Noted(c=3))])
    assert reads(good) and reads(bad)
    found = loads(good)
    with pytest.raises(Damage):
        loads(bad)
    assert len(made) == 5
    gc.collect()
    assert [ref() is None for ref in made] == [False, False, False, True, True]
    del found
    gc.collect()
    assert all(ref() is None for ref in made)


def test_a_task_class_that_was_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``__setstate__`` that a user put in its place is called."""
    original, states = Task.__setstate__, []

    def setstate(self: Task, state: Any) -> None:
        states.append(state)
        original(self, state)

    pickled = dumps(OBJECTS["task"])
    monkeypatch.setattr(Task, "__setstate__", setstate)
    assert loads(pickled) == OBJECTS["task"] and len(states) == 1


def test_a_module_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = types.ModuleType("for_pickles"), types.ModuleType("for_pickles")
    first.x, second.x = 1, 2  # type: ignore[attr-defined]
    pickled = b"\x80\x04\x8c\x0bfor_pickles\x8c\x01x\x93."
    assert reads(pickled)
    for module in (first, first, second, second):
        monkeypatch.setitem(sys.modules, "for_pickles", module)
        assert loads(pickled) == module.x
    second.x = 3  # type: ignore[attr-defined]
    assert loads(pickled) == 3
    del second.x  # type: ignore[attr-defined]
    assert both(pickled)[0] == both(pickled)[1]
    monkeypatch.delitem(sys.modules, "for_pickles")
    assert both(pickled)[0] == both(pickled)[1]


def test_a_module_that_is_being_imported(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is in the middle of it: its names are waited for."""
    (tmp_path / "slowly_imported.py").write_text(
        "import threading, sys\n"
        "sys.begun.set()\n"
        "sys.go_on.wait(20)\n"
        "x = 1\n"
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "begun", threading.Event(), raising=False)
    monkeypatch.setattr(sys, "go_on", threading.Event(), raising=False)
    importer = threading.Thread(target=__import__, args=("slowly_imported",))
    importer.start()
    assert sys.begun.wait(20)  # type: ignore[attr-defined]
    threading.Timer(0.2, sys.go_on.set).start()  # type: ignore[attr-defined]
    assert loads(b"\x80\x04\x8c\x0fslowly_imported\x8c\x01x\x93.") == 1
    importer.join()


heard: list[tuple[Any, ...]] = []
listening = False


def test_audit() -> None:
    """An audit hook is told of each class that is looked up, as often as by pickle itself."""
    global listening
    if not heard:
        sys.addaudithook(
            lambda event, args: (
                heard.append(args) if listening and event == "pickle.find_class" else None
            )
        )
    pickled = dumps(OBJECTS["task"])
    loads(pickled)
    counts = []
    for load in (loads, pickle.loads):
        heard.clear()
        listening = True
        load(pickled)
        listening = False
        counts.append(list(heard))
    assert counts[0] == counts[1] and len(counts[0]) == 2


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.sampled_from([operator.add, len, int, Plain, Point(1, 2), slice(1, 2)]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
        | st.builds(lambda x: Plain(a=x), inner)
        | st.builds(lambda x: slotted(a=x), inner)
        | st.builds(lambda x, y: Task("k", operator.add, x, k=y), inner, inner)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(plain, st.sampled_from([4, 5]))
def test_any_object(thing: Any, protocol: int) -> None:
    pickled = pickle.dumps(thing, protocol)
    assert repr(loads(pickled)) == repr(pickle.loads(pickled)) or "object at" in repr(thing)
    assert pickle.dumps(loads(pickled), protocol) == pickle.dumps(pickle.loads(pickled), protocol)


simple = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.frozensets(st.integers() | st.text(max_size=3), max_size=4)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=1000, deadline=None)
@given(simple, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4), st.data())
def test_damaged(thing: Any, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    """Bytes changed, left out and put in. No pickle here speaks of a function to begin with."""
    pickled = bytearray(pickle.dumps(thing, 4))
    for at, byte in changes:
        at = 2 + at % (len(pickled) - 2)
        how = data.draw(st.sampled_from(["change", "remove", "insert"]))
        if how == "change":
            pickled[at] = byte
        elif how == "remove" and len(pickled) > 3:
            del pickled[at]
        else:
            pickled.insert(at, byte)
    ours, stock = both(bytes(pickled))
    assert repr(ours) == repr(stock), bytes(pickled)
