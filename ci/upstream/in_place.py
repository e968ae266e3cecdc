"""Puts fastworker's classes where distributed keeps its own.

distributed binds its worker class in many places: module globals, defaults of parameters,
base classes of the helpers in ``distributed.utils_test``. A test sees the same class everywhere
only if the exchange happens after ``distributed`` is imported and before ``utils_test`` and the
test modules are.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

#: What can be exchanged: name -> for each class its name in stock's module and in ours.
CLASSES: dict[str, list[tuple[str, str, str]]] = {
    "worker": [("distributed.worker", "fastworker.worker", "Worker")],
    "state": [("distributed.worker_state_machine", "fastworker.core", "WorkerState")],
    "task": [("distributed.worker_state_machine", "fastworker.core", "TaskState")],
    "comm": [
        ("distributed.comm.tcp", "fastworker.comm.tcp", "TCP"),
        ("distributed.comm.tcp", "fastworker.comm.tcp", "TLS"),
        ("distributed.comm.tcp", "fastworker.comm.backend", "TCPConnector"),
        ("distributed.comm.tcp", "fastworker.comm.backend", "TLSConnector"),
        ("distributed.comm.tcp", "fastworker.comm.backend", "TCPListener"),
        ("distributed.comm.tcp", "fastworker.comm.backend", "TLSListener"),
        ("distributed.comm.tcp", "fastworker.comm.backend", "TCPBackend"),
        ("distributed.comm.tcp", "fastworker.comm.backend", "TLSBackend"),
    ],
}

#: Must be imported after the exchange, because its helpers subclass the worker.
TOO_EARLY = "distributed.utils_test"

_stock: list[type] = []


class CannotPlace(Exception):
    """The classes cannot be exchanged; the message says why in one line."""


def parse(text: str) -> list[str]:
    """Names out of ``"worker,state,task,comm"``, or none of them for ``"none"``.

    Raises ``ValueError`` for a name that is not in ``CLASSES``.
    """
    if text == "none":
        return []
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in CLASSES:
            raise ValueError(f"{name!r} is none of {', '.join(CLASSES)}, none")
    return names


def place(names: list[str]) -> list[str]:
    """Exchange the named classes in every module of distributed and dask.

    Returns the places that were changed, such as ``distributed.nanny.Worker``. Raises
    ``CannotPlace`` if it is too late, or if a class of ours is still stock's.
    """
    if not names:
        return []
    if TOO_EARLY in sys.modules:
        raise CannotPlace(f"{TOO_EARLY} is imported already")
    importlib.import_module("distributed")
    pairs = {}
    for stock_module, our_module, name in (item for part in names for item in CLASSES[part]):
        ours = getattr(importlib.import_module(our_module), name)
        stock = getattr(importlib.import_module(stock_module), name)
        if ours is stock:
            raise CannotPlace(f"{our_module}.{name} is distributed's own class")
        pairs[stock] = ours
        _stock.append(stock)
    places = sorted(_exchange(pairs))
    choose_comm(ours="comm" in names)
    return places


def choose_comm(ours: bool) -> None:
    """Register our comm or stock's for ``tcp://`` and ``tls://`` in this process.

    Before the first worker would, for tests that make none, and for good.
    """
    selection = importlib.import_module("fastworker.comm.selection")
    which = selection.NATIVE if ours else selection.TORNADO
    selection.use(which)
    others = {scheme for scheme, kind in selection.in_use().items() if kind != which}
    if others:
        raise CannotPlace(f"the comm of {', '.join(others)} is not {which}")


def left_behind() -> list[str]:
    """Module globals, those of the tests included, that still are an exchanged class."""
    stock = set(_stock)
    return [
        f"{module.__name__}.{attribute}"
        for module in list(sys.modules.values())
        if _belongs(module, "distributed", "dask", "test_")
        for attribute, value in list(vars(module).items())
        if isinstance(value, type) and value in stock
    ]


def _exchange(pairs: dict[type, type]) -> Iterator[str]:
    for module in list(sys.modules.values()):
        if not _belongs(module, "distributed", "dask"):
            continue
        for attribute, value in list(vars(module).items()):
            if isinstance(value, type) and value in pairs:
                setattr(module, attribute, pairs[value])
                yield f"{module.__name__}.{attribute}"
        for function in _functions(module):
            if _exchange_defaults(function, pairs):
                yield f"{module.__name__}.{function.__qualname__}()"


def _belongs(module: Any, *prefixes: str) -> bool:
    # Some packages put objects into sys.modules that only look like modules.
    return isinstance(module, ModuleType) and module.__name__.startswith(prefixes)


def _functions(module: ModuleType) -> Iterator[FunctionType]:
    """Functions and methods that the module defines."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) != module.__name__:
            continue
        members = vars(value).values() if isinstance(value, type) else (value,)
        for member in members:
            member = getattr(member, "__func__", member)
            if isinstance(member, FunctionType):
                yield member


def _exchange_defaults(function: FunctionType, pairs: dict[type, type]) -> bool:
    def exchange(value: Any) -> Any:
        return pairs.get(value, value) if isinstance(value, type) else value

    positional = tuple(map(exchange, function.__defaults__ or ()))
    keyword = {key: exchange(value) for key, value in (function.__kwdefaults__ or {}).items()}
    changed = positional != (function.__defaults__ or ()) or keyword != (
        function.__kwdefaults__ or {}
    )
    if changed:
        function.__defaults__ = positional or None
        function.__kwdefaults__ = keyword or None
    return changed
