"""The parts of a task: unpickling them, checking them, building a task of them, running it.

Plain functions that know nothing of a worker; any thread may call them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any

import dask
from dask._task_spec import Alias, Dict, GraphNode, List, Set, Task, Tuple
from dask.typing import Key
from dask.utils import funcname, parse_bytes
from distributed.core import error_message
from distributed.metrics import time
from distributed.protocol import pickle
from distributed.sizeof import safe_sizeof
from distributed.utils import iscoroutinefunction


def deserialize_task(
    function: Any = None, args: Any = None, kwargs: Any = None, task: Any = None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Bring a task into the form ``(function, args, kwargs)``.

    Each part may be the object or its pickle, as bytes. In place of the parts, ``task`` may be a
    whole task: a ``dask`` ``Task``, a tuple ``(function, *args)``, or the pickle of either.

    Raises
    ------
    Exception
        Any error of unpickling.
    TypeError
        The parts are not those of a task.
    """
    if task is not None:
        if function is not None or args is not None or kwargs is not None:
            raise TypeError("give either a whole task or its function, args and kwargs, not both")
        task = unpickled(task)
        if isinstance(task, Task):
            function, args, kwargs = task.func, task.args, task.kwargs
        elif type(task) is tuple and task:
            function, args = task[0], task[1:]
        else:
            raise TypeError(f"not a task: {task!r:.200}")
    function, args, kwargs = unpickled(function), unpickled(args), unpickled(kwargs)
    return check_task(function, args, kwargs)


def unpickled(part: Any) -> Any:
    """``part``, unpickled if it is bytes. Raises any error of unpickling."""
    if isinstance(part, (bytes, bytearray, memoryview)):
        return pickle.loads(part)
    return part


def check_task(
    function: Any, args: Any = None, kwargs: Any = None
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The parts of a task, ready to be called. Raises TypeError if they cannot be called."""
    if not callable(function) or isinstance(function, GraphNode):
        raise TypeError(f"a task needs a callable, got {function!r:.200}")
    if args is None:
        args = ()
    elif isinstance(args, list):
        args = tuple(args)
    elif not isinstance(args, tuple):
        raise TypeError(f"args of a task must be a tuple or a list, got {args!r:.200}")
    if kwargs is None:
        kwargs = {}
    elif not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise TypeError(f"kwargs of a task must map names to values, got {kwargs!r:.200}")
    return function, args, dict(kwargs)


def default_nbytes() -> int:
    """The size in bytes that Dask assumes for data of unknown size."""
    nbytes: int = parse_bytes(dask.config.get("distributed.scheduler.default-data-size"))
    return nbytes


def build_task(
    key: Key,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dependencies: Collection[Key],
) -> Task:
    """A runnable task.

    An argument that equals one of ``dependencies`` stands for that key's data, also inside of
    lists, tuples, sets and dict values.
    """
    if dependencies:
        args = tuple(_refer(arg, dependencies) for arg in args)
        kwargs = {name: _refer(arg, dependencies) for name, arg in kwargs.items()}
    return Task(key, function, *args, **kwargs)


def _refer(argument: Any, keys: Collection[Key]) -> Any:
    """``argument`` with its keys replaced by references; the same object if it has none."""
    kind = type(argument)
    if kind in (str, int, float, tuple):
        try:
            if argument in keys:
                return Alias(argument)
        except TypeError:  # a tuple of unhashable things is no key
            pass
    if kind in _CONTAINERS:
        parts = [_refer(part, keys) for part in argument]
        if any(new is not old for new, old in zip(parts, argument, strict=True)):
            return _CONTAINERS[kind](*parts)
    elif kind is dict:
        values = {name: _refer(value, keys) for name, value in argument.items()}
        if any(values[name] is not value for name, value in argument.items()):
            return Dict(values)
    return argument


_CONTAINERS: dict[type, Callable[..., GraphNode]] = {list: List, set: Set, tuple: Tuple}


def apply_function(
    function: Callable[..., Any],
    args: Any = (),
    kwargs: Any = None,
    *,
    time_delay: float = 0.0,
) -> dict[str, Any]:
    """Call ``function(*args, **kwargs)`` in this thread and return the outcome.

    Parameters
    ----------
    time_delay
        Seconds to add to this machine's clock to get the scheduler's time.

    Returns
    -------
    A dict. After success: ``status`` "OK", ``op`` "task-finished", ``result``, ``nbytes`` (its
    estimated size in bytes) and ``type`` (None for None). After an exception: ``status`` "error",
    ``op`` "task-erred", ``actual_exception``, ``exception`` and ``traceback`` ready to be sent,
    ``exception_text`` and ``traceback_text``. In both: ``start`` and ``stop`` in seconds since the
    epoch, and ``thread``, the identity of the thread.

    Raises
    ------
    TypeError
        The parts cannot be called, or the function is a coroutine function.
    SystemExit, KeyboardInterrupt
        The function raised it: these are for the process, not for the task.
    """
    function, args, kwargs = check_task(function, args, kwargs)
    if iscoroutinefunction(function):
        raise TypeError(f"{funcname(function)} is a coroutine function; it runs on the event loop")
    outcome: dict[str, Any]
    start = time()
    try:
        result = function(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        stop = time()
        outcome = {**error_message(error), "op": "task-erred"}
        # Without this frame, which holds the outcome
        assert error.__traceback__ is not None
        outcome["actual_exception"] = error.with_traceback(error.__traceback__.tb_next)
    else:
        stop = time()
        outcome = {
            "op": "task-finished",
            "status": "OK",
            "result": result,
            "nbytes": safe_sizeof(result),
            "type": None if result is None else type(result),
        }
    outcome["start"] = start + time_delay
    outcome["stop"] = stop + time_delay
    outcome["thread"] = threading.get_ident()
    return outcome
