"""A method of one object, replaced for a while."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any


class Shadow:
    """Puts ``replacement`` in the place of the method ``name`` of ``owner``, until ``remove``.

    ``replacement`` is called with what the method was before (the class's own method, or what
    another patch has put into the object), and with the caller's arguments.
    """

    def __init__(self, owner: Any, name: str, replacement: Callable[..., Any]) -> None:
        self._name = name
        self._former: Callable[..., Any] | None = vars(owner).get(name)
        before = self._former or partial(getattr(type(owner), name), owner)
        self._patch: Callable[..., Any] | None = partial(replacement, before)
        setattr(owner, name, self._patch)

    def remove(self, owner: Any) -> None:
        """Restore the method, unless another patch lies over this one; that one goes on calling it.

        The object is not held any more.
        """
        if self._patch is not None and vars(owner).get(self._name) is self._patch:
            delattr(owner, self._name)
            if self._former is not None:
                setattr(owner, self._name, self._former)
        self._patch = self._former = None
