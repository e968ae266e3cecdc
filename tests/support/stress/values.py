"""Values whose every method takes its time and lets other threads in; which of them are alive."""

from __future__ import annotations

import gc
import itertools
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: The values that have not been let go, in this process, by serial number.
alive: dict[int, weakref.ref[Awkward]] = {}

_serials = itertools.count()
_turns = itertools.count()


def give_way() -> None:
    """Let other threads run now; every now and then for longer than they need for a task."""
    time.sleep(0.0003 if next(_turns) % 97 == 0 else 0)


class Awkward:
    """A user's object. Equal to those of the same number, and heavy if asked for."""

    __slots__ = ("__weakref__", "load", "number", "ring", "serial")

    def __init__(self, number: int, size: int = 0) -> None:
        self.number = number
        self.load = bytearray(size)
        self.ring: object = None
        self.serial = next(_serials)
        alive[self.serial] = weakref.ref(self)
        give_way()

    def __del__(self) -> None:
        give_way()
        alive.pop(self.serial, None)
        give_way()

    def __eq__(self, other: object) -> bool:
        give_way()
        return isinstance(other, Awkward) and other.number == self.number

    def __hash__(self) -> int:
        give_way()
        return hash(self.number)

    def __sizeof__(self) -> int:
        give_way()
        return 64 + len(self.load)

    def __reduce__(self) -> Any:
        give_way()
        return Awkward, (self.number, len(self.load))

    def __repr__(self) -> str:
        give_way()
        return f"<Awkward {self.number}>"


class Unpicklable(Awkward):
    """Cannot be spilled nor sent."""

    __slots__ = ()

    def __reduce__(self) -> Any:
        give_way()
        raise TypeError("not to be pickled")


class AwkwardError(Exception):
    """An exception that holds such values, and itself by way of its traceback."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.held = Awkward(number)

    def __reduce__(self) -> Any:
        return AwkwardError, (self.held.number,)


def litter(number: int) -> None:
    """Leave something behind that only the garbage collector finds, and at any place."""
    first = Awkward(number)
    first.ring = [first]


_weather: list[tuple[float, tuple[int, int, int]]] = []


@contextmanager
def bad_weather(collect: bool = True) -> Iterator[None]:
    """Threads switch as often as they can; with `collect`, garbage is looked for all the time.

    For the whole process, until the last caller that asked for it has left.
    """
    _weather.append((sys.getswitchinterval(), gc.get_threshold()))
    sys.setswitchinterval(1e-6)
    if collect:
        gc.set_threshold(1, 50, 50)
    try:
        yield
    finally:
        interval, thresholds = _weather.pop()
        if not _weather:
            sys.setswitchinterval(interval)
            gc.set_threshold(*thresholds)
