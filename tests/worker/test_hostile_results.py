"""Results and errors whose own code fails, where a worker looks at them: it lives on."""

from __future__ import annotations

import asyncio
import math

import pytest
from dask.sizeof import sizeof
from distributed import wait

import fastworker
from support.in_process import cluster

#: What the `sizeof` of this process's `Sized` says.
SIZES: dict[str, object] = {}


class Sized:
    def __init__(self, name):
        self.name = name


@sizeof.register(Sized)
def size_of_sized(sized):
    return SIZES[sized.name]


class Half:
    """A number, but none of Python's."""

    def __float__(self):
        return 1000.5


def is_sized(sized):
    return type(sized) is Sized


NUMBERS = {
    "float": (1500.0, 1500),
    "half": (Half(), 1000),
    "bool": (True, 1),
    "negative": (-1, 0),
    "negative float": (-0.5, 0),
    "nan": (math.nan, 0),
    "infinite": (math.inf, 1 << 50),
    "beyond 64 bits": (1 << 70, 1 << 50),
}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("way", ["thread", "loop", "scatter"])
@cluster()
async def test_sizes_that_are_odd_numbers(c, s, a, b, name, way):
    """distributed takes any number: the result can be used here and elsewhere."""
    SIZES[name], expected = NUMBERS[name]
    if way == "scatter":
        if name in ("half", "beyond 64 bits"):
            pytest.skip("distributed cannot tell the client such a size")
        x = await c.scatter(Sized(name), workers=[a.address])
    else:
        x = c.submit(Sized if way == "thread" else sized_on_loop, name, workers=[a.address])
    await wait(x)
    # distributed's execution hands on what it was told; what is told to others is whole
    assert a.state.tasks[x.key].nbytes == expected
    if expected < 1 << 50:  # or the scheduler finds no worker that is large enough
        assert await c.submit(is_sized, x, workers=[b.address])
    assert type(await x) is Sized
    assert a.state.nbytes == expected


async def sized_on_loop(name):
    return Sized(name)


NO_NUMBERS = {"none": None, "text": "12", "complex": 1j, "list": []}


@pytest.mark.parametrize("name", NO_NUMBERS)
@pytest.mark.parametrize("data", [None, dict])
@cluster(nthreads=[])
async def test_sizes_that_are_no_numbers(c, s, name, data):
    SIZES[name] = NO_NUMBERS[name]
    async with fastworker.Worker(s.address, nthreads=1, data=data) as a:
        with pytest.raises(TypeError, match="must be a number, not"):
            await c.submit(Sized, name)
        assert await c.submit(int, 3) == 3
        assert list(s.workers) == [a.address]


class Fails(RuntimeError):
    pass


class NothingOfIt(type):
    """Of classes that cannot be asked for anything."""

    def __getattribute__(cls, name):
        raise Fails(name)


class NoName(type):
    @property
    def __name__(cls):
        raise Fails("name")


class NoHash(type):
    __hash__ = None  # type: ignore[assignment]


class HashFails(type):
    def __hash__(cls):
        raise Fails("hash")


def result_of(metaclass):
    """The metaclass and its classes come out of the pickle anew: they are of no module."""
    return metaclass("Result", (), {})()


class NotText:
    pass


NotText.__module__ = "not \ud800 text"


class EveryQuestionFails:
    def __eq__(self, other):
        raise Fails("eq")

    __bool__ = __hash__ = __len__ = __repr__ = __sizeof__ = __eq__  # type: ignore[assignment]


class NotEvenAttributes:
    def __getattribute__(self, name):
        raise Fails(name)


def ask(result):
    return type(result).__name__


@pytest.mark.parametrize("make", [NotText, EveryQuestionFails])
@cluster()
async def test_results_whose_code_fails(c, s, a, b, make):
    x = c.submit(make, workers=[a.address])
    assert await c.submit(ask, x, workers=[b.address]) == make.__name__
    assert type(await x) is make
    assert len(s.workers) == 2


@pytest.mark.parametrize("metaclass", [NoName, NoHash, HashFails])
@cluster()
async def test_results_whose_types_cannot_be_described(c, s, a, b, metaclass):
    x = c.submit(result_of, metaclass, workers=[a.address])
    await wait(x)
    assert x.status == "finished"
    assert s.tasks[x.key].type  # a name, whatever it is
    assert len(s.workers) == 2


@cluster()
async def test_a_result_that_cannot_be_asked_anything(c, s, a, b):
    """An error of the task, as in distributed: to log that it has no size takes its type's name."""
    x = c.submit(result_of, NothingOfIt, workers=[a.address])
    with pytest.raises(Fails):
        await x
    y = c.submit(NotEvenAttributes, workers=[a.address])
    await wait(y)
    assert y.status == "finished"
    assert len(s.workers) == 2


class NoRepr(Exception):
    def __repr__(self):
        raise Fails("repr")


class NoStr(Exception):
    def __str__(self):
        raise Fails("str")


class NoPickle(Exception):
    def __reduce__(self):
        raise Fails("reduce")


class NoClass(Exception):
    @property
    def __class__(self):
        raise Fails("class")


class NoTraceback(Exception):
    @property
    def __traceback__(self):
        raise Fails("traceback")


class NoTruth(Exception):
    def __bool__(self):
        raise Fails("bool")


class NotAnException(BaseException):
    pass


class NothingAtAll(Exception):
    """Not even what was raised by looking at it can be looked at."""

    def __repr__(self):
        raise self

    __str__ = __reduce__ = __repr__


def throw(error):
    raise error


@pytest.mark.parametrize("error, arrives", [
    (NoRepr, Fails),
    (NoStr, Fails),
    (NoPickle, Exception),
    (NoClass, Exception),
    (NoTraceback, Exception),
    (NoTruth, NoTruth),
    (NotAnException, NotAnException),
    (NothingAtAll, RuntimeError),
    (GeneratorExit, GeneratorExit),
    (asyncio.CancelledError, asyncio.CancelledError),
])  # fmt: skip
@cluster()
async def test_errors_whose_code_fails(c, s, a, b, error, arrives):
    x = c.submit(throw, error, workers=[a.address], key="x")
    y = c.submit(ask, x, workers=[a.address])
    await wait([x, y])
    assert x.status == y.status == "error"
    assert type(x._state.exception) is arrives
    assert await c.submit(int, 3, workers=[a.address]) == 3
    assert len(s.workers) == 2
