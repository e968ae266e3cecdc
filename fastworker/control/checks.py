"""Checks of arguments; each returns the argument in its usual form.

They raise TypeError for a wrong type and ValueError for a wrong value. The message names the
argument and the value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args

from dask.core import validate_key
from dask.typing import Key
from distributed.worker_state_machine import TaskStateState

STATES: tuple[str, ...] = get_args(TaskStateState)


def a_key(key: Any) -> Key:
    """A Dask key that is not blank."""
    if key in (None, b"", "", ()):
        raise ValueError(f"a task needs a key; got a blank one: {key!r}")
    validate_key(key)
    return key


def some_keys(keys: Any) -> list[Key]:
    """A collection of keys, without repetitions. A single text is refused: it is one key."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise TypeError(f"expected a collection of keys, got {keys!r}")
    return list(dict.fromkeys(a_key(key) for key in keys))


def a_priority(priority: Any) -> tuple[int | float, ...]:
    """A number, or a tuple or list of numbers, that is not blank."""
    if priority is None or priority == () or priority == [] or priority == "":
        raise ValueError(f"a task needs a priority; got a blank one: {priority!r}")
    parts = priority if isinstance(priority, (tuple, list)) else (priority,)
    for part in parts:
        if not isinstance(part, (int, float)) or isinstance(part, bool):
            raise TypeError(f"a priority consists of numbers; got {priority!r}")
    return tuple(parts)


def an_address(address: Any) -> str:
    """The address of a worker."""
    if not isinstance(address, str):
        raise TypeError(f"the address of a worker must be a str, got {address!r}")
    if not address.strip():
        raise ValueError("the address of a worker is blank")
    return address


def holders(who_has: Any) -> dict[Key, list[str]]:
    """``{key: addresses of the workers that hold it}``. The addresses may be empty."""
    if who_has is None:
        return {}
    if not isinstance(who_has, Mapping):
        raise TypeError(f"who_has must map keys to addresses of workers, got {who_has!r}")
    result = {}
    for key, addresses in who_has.items():
        a_key(key)
        if isinstance(addresses, (str, bytes)) or not isinstance(addresses, Collection):
            raise TypeError(f"who_has[{key!r}] must be several addresses, got {addresses!r}")
        result[key] = list(dict.fromkeys(an_address(address) for address in addresses))
    return result


def a_state(state: Any) -> str:
    """The name of a state of a task."""
    if state not in STATES:
        raise ValueError(f"unknown task state {state!r}; expected one of {', '.join(STATES)}")
    name: str = state
    return name


def a_run_id(run_id: Any) -> int:
    """The number that the scheduler gave to one run of a task."""
    if not isinstance(run_id, int) or isinstance(run_id, bool):
        raise TypeError(f"run_id must be an int, got {run_id!r}")
    if run_id < 0:
        raise ValueError(f"run_id must not be negative, got {run_id}")
    return run_id
