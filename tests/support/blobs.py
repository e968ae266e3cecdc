"""Values of a given size for stores, some of which refuse to be pickled."""

from __future__ import annotations

import sys
from typing import Any

OVERHEAD = sys.getsizeof(
    type("Empty", (), {"__slots__": ("__weakref__", "x"), "__sizeof__": lambda self: 0})()
)


class Refused(Exception):
    """What pickling a `Blob` raises that is not to be pickled."""


class Blob:
    """Weighs `nbytes`, whatever is in it; two with the same name are equal."""

    __slots__ = ("__weakref__", "name", "nbytes", "pickles")

    def __init__(self, name: Any, nbytes: int, pickles: bool = True) -> None:
        self.name = name
        self.nbytes = nbytes
        self.pickles = pickles

    def __sizeof__(self) -> int:
        return self.nbytes - OVERHEAD

    def __reduce__(self) -> Any:
        if not self.pickles:
            raise Refused(self.name)
        return type(self), (self.name, self.nbytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and (self.name, self.nbytes) == (other.name, other.nbytes)

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Blob({self.name!r}, {self.nbytes}{'' if self.pickles else ', pickles=False'})"


class Bare(Blob):
    """The same for which there are no weak references."""

    __slots__ = ()


class Text(str):
    """A key that is equal to a plain one but not plain: hashing it runs Python code."""

    __slots__ = ()

    def __hash__(self) -> int:
        return super().__hash__()
